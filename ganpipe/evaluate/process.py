"""What the launcher starts: scores snapshots of a run, or checkpoints side by side for the gate."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from ..config import RunConfig, load_config
from ..errors import InputError, WorkFailed
from ..evaluateconfig import EvaluateConfig
from ..launch import StopSignal, child_main
from ..prepare.manifest import Dataset
from ..refs import CheckpointRef, EvalReport, ScoreSheet, SnapshotScores
from ..runs import checkpoints, open_run
from ..settings import Settings
from ..spec import ways
from ..storage import CorruptObject, Store, open_store
from . import RunRequest, ScoreRequest
from .metrics import gate_metric, lower_is_better
from .protocol import seeds
from .report import write_pages, write_report
from .scorer import Scorer, Seen
from .translated import TranslationScorer

log = logging.getLogger(__name__)


def scorer_of(
    config: EvaluateConfig, digest: str, store: Store, settings: Settings, stop: StopSignal | None = None
) -> Scorer:
    """The one for such data. Raises as `Scorer.prepare` does."""
    kind = TranslationScorer if ways(Dataset.open(store, digest).spec()) else Scorer
    return kind.prepare(config, digest, store, settings, stop)


def evaluate_run(config: RunConfig, run_id: str, settings: Settings, stop: StopSignal | None = None) -> EvalReport:
    """Every snapshot on the selection seeds, the best again on the scoring seeds; written to the run's folder.

    Damaged snapshots are passed over with a warning. Raises as `evaluate.run` does.
    """
    metric = gate_metric(config)
    store = open_store(settings.store)
    record, _ = open_run(store, run_id)
    found = checkpoints(store, run_id)
    if not found:
        raise InputError(f"run {run_id} has no checkpoints to evaluate; train it first, or lower train.snapshot_kimg")
    scorer = scorer_of(config.evaluate, record.dataset.digest, store, settings, stop)
    selection = seeds("select", config.evaluate.select_seeds)
    snapshots = scorer.score(list(_sound(found, scorer)), selection, "snapshots")
    best = best_snapshot(snapshots, metric)
    scoring, seen = seeds("score", config.evaluate.score_seeds), Seen()
    report = EvalReport(
        run_id=run_id,
        dataset_digest=record.dataset.digest,
        protocol=scorer.protocol.model_dump(mode="json"),
        protocol_hash=scorer.protocol.hash,
        metric=metric,
        snapshots=snapshots,
        best=scorer.score([best.checkpoint], scoring, "best snapshot", seen)[0],
        controls=scorer.controls,
        diagnostics=scorer.diagnose(seen, scoring),
    )
    if scorer.ranks.is_main:
        write_report(store, report)
        write_pages(store, report, config, lambda: scorer.exhibits(best.checkpoint, seen, scoring[0]))
    log.info(
        "%s: best at %.3f kimg, %s %.4g", run_id, best.checkpoint.images_seen / 1000, metric, report.best.scores[metric]
    )
    for alarm in report.diagnostics.raised if report.diagnostics else []:
        log.warning("alarm %s: %s", alarm.name, alarm.detail)
    return report


def _sound(checkpoints: Iterable[CheckpointRef], scorer: Scorer) -> Iterator[CheckpointRef]:
    for checkpoint in checkpoints:
        try:
            scorer.file(checkpoint)
        except CorruptObject as error:
            log.warning("passing over a damaged checkpoint: %s", error)
        else:
            yield checkpoint


def best_snapshot(snapshots: Sequence[SnapshotScores], metric: str) -> SnapshotScores:
    """The best by one metric, the earlier of equals.

    NaN is never best. Raises WorkFailed when there is nothing else, InputError when this metric alone was not measured.
    """
    scored = [snapshot for snapshot in snapshots if not math.isnan(snapshot.scores.get(metric, math.nan))]
    measured = {name for one in snapshots for name, score in one.scores.items() if not math.isnan(score)}
    if measured and metric not in measured:
        raise InputError(
            f"register.metric: {metric} could not be measured of these data; there is {', '.join(sorted(measured))}"
        )
    if not scored:
        raise WorkFailed(
            f"no snapshot has a {metric}: every generator makes NaN, or its file is damaged; training diverged"
        )
    sign = 1 if lower_is_better(metric) else -1
    return min(scored, key=lambda snapshot: sign * snapshot.scores[metric])


def score_checkpoints(
    config: RunConfig,
    dataset_digest: str,
    asked: list[CheckpointRef],
    sample_seeds: list[int],
    settings: Settings,
    stop: StopSignal | None = None,
) -> ScoreSheet:
    """Each checkpoint on the same seeds. Raises as `evaluate.score` does."""
    metric = gate_metric(config)
    store = open_store(settings.store)
    scorer = scorer_of(config.evaluate, dataset_digest, store, settings, stop)
    seen = Seen()
    return ScoreSheet(
        protocol=scorer.protocol.model_dump(mode="json"),
        protocol_hash=scorer.protocol.hash,
        metric=metric,
        snapshots=scorer.score(asked, sample_seeds, "checkpoints", seen),
        controls=scorer.controls,
        diagnostics=scorer.diagnose(seen, sample_seeds),
    )


def work(request: dict[str, Any], stop: StopSignal) -> EvalReport | ScoreSheet:
    """Do what the parent process asked for."""
    settings = Settings.from_environment()
    if request["job"] == "score":
        asked = ScoreRequest.model_validate(request)
        config = load_config(asked.config)
        return score_checkpoints(config, asked.dataset_digest, asked.checkpoints, asked.seeds, settings, stop)
    run = RunRequest.model_validate(request)
    return evaluate_run(load_config(run.config), run.run_id, settings, stop)


if __name__ == "__main__":
    child_main(work)
