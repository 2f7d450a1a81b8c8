"""Whether everything is there that a night needs. Every check is bounded in time and leaves nothing behind."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import unquote

from .config import RunConfig
from .errors import GanpipeError, of_the_disk
from .evaluate.known import OF_DATA
from .prepareconfig import PointsConfig
from .settings import SQLITE, Settings
from .storage import Conflict, FileStore, open_store

SECONDS = 12.0
"""For one check; what has not answered by then counts as away."""
LOW_GB, FULL_GB = 10.0, 1.0
"""Free space, 10^9 bytes: below the first it is a warning, below the second a problem."""


Verdict = Literal["ok", "warning", "problem"]


@dataclass(frozen=True)
class Check:
    """One thing looked at."""

    verdict: Verdict
    what: str
    finding: str
    """What was found; for anything but `ok`, how to mend it as well."""
    seconds: float
    """That it took."""


class Warn(Exception):
    """A finding that need not stop a night."""


def examine(config: RunConfig | None, settings: Settings) -> list[Check]:
    """All checks, and with a configuration those of its data and its weights."""
    import torch

    open_store(settings.store)
    if settings.tracking_uri.startswith("http"):  # libraries take their time, which is no check's
        import mlflow  # noqa: F401
    if config is not None:
        from .prepare import sources  # noqa: F401
    if config is not None and config.evaluate.extractor not in OF_DATA:
        from .evaluate import extractors  # noqa: F401
    checks: list[tuple[str, Callable[[], str]]] = [
        ("python", _python),
        ("torch", lambda: f"{torch.__version__}, {_device()}"),
        ("disk", lambda: _disk(settings)),
        ("store", lambda: _store(settings)),
        ("tracking", lambda: _tracking(settings)),
        ("code", _code),
    ]
    if config is not None:
        checks.append(("data", lambda: _data(config)))
        checks.append(("weights", lambda: _weights(config, settings)))
    return [_examined(what, check) for what, check in checks]


def _examined(what: str, check: Callable[[], str]) -> Check:
    unanswered = f"no answer within {SECONDS:g} s; see that what it is on runs and can be reached"
    answer: list[tuple[Verdict, str]] = [("problem", unanswered)]

    def ask() -> None:
        try:
            answer.append(("ok", check()))
        except Warn as warning:
            answer.append(("warning", str(warning)))
        except GanpipeError as error:
            answer.append(("problem", str(error)))
        except Exception as error:
            answer.append(("problem", str(of_the_disk(error) or f"{type(error).__name__}: {error}")))

    began = time.monotonic()
    thread = threading.Thread(target=ask, daemon=True)  # one that hangs is left behind
    thread.start()
    thread.join(SECONDS)
    return Check(answer[-1][0], what, answer[-1][1], round(time.monotonic() - began, 3))


def _python() -> str:
    version = platform.python_version()
    if not (3, 11) <= sys.version_info[:2] < (3, 14):
        raise Warn(f"{version}: ganpipe is tested on 3.11 to 3.13; make its environment with one of them")
    return f"{version} at {sys.executable}"


def _device() -> str:
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        free, total = torch.cuda.mem_get_info()
        return f"{', '.join(names)}, {free / 1e9:.1f} of {total / 1e9:.1f} GB free"
    if shutil.which("nvidia-smi"):
        raise Warn(
            f"{torch.__version__} sees no GPU though this machine has NVIDIA's tools: training would run on the CPU; "
            "install a driver that fits this torch, or a torch built for the driver"
        )
    return f"on the CPU, {torch.get_num_threads()} threads"


def _disk(settings: Settings) -> str:
    """Where runs are worked on, and where a store on files lies."""
    places = {"GANPIPE_HOME": settings.local_folder()}
    store = open_store(settings.store)
    if isinstance(store, FileStore):
        places["GANPIPE_STORE"] = next(path for path in (store.root, *store.root.parents) if path.exists())
    probe = settings.home / f".doctor-{uuid.uuid4().hex}"
    try:
        probe.write_bytes(b"x")
    finally:
        probe.unlink(missing_ok=True)
    free = {name: shutil.disk_usage(path).free / 1e9 for name, path in places.items()}
    found = ", ".join(f"{gigabytes:.1f} GB free at {name} ({places[name]})" for name, gigabytes in free.items())
    mend = "free some space (`ganpipe gc` removes what need not be kept), or move it to another disk"
    if min(free.values()) < FULL_GB:
        raise GanpipeError(f"{found}: too little; {mend}")
    if min(free.values()) < LOW_GB:
        raise Warn(f"{found}: may not last; {mend}")
    return found


def _store(settings: Settings) -> str:
    """Write, read back, a conditional write that must be refused; and away with it."""
    store, folder, data = open_store(settings.store), f"doctor-{uuid.uuid4().hex}", uuid.uuid4().bytes
    key = f"{folder}/probe"
    store.write_bytes(key, data)
    try:
        if store.read_bytes(key) != data:
            raise GanpipeError(f"{store.uri} does not give back what was written; set GANPIPE_STORE to a sound place")
        try:
            store.create(key, b"")
        except Conflict:
            pass
        else:
            raise GanpipeError(
                f"{store.uri} lets two writers win; set GANPIPE_STORE to a place with conditional writes"
            )
        store.compare_and_set(key, b"moved", data)
    finally:
        store.remove(folder)
    return f"{store.uri}: written, read back, conditional writes are honoured"


def _tracking(settings: Settings) -> str:
    uri = settings.tracking_uri
    if not settings.tracking_on:
        raise Warn("off: runs can be trained and evaluated, but not registered; unset GANPIPE_TRACKING_URI")
    if uri.startswith(SQLITE):
        return _sqlite(Path(unquote(uri.removeprefix(SQLITE).partition("?")[0])))
    if uri.startswith(("http://", "https://")):
        from mlflow import MlflowClient

        from .tracking import mlflow_errors, short_timeouts

        try:
            with short_timeouts():
                MlflowClient(tracking_uri=uri).search_experiments(max_results=1)
        except mlflow_errors() as error:
            reason = str(error).splitlines()[0]
            raise GanpipeError(
                f"{uri} does not answer ({reason:.200}); start it, or set GANPIPE_TRACKING_URI"
            ) from error
        return f"{uri} answers"
    from sqlalchemy import create_engine, text
    from sqlalchemy.exc import SQLAlchemyError

    try:
        with create_engine(uri).connect() as connection:
            connection.execute(text("SELECT 1"))
    except (SQLAlchemyError, ImportError) as error:
        raise GanpipeError(f"the database of GANPIPE_TRACKING_URI does not answer: {type(error).__name__}") from error
    return "the database answers"


def _sqlite(path: Path) -> str:
    """Without making the file, or the tables that MLflow would make in it."""
    import sqlite3
    from contextlib import closing

    if not path.exists():
        parent = next(parent for parent in path.absolute().parents if parent.exists())
        if not os.access(parent, os.W_OK):
            raise GanpipeError(f"{path} cannot be made; set GANPIPE_TRACKING_URI to a place that can be written to")
        return f"{path} will be made by the first run"
    if not os.access(path, os.W_OK):
        raise GanpipeError(f"{path} cannot be written to; mend its permissions, or set GANPIPE_TRACKING_URI")
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
            (runs,) = database.execute("SELECT count(*) FROM runs").fetchone()
    except sqlite3.Error as error:
        raise GanpipeError(
            f"{path} is no database of MLflow's ({error}); move it away, or set GANPIPE_TRACKING_URI"
        ) from error
    return f"{path}, {runs} runs"


def _code() -> str:
    """Nothing needs git; runs record the commit where there is one."""
    from .night import git_state

    state = git_state()
    if not state:
        return "no git repository here: runs record no commit, and need none"
    return f"commit {state['sha'][:12]}" + (" with uncommitted changes" if state["dirty"] else "")


def _data(config: RunConfig) -> str:
    from .prepare.sources import find

    if isinstance(config.prepare, PointsConfig):
        return f"prepare.source: {config.prepare.source.name} is drawn, not found"
    return f"prepare.source: {find(config.prepare.source).place}"


def _weights(config: RunConfig, settings: Settings) -> str:
    extractor = config.evaluate.extractor
    if extractor in OF_DATA:
        return f"evaluate.extractor {extractor} needs none"
    from .evaluate.known import KNOWN
    from .evaluate.weights import WITHOUT_FILE, in_store, local_file, nowhere

    if extractor not in KNOWN or extractor in WITHOUT_FILE:
        from .evaluate.extractors import find_weights

        found = find_weights(extractor, None, open_store(settings.store), settings)
        return f"{extractor}: state of sha256 {found.sha256[:12]}"
    store = open_store(settings.store)
    path = local_file(extractor, settings)
    if path is None and not in_store(extractor, store):
        raise nowhere(extractor, store)
    return f"{extractor}: {path[0] if path else f'{store.uri}/extractors/{extractor}'}"
