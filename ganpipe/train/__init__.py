"""Stage 2, train: from a data set to checkpoints."""

from __future__ import annotations

from ..launch import run_child
from ..refs import CheckpointRef
from ..runs import RunRecord, begin_run
from ..settings import Settings
from ..storage import open_store
from ..config import RunConfig


def run(config: RunConfig, record: RunRecord, settings: Settings) -> CheckpointRef:
    """Begin or continue the run in a process of its own; returns its last checkpoint.

    Raises InputError, WorkFailed or Interrupted as the process did.
    """
    begin_run(open_store(settings.store), record, config)
    return CheckpointRef.model_validate(run_child("ganpipe.train.process", {"run_id": record.run_id}, settings))
