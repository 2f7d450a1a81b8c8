"""Which checkpoints are kept, in the one place that knows: after a night, and for `ganpipe gc`."""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Sequence

from .config import RunConfig
from .errors import WorkFailed
from .evaluate.metrics import lower_is_better
from .refs import CheckpointRef, EvalReport, SnapshotScores
from .register import audit
from .registerconfig import KeepConfig
from .runs import RunRecord, checkpoints, read_state, reports, run_ids
from .settings import Settings
from .storage import Store, open_store

log = logging.getLogger(__name__)


def superfluous(
    there: Sequence[CheckpointRef],
    evaluations: Sequence[EvalReport],
    protected: Collection[str],
    keep: KeepConfig | None,
) -> list[CheckpointRef]:
    """Of a run's checkpoints those that may go: scored, and neither protected, nor among the last or the best.

    The best are those of each evaluation, by its own metric. `protected` holds prefixes. Nothing goes without `keep`.
    """
    if keep is None:
        return []
    kept = {ref.prefix for ref in sorted(there, key=lambda ref: ref.images_seen)[-keep.last :]} | set(protected)
    scored = set()
    for report in evaluations:
        scored |= {snapshot.checkpoint.prefix for snapshot in report.snapshots}
        kept |= {snapshot.checkpoint.prefix for snapshot in _by_rank(report)[: keep.best]}
        kept.add(report.best.checkpoint.prefix)
    return [ref for ref in there if ref.prefix in scored - kept]


def _by_rank(report: EvalReport) -> list[SnapshotScores]:
    sign = 1 if lower_is_better(report.metric) else -1

    def rank(snapshot: SnapshotScores) -> tuple[bool, float, int]:
        value = snapshot.scores[report.metric]
        return math.isnan(value), sign * value, snapshot.checkpoint.images_seen

    return sorted(report.snapshots, key=rank)


def protected(store: Store) -> set[str]:
    """Prefixes of the checkpoints that are never removed.

    Those of every version that is or was champion, of each product's newest version (the candidate), and those that a
    run without a checkpoint of its own starts from.
    """
    models = []
    for product in audit.products(store):
        pointer, _ = audit.read_pointer(store, product)
        models += [pointer.champion, pointer.previous, audit.read_versions(store, product)[-1]]
        models += [model for _, record in audit.read_log(store, product) for model in (record.before, record.after)]
    return {model.checkpoint.prefix for model in models if model is not None} | _awaited(store)


def _awaited(store: Store) -> set[str]:
    records = [store.read_model(f"runs/{run_id}/run.json", RunRecord) for run_id in run_ids(store)]
    return {
        record.start_checkpoint.prefix
        for record in records
        if record.start_checkpoint is not None and not checkpoints(store, record.run_id)
    }


def removable(store: Store, run_id: str, keep: KeepConfig | None, safe: Collection[str]) -> list[CheckpointRef]:
    """Checkpoints of the run that `superfluous` names; none while it is training."""
    if keep is None or read_state(store, run_id) == "running":
        return []
    return superfluous(checkpoints(store, run_id), reports(store, run_id), safe, keep)


def tidy(config: RunConfig, run_id: str, settings: Settings) -> None:
    """Remove what `register.keep` does not keep of a run. A failure is a warning: `ganpipe gc` does it again."""
    keep, store = config.registration.keep, open_store(settings.store)
    if keep is None:
        return
    try:
        gone = removable(store, run_id, keep, protected(store))
        for ref in gone:
            store.remove(ref.prefix)
    except (OSError, WorkFailed) as error:
        log.warning("checkpoints beyond register.keep could not be removed, `ganpipe gc` will: %s", error)
    else:
        names = ", ".join(ref.prefix.rpartition("/")[2] for ref in gone)
        log.info(
            "register.keep (last %d, best %d): %s", keep.last, keep.best, f"removed {names}" if gone else "all kept"
        )
