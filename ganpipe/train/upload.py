"""Takes a run's snapshots to the store while training goes on.

What waits lies on this machine's disk, `<work>/spool/kimg-000050.000/` = grid.png + checkpoint/, so memory is bounded,
and a process that is killed loses nothing: a snapshot is complete once its folder has that name, and gone from there
once the store has it. No snapshot is given up for another: how many may wait is bounded by the disk alone, and a full
one ends the training with one message and all that was complete.
"""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from ..errors import GanpipeError, Interrupted, WorkFailed, of_the_disk
from ..refs import CheckpointRef
from ..runs import checkpoint_name
from ..storage import Store
from ..storage.file import fsync
from .checkpoint import publish_checkpoint

log = logging.getLogger(__name__)

SPOOL = "spool"
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 60.0
"""Between two tries while training; it doubles."""
LAST_PAUSE_SECONDS = 5.0
"""Between two tries at most, once training has ended..."""
PATIENCE_SECONDS = 60.0
"""...and how long the store may refuse from then on."""
INTERRUPTED_SECONDS = 12.0
"""For all that waits, after a signal; the rest of launch.GRACE_SECONDS is for the last step and its checkpoint."""
SAY_SECONDS = 10.0
"""Between two lines about what is waited for."""


class StillWaiting(WorkFailed):
    """The store took no more checkpoints; they wait on this machine."""


@dataclass(frozen=True)
class Snapshot:
    """What of a run belongs to one moment, as local files."""

    folder: Path

    @property
    def checkpoint(self) -> Path:
        """The folder of the checkpoint's files."""
        return self.folder / "checkpoint"

    @property
    def grid(self) -> Path:
        """The picture of samples; not every recipe makes one."""
        return self.folder / "grid.png"


class Uploader:
    """Publishes a run's snapshots in their order: grid, metrics and log so far, checkpoint with its manifest last.

    with uploader:                                  # a thread uploads
        with uploader.new_snapshot(n) as snapshot:  # write files; handed over when the block ends
            ...
    # all is in the store, or StillWaiting says where it waits

    A store that fails is tried again and again as long as the block lasts, and for PATIENCE_SECONDS afterwards.
    """

    def __init__(self, store: Store, run_id: str, work: Path):
        """`work` is the run's local folder; its `metrics.jsonl` and `log.txt` go along."""
        self.store, self.run_id, self.work = store, run_id, work
        self.spool = work / SPOOL
        self.newest: CheckpointRef | None = None
        """The checkpoint that was uploaded last."""
        self._wake = threading.Condition()
        self._thread: threading.Thread | None = None
        self._ending = False
        self._deadline = 0.0
        self._error: Exception | None = None

    @contextmanager
    def new_snapshot(self, images_seen: int) -> Iterator[Snapshot]:
        """Files of a new snapshot, to be written; complete, and to be uploaded, when the block ends well."""
        name = checkpoint_name(images_seen)
        partial = Snapshot(self.spool / f".{name}")
        shutil.rmtree(partial.folder, ignore_errors=True)
        try:
            partial.checkpoint.mkdir(parents=True)
            yield partial
            for path in partial.folder.rglob("*"):
                fsync(path)
            partial.folder.replace(self.spool / name)
            fsync(self.spool)
        finally:
            shutil.rmtree(partial.folder, ignore_errors=True)
        with self._wake:
            self._wake.notify_all()

    def waiting(self) -> list[Path]:
        """Folders of the complete snapshots that are not in the store, oldest first."""
        return sorted(self.spool.glob("kimg-*"))

    def catch_up(self) -> None:
        """Upload what a process that was killed left, and remove what it left half-made.

        A snapshot that the store has, or is past, as the run went on elsewhere, is removed. Raises StillWaiting.
        """
        for path in self.spool.glob(".*"):
            shutil.rmtree(path)
        prefix = f"runs/{self.run_id}/checkpoints"
        newest = max((folder.removeprefix(f"{prefix}/") for folder in self.store.published(prefix)), default="")
        for path in self.waiting():
            if path.name < newest:
                log.warning("%s is left out: the run went on from another machine, to %s", path, newest)
            if path.name <= newest:
                self._forget(path)
        if waiting := self.waiting():
            log.info("uploading what waits in %s: %s", self.spool, ", ".join(path.name for path in waiting))
        with self:
            pass

    # --- the thread ------------------------------------------------------------------------------------------------

    def __enter__(self) -> Uploader:
        self._ending, self._error = False, None
        self._thread = threading.Thread(target=self._upload, name="uploader", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Wait for the rest. Raises StillWaiting when nothing else went wrong; otherwise that is a warning."""
        if error is not None and not isinstance(error, Exception):
            return
        within = INTERRUPTED_SECONDS if isinstance(error, Interrupted) else None
        self._wait(within)
        waiting = self.waiting()
        if not waiting:
            with suppress(OSError):
                self.spool.rmdir()
            return
        left = (
            f"{_counted(waiting)} in {self.spool}; `ganpipe train --resume {self.run_id}` on this machine uploads "
            f"{'it' if len(waiting) == 1 else 'them'} and goes on"
        )
        if error is None:
            raise StillWaiting(f"{self._error}. {left}") from self._error
        log.warning("%s", left)

    def _wait(self, within: float | None) -> None:
        """Until all is uploaded, or the thread gave up, or `within` seconds are over."""
        assert self._thread is not None
        began = time.monotonic()
        with self._wake:
            self._ending, self._deadline = True, began + PATIENCE_SECONDS
            self._wake.notify_all()
        end = began + within if within is not None else float("inf")
        self._thread.join(min(1.0, end - began))
        while self._thread.is_alive() and time.monotonic() < end:
            log.info("%s to be uploaded to %s", _counted(self.waiting()), self.store.uri)
            self._thread.join(min(SAY_SECONDS, max(end - time.monotonic(), 0)))

    def _upload(self) -> None:
        pause = FIRST_PAUSE_SECONDS
        while (path := self._next()) is not None:
            try:
                self._publish(path)
            except Exception as error:  # whatever it is, training goes on
                self._tell(error, pause > FIRST_PAUSE_SECONDS)
                with self._wake:
                    if self._ending and time.monotonic() > self._deadline:
                        return
                    if self._ending:
                        self._wake.wait(min(pause, LAST_PAUSE_SECONDS))
                    else:
                        self._wake.wait_for(lambda: self._ending, pause)
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
            else:
                if pause > FIRST_PAUSE_SECONDS:
                    log.info("%s takes checkpoints again", self.store.uri)
                pause, self._deadline = FIRST_PAUSE_SECONDS, time.monotonic() + PATIENCE_SECONDS

    def _next(self) -> Path | None:
        """The oldest snapshot that waits, as soon as there is one; None when there will be none."""
        with self._wake:
            self._wake.wait_for(lambda: self._ending or self.waiting())
            return next(iter(self.waiting()), None)

    def _tell(self, error: Exception, told: bool) -> None:
        self._error = of_the_disk(error) or error
        if not told:
            bug = not isinstance(self._error, GanpipeError | OSError)
            log.warning(
                "%s. Training goes on: %s in %s until the store takes them",
                self._error, _counted(self.waiting()), self.spool, exc_info=error if bug else None,
            )  # fmt: skip

    def _publish(self, path: Path) -> None:
        snapshot, run, began = Snapshot(path), f"runs/{self.run_id}", time.monotonic()
        if snapshot.grid.exists():
            self.store.write_bytes(f"{run}/samples/{path.name}.png", snapshot.grid.read_bytes())
        for name in ("metrics.jsonl", "log.txt"):
            with suppress(FileNotFoundError):
                self.store.write_bytes(f"{run}/{name}", (self.work / name).read_bytes())
        self.newest = publish_checkpoint(self.store, self.run_id, snapshot.checkpoint)
        log.info("checkpoint %s is in the store (upload %.1f s)", path.name, time.monotonic() - began)
        self._forget(path)

    def _forget(self, path: Path) -> None:
        """Half-removed it must not look complete."""
        shutil.rmtree(path.replace(path.with_name(f".{path.name}")))


def _counted(waiting: list[Path]) -> str:
    return f"{len(waiting)} checkpoint{'' if len(waiting) == 1 else 's'} wait{'s' if len(waiting) == 1 else ''}"
