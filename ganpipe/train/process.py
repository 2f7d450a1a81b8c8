"""What the launcher starts to train: `python -m ganpipe.train.process`."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from ..config import RunConfig
from ..errors import InputError, Interrupted
from ..launch import StopSignal, child_main, of_the_peers
from ..prepare.manifest import Dataset
from ..ranks import Ranks
from ..refs import CheckpointRef
from ..runs import RunRecord, checkpoints, open_run, read_state, write_state
from ..settings import Settings
from ..storage import Store, open_store
from .trainer import Trainer


class TrainRequest(BaseModel):
    """Which run to train; all else stands in the run's folder."""

    run_id: str


def train(request: dict[str, Any], stop: StopSignal) -> CheckpointRef:
    """Train a run that was begun, from its newest checkpoint to its end."""
    run_id = TrainRequest.model_validate(request).run_id
    settings = Settings.from_environment()
    store = open_store(settings.store)
    record, config = open_run(store, run_id)
    ranks = Ranks()
    work = settings.home / "work" / run_id
    work.mkdir(parents=True, exist_ok=True)
    with alone(work, run_id) if ranks.is_local_main else nullcontext():
        if ranks.is_main:
            _tidy(work)
            write_state(store, run_id, "running")
        try:
            newest = _fit(config, record, store, work, ranks, stop)
        except Interrupted as interruption:
            if ranks.is_main:
                write_state(store, run_id, "interrupted", str(interruption))
            raise
        except Exception as error:
            if not (of_the_peers(error) and read_state(store, run_id) == "failed"):  # the reason is there already
                write_state(store, run_id, "failed", str(error) or type(error).__name__)
            raise
        if ranks.is_main:
            write_state(store, run_id, "finished")
    return newest


def _fit(
    config: RunConfig, record: RunRecord, store: Store, work: Path, ranks: Ranks, stop: StopSignal
) -> CheckpointRef:
    trainer = Trainer(config, Dataset.open(store, record.dataset.digest), record.run_id, store, work, ranks)
    if record.start_checkpoint is not None and not checkpoints(store, record.run_id):
        trainer.warm_start(record.start_checkpoint)
    return trainer.fit(stop)


def _tidy(work: Path) -> None:
    """Remove the half-made checkpoints that a killed process left; nobody else is at work here."""
    for path in work.iterdir():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)


@contextmanager
def alone(work: Path, run_id: str) -> Iterator[None]:
    """Raises InputError when another process of this machine trains the run already."""
    with (work / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(f"run {run_id} is being trained by another process; stop that one first") from error
        yield


if __name__ == "__main__":
    child_main(train)
