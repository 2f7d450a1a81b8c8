"""What the launcher starts to train: `python -m ganpipe.train.process`."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from ..errors import GanpipeError, Interrupted
from ..launch import StopSignal, child_main
from ..prepare.manifest import Dataset
from ..refs import CheckpointRef
from ..runs import checkpoints, open_run, write_state
from ..settings import Settings
from ..storage import open_store
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
    work = settings.home / "work" / run_id
    work.mkdir(parents=True, exist_ok=True)
    try:
        trainer = Trainer(config, Dataset.open(store, record.dataset.digest), run_id, store, work)
        if record.start_checkpoint is not None and not checkpoints(store, run_id):
            trainer.warm_start(record.start_checkpoint)
        newest = trainer.fit(stop)
    except Interrupted as interruption:
        write_state(store, run_id, "interrupted", str(interruption))
        raise
    except GanpipeError as error:
        write_state(store, run_id, "failed", str(error))
        raise
    write_state(store, run_id, "finished")
    return newest


if __name__ == "__main__":
    child_main(train)
