"""All pictures of a source to pixels, on all cores; those that were prepared before are not decoded again."""

from __future__ import annotations

import hashlib
import io
import logging
import math
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ..errors import InputError, WorkFailed
from ..prepareconfig import PrepareConfig
from ..spec import WHITE, Column
from .earlier import Earlier
from .found import MAX_BYTES, Columns, Contents, Picture, Remote
from .images import UnreadableImage, read_image, read_natural
from .pairs import read_pair

log = logging.getLogger(__name__)

CHUNK_PICTURES = 32
CHUNK_BYTES = 8 << 20
"""A chunk, what a process is handed at a time, ends at either limit."""
CHUNKS_AHEAD = 3
"""Chunks that wait for each process, so that none ever waits for work."""
READERS = 16
"""Threads that read pictures from elsewhere: such a one waits most of its time."""
FEW = 2048
"""Up to so many pictures are decoded in threads: starting processes would take longer than they save."""
NAMED_FILES = 20
TOO_LARGE = f"the file has more than {MAX_BYTES >> 30} GiB"


@dataclass(frozen=True)
class Rows:
    """Prepared rows, in the order of the source, with the pixels in a file so that memory stays bounded."""

    keys: list[bytes]
    """`Picture.key` of each row."""
    hashes: list[bytes]
    """sha256 of each row's values."""
    columns: Columns
    values: np.ndarray
    """(N, *shape): memory-mapped uint8 pixels, or points. Of pairs (N, 2, *shape)."""
    column: Column
    """What they are; without shards yet."""
    decoded: int
    """Rows that were decoded; the others were taken from an earlier data set."""
    skipped: int
    """Unreadable images that were left out."""
    names: tuple[str, ...]
    """Of the columns that the values are of: one, or two of pairs."""

    def by_name(self) -> dict[str, np.ndarray]:
        """Column -> its values, (N, *shape)."""
        if len(self.names) == 1:
            return {self.names[0]: self.values}
        return {name: self.values[:, number] for number, name in enumerate(self.names)}


def decode(
    contents: Contents,
    config: PrepareConfig,
    spool: Path,
    earlier: Earlier | None = None,
    pair: tuple[str, str] = ("source", "target"),
    derive: str | None = None,
) -> Rows:
    """Pixels of every row into the file `spool`.

    Rows are pairs when the configuration says so, or when `derive`, a key of DERIVED, is given in its place; `pair` are
    then the columns of what is derived and what it is derived from, or of source and target.
    Raises InputError naming the unreadable images with their reasons, or, with `on_corrupt: skip`, logs them.
    """
    shape: tuple[int, ...] = (config.channels, config.resolution, config.resolution)
    unusual: dict[str, Any] = {
        "direction": None if contents.halves == "AtoB" else contents.halves,
        "background": None if config.background == WHITE else config.background,
    }
    column = Column(kind="image", dtype="uint8", shape=shape, range=(0, 255), shards=(), **unusual)
    read: dict[str, Any] = {
        "resolution": config.resolution,
        "channels": config.channels,
        "crop": config.crop,
        "background": config.background,
        "least": 0 if contents.enlarged and config.enlarges else config.resolution,
    }
    names: tuple[str, ...] = ("image",)
    derive = derive or config.derive
    if config.paired or derive is not None:
        names, shape = pair, (2, *shape)
        rule = partial(pixels_of, read=partial(read_pair, **read, halves=contents.halves, derive=derive))
    else:
        rule = partial(pixels_of, read=partial(read_image, **read))
    most = min(CHUNK_PICTURES, max(1, CHUNK_BYTES // math.prod(shape)))
    keys: list[bytes] = []
    hashes: list[bytes] = []
    kept: list[int] = []
    unreadable: list[str] = []
    decoded = seen = 0
    with spool.open("wb") as stream, closing(decoded_in_order(contents, rule, most, earlier)) as pictures:
        for picture, pixels, taken in pictures:
            if isinstance(pixels, str):
                unreadable.append(f"{picture.name}: {pixels}")
            else:
                stream.write(pixels)
                keys.append(picture.key)
                hashes.append(hashlib.sha256(pixels).digest())
                kept.append(seen)
                decoded += not taken
            seen += 1

    if unreadable and config.on_corrupt == "fail":
        raise InputError(
            f"{len(unreadable):,} of {contents.count:,} images cannot be read:\n  {listing(unreadable)}\n"
            "mend or remove them, or set prepare.on_corrupt to `skip`"
        )
    if unreadable:
        log.warning("left out %s unreadable images:\n  %s", f"{len(unreadable):,}", listing(unreadable))
    return Rows(
        keys=keys,
        hashes=hashes,
        columns=contents.columns.of_rows(kept),
        values=np.memmap(spool, np.uint8, "r", shape=(len(hashes), *shape))
        if hashes
        else np.empty((0, *shape), np.uint8),
        column=column,
        decoded=decoded,
        skipped=len(unreadable),
        names=names,
    )


def listing(unreadable: list[str]) -> str:
    """The first of many lines, and how many more there are."""
    shown = unreadable[:NAMED_FILES]
    more = len(unreadable) - len(shown)
    return "\n  ".join([*shown, f"... and {more:,} more"] if more else shown)


# --- on all cores ------------------------------------------------------------------------------------------------

Known = list[bytes | str | None]
"""For each picture of a chunk its pixels in an earlier data set, or why it is not read; None: to be decoded."""
Prepared = tuple[Picture, bytes | str, bool]
"""A picture, its pixels or why there are none, and whether they were taken from an earlier data set."""
Encoded = bytes | str | tuple[bytes, bytes] | tuple[str, str]
"""What an image is read from: the bytes or the path of a file, or two of a pair."""
Rule = Callable[[Sequence[Any]], list[bytes | str]]
"""From image files (bytes or paths) to their pixels, or the reasons why there are none. Sent to other processes."""


def decoded_in_order(
    contents: Contents, rule: Rule, most: int = CHUNK_PICTURES, earlier: Earlier | None = None
) -> Generator[Prepared, None, None]:
    """Every picture with its pixels by the rule, which is handed at most so many at a time; with a progress bar.

    Close it when it is left before its end: processes work for it.
    """
    with (
        _workers(contents.count) as (pool, workers),
        _threads(READERS) as readers,
        tqdm(total=contents.count, desc="decoding", unit="image", delay=1, leave=False, disable=None) as progress,
    ):
        chunks = _read_ahead(readers, _chunks(contents.pictures(), most), earlier)
        for chunk in _chunks_in_order(pool, workers, chunks, rule):
            yield from chunk
            progress.update(len(chunk))


def _read_ahead(
    readers: Executor, chunks: Iterator[list[Picture]], earlier: Earlier | None
) -> Iterator[tuple[list[Picture], Known]]:
    """Chunks with what is known of them; what is not known and lies elsewhere is read while chunks before it decode."""
    waiting: deque[tuple[list[Picture], Known, dict[int, Future[bytes]]]] = deque()

    def here() -> tuple[list[Picture], Known]:
        chunk, known, reads = waiting.popleft()
        for number, read in reads.items():
            chunk[number] = chunk[number]._replace(data=read.result())
        return chunk, known

    for chunk in chunks:
        known: Known = [earlier.pixels(picture.key) if earlier else None for picture in chunk]
        reads = {}
        for number, (picture, pixels) in enumerate(zip(chunk, known, strict=True)):
            if isinstance(picture.data, Remote) and pixels is None:
                if picture.data.size > MAX_BYTES:
                    known[number] = TOO_LARGE
                else:
                    reads[number] = readers.submit(picture.data.read)
        waiting.append((chunk, known, reads))
        if not reads or len(waiting) > CHUNKS_AHEAD:
            yield here()
    while waiting:
        yield here()


def _chunks_in_order(
    pool: Executor, workers: int, chunks: Iterator[tuple[list[Picture], Known]], rule: Rule
) -> Iterator[list[Prepared]]:
    waiting: deque[tuple[list[Picture], Known, Future[list[bytes | str]] | None]] = deque()

    def finished() -> list[Prepared]:
        chunk, known, future = waiting.popleft()
        try:
            new = iter(future.result() if future else ())
        except BrokenExecutor as error:
            raise WorkFailed(
                "a process that decodes images was killed, most likely because memory ran out; free some, or look for "
                "very large images"
            ) from error
        return [
            (picture, next(new) if pixels is None else pixels, pixels is not None)
            for picture, pixels in zip(chunk, known, strict=True)
        ]

    for chunk, known in chunks:
        new = [picture.data for picture, pixels in zip(chunk, known, strict=True) if pixels is None]
        waiting.append((chunk, known, pool.submit(rule, new) if new else None))
        if len(waiting) > workers * CHUNKS_AHEAD:
            yield finished()
    while waiting:
        yield finished()


def _chunks(pictures: Iterator[Picture], most: int) -> Iterator[list[Picture]]:
    chunk: list[Picture] = []
    size = 0
    for picture in pictures:
        chunk.append(picture)
        size += len(picture.data)
        if len(chunk) == most or size > CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def pixels_of(pictures: Sequence[Encoded], read: Callable[[Any], np.ndarray]) -> list[bytes | str]:
    """For each image file, or pair of them, its pixels as they are `read`, or the reason why there are none."""
    return [_read_by(lambda data: read(data).tobytes(), picture) for picture in pictures]


def _read_by(rule: Callable[[Any], bytes], picture: Encoded) -> bytes | str:
    try:
        return rule(tuple(map(_bytes_of, picture)) if isinstance(picture, tuple) else _bytes_of(picture))
    except UnreadableImage as error:
        return str(error)
    except OSError as error:
        return f"cannot be read: {error.strerror}"


def _bytes_of(file: bytes | str) -> bytes:
    if isinstance(file, bytes):
        return file
    if Path(file).stat().st_size > MAX_BYTES:
        raise UnreadableImage(TOO_LARGE)
    return Path(file).read_bytes()


def natural_pixels_of(pictures: Sequence[Encoded]) -> list[bytes | str]:
    """Like `pixels_of`, of every image in its own size and channels: `npy` bytes of uint8 (1 or 3, H, W)."""
    return [_read_by(_natural_pixels, picture) for picture in pictures]


def _natural_pixels(data: bytes) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, read_natural(data), allow_pickle=False)
    return buffer.getvalue()


@contextmanager
def _workers(pictures: int) -> Iterator[tuple[Executor, int]]:
    """Threads, or processes of which none outlives this one or a block that ends in an error, and their number."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if pictures <= FEW:
        with _threads(cores) as threads:
            yield threads, cores
        return
    # Not forked: the threads of torch and of progress bars may hold locks that a fork would never see released.
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    with ours, theirs, _Processes(cores, context, _begin_worker, (theirs,)) as processes:
        try:
            yield processes, cores
        except BaseException:
            ours.close()
            raise


class _Processes(ProcessPoolExecutor):
    """A pool whose processes start whole or not at all."""

    def submit(self, *task: Any, **options: Any) -> Future[Any]:
        with _uninterrupted():
            return super().submit(*task, **options)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ctrl-C waits until the end of the block, and never reaches a process that was started in it.

    Half started, a process dies with a traceback, or the pool waits for it for ever.
    """
    if threading.current_thread() is not threading.main_thread():  # which alone is interrupted
        yield
        return
    waiting: list[int] = []
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    before = signal.signal(signal.SIGINT, lambda number, _: waiting.append(number))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGINT, before)
        if waiting:
            signal.raise_signal(signal.SIGINT)


@contextmanager
def _threads(count: int) -> Iterator[Executor]:
    """Threads that begin nothing new once the block has ended."""
    with ThreadPoolExecutor(count) as threads:
        try:
            yield threads
        finally:
            threads.shutdown(cancel_futures=True)


def _begin_worker(parent: Connection) -> None:
    """Ctrl-C is for the parent to answer; when its end of the connection closes, nobody wants this worker any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def leave_with_parent() -> None:
        wait([parent])
        os._exit(1)

    threading.Thread(target=leave_with_parent, daemon=True).start()
