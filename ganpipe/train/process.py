"""What the launcher starts to train: `python -m ganpipe.train.process`."""

from __future__ import annotations

import fcntl
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel
from tqdm.contrib.logging import logging_redirect_tqdm

from .. import __version__
from ..config import RunConfig
from ..errors import GanpipeError, InputError, Interrupted, of_the_disk
from ..launch import StopSignal, child_main, of_the_peers
from ..prepare.manifest import Dataset
from ..quiet import set_up_logging
from ..ranks import Ranks
from ..refs import CheckpointRef
from ..runs import RunRecord, RunState, checkpoints, open_run, read_state, write_state
from ..settings import Settings
from ..storage import Store, open_store
from .alarms import over
from .runlog import run_log
from .trainer import Trainer
from .upload import SPOOL, StillWaiting

log = logging.getLogger("ganpipe.train.process")  # what the launcher starts is named __main__


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
    part = recorded(store, run_id, work) if ranks.is_main else taking_part(store, run_id)
    with alone(work, run_id) if ranks.is_local_main else nullcontext(), part as ending:
        try:
            newest = _fit(config, record, store, work, ranks, stop, ending)
        except Interrupted:
            with suppress(RuntimeError):
                ranks.any(False)  # rank 0 uploads the last checkpoint before anybody leaves
            raise
        log.info("training ends at %.3f kimg", newest.images_seen / 1000)
    return newest


@dataclass
class Ending:
    """What a training that ended by itself says of it."""

    detail: str = ""


def _fit(
    config: RunConfig, record: RunRecord, store: Store, work: Path, ranks: Ranks, stop: StopSignal, ending: Ending
) -> CheckpointRef:
    trainer = Trainer(config, Dataset.open(store, record.dataset.digest), record.run_id, store, work, ranks)
    log.info(
        "training %s: %s, seed %s, on %d x %s with %d threads, torch %s, ganpipe %s",
        record.run_id, config.gan.name, config.train.seed, ranks.count, trainer.device.type, torch.get_num_threads(),
        torch.__version__, __version__,
    )  # fmt: skip
    ranks.from_main(trainer.uploads.catch_up)
    if record.start_checkpoint is not None and not ranks.from_main(lambda: checkpoints(store, record.run_id)):
        trainer.warm_start(record.start_checkpoint)
    newest = trainer.fit(stop)
    ending.detail = trainer.progress.alarm if over(trainer.progress) else ""
    return newest


@contextmanager
def recorded(store: Store, run_id: str, work: Path) -> Iterator[Ending]:
    """Rank 0 keeps the run's log, and in its state what began or ended it."""
    ending = Ending()
    with run_log(store, run_id, work):
        _tidy(work)
        write_state(store, run_id, "running")
        try:
            yield ending
        except StillWaiting:  # the store is away, and the run is no more over than before
            raise
        except Interrupted as interruption:
            _end_state(store, run_id, "interrupted", str(interruption))
            raise
        except Exception as error:
            if not (of_the_peers(error) and read_state(store, run_id) == "failed"):  # the reason is there already
                _end_state(store, run_id, "failed", str(of_the_disk(error) or error) or type(error).__name__)
            raise
        write_state(store, run_id, "finished", ending.detail)


@contextmanager
def taking_part(store: Store, run_id: str) -> Iterator[Ending]:
    """The other ranks leave the records to rank 0, unless the run ends by them."""
    try:
        yield Ending()
    except Interrupted:
        raise
    except Exception as error:
        if not of_the_peers(error):
            _end_state(store, run_id, "failed", str(error) or type(error).__name__)
        raise


def _end_state(store: Store, run_id: str, state: RunState, detail: str) -> None:
    """What ended the training is what is raised, whether or not the store hears of it."""
    try:
        write_state(store, run_id, state, detail)
    except (GanpipeError, OSError) as error:
        log.warning("that run %s is %s could not be recorded: %s", run_id, state, error)


def _tidy(work: Path) -> None:
    """Remove what a killed process left half-made; nobody else is at work here. Snapshots that wait stay."""
    for path in work.iterdir():
        if path.is_dir() and path.name != SPOOL:
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
    set_up_logging()
    with logging_redirect_tqdm([logging.getLogger("ganpipe")]):
        child_main(train)
