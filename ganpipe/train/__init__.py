"""Stage 2, train: from a data set to checkpoints."""

from __future__ import annotations

from ..config import RunConfig
from ..launch import run_child
from ..refs import CheckpointRef
from ..runs import RunRecord, begin_run
from ..settings import Settings
from ..storage import open_store
from ..tracking import Mirror


def run(config: RunConfig, record: RunRecord, settings: Settings) -> CheckpointRef:
    """Begin or continue the run in a process of its own, mirrored to MLflow meanwhile; returns its last checkpoint.

    Raises InputError, WorkFailed or Interrupted as the process did.
    """
    store = open_store(settings.store)
    begin_run(store, record, config)
    with Mirror(store, record.run_id, settings):
        result = run_child("ganpipe.train.process", {"run_id": record.run_id}, settings)
    return CheckpointRef.model_validate(result)
