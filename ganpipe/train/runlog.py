"""A run's own log: what its training said, with UTC times, over all resumes: `log.txt` beside its metrics."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import GanpipeError, of_the_disk
from ..storage import Store
from .upload import StillWaiting

LOG = "log.txt"


@contextmanager
def run_log(store: Store, run_id: str, work: Path) -> Iterator[None]:
    """Whatever ganpipe logs within the block is appended to `<work>/log.txt`, and how the block ends as well.

    Begins with what the store has; the file is uploaded with every checkpoint, and in the end.
    """
    path, key = work / LOG, f"runs/{run_id}/{LOG}"
    with suppress(FileNotFoundError):
        there = store.read_bytes(key)
        if not (path.exists() and path.read_bytes().startswith(there)):  # another machine went on
            path.write_bytes(there)
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(_Dated("%(asctime)s %(message)s", "%Y-%m-%dT%H:%M:%SZ"))
    handler.setLevel(logging.INFO)
    logger = logging.getLogger("ganpipe")
    level = logger.level
    logger.setLevel(min(level or logging.INFO, logging.INFO))
    logger.addHandler(handler)
    away = False
    try:
        yield
    except Exception as error:
        away = isinstance(error, StillWaiting)
        text = str(of_the_disk(error) or error) or type(error).__name__
        handler.handle(logging.LogRecord(__name__, logging.ERROR, __file__, 0, text, (), None))
        raise
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        handler.close()
        if not away:
            with suppress(GanpipeError, OSError):
                store.write_bytes(key, path.read_bytes())


class _Dated(logging.Formatter):
    converter = staticmethod(time.gmtime)

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        if record.levelno > logging.INFO:
            moment, _, message = text.partition(" ")
            text = f"{moment} {record.levelname.lower()}: {message}"
        return text
