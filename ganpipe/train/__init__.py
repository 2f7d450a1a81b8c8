"""Stage 2, train: from a data set to checkpoints."""

from __future__ import annotations

from contextlib import nullcontext

from ..config import RunConfig
from ..errors import InputError
from ..launch import run_child
from ..refs import CheckpointRef
from ..runs import RunRecord, begin_run
from ..settings import Settings
from ..storage import open_store
from ..tracking import Mirror


def check(config: RunConfig, settings: Settings) -> None:
    """What would stop a training, told before any work: raises InputError when a batch cannot be dealt out."""
    batch, micro_batch = config.train.batch, config.train.micro_batch_size()
    ranks = settings.num_processes * settings.nodes
    if batch % (micro_batch * ranks):
        share = batch // ranks
        mend = (
            f"set train.micro_batch to {share}, or a divisor of it"
            if batch % ranks == 0 and share >= config.recipe().LEAST_BATCH
            else (f"make train.batch a multiple of {ranks} and train.micro_batch a divisor of the share")
        )
        raise InputError(
            f"{ranks} processes cannot share train.batch {batch} in micro-batches of {micro_batch} (train.micro_batch, "
            f"what batch normalisation sees; null: the whole batch): {mend}"
        )


def run(config: RunConfig, record: RunRecord, settings: Settings) -> CheckpointRef:
    """Begin or continue the run in processes of its own, mirrored to MLflow meanwhile; returns its last checkpoint.

    With several machines the first one begins the run and mirrors it, the others take part.
    Raises InputError, WorkFailed or Interrupted as the processes did.
    """
    check(config, settings)
    store = open_store(settings.store)
    first = settings.node == 0
    if first:
        begin_run(store, record, config)
    with Mirror(store, record.run_id, settings) if first else nullcontext():
        result = run_child("ganpipe.train.process", {"run_id": record.run_id}, settings, across_nodes=True)
    return CheckpointRef.model_validate(result)
