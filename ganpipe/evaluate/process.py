"""What the launcher starts: scores snapshots of a run, or checkpoints side by side for the gate."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch_fidelity import FeatureExtractorBase
from tqdm import tqdm

from ..config import EvaluateConfig, RunConfig, load_config
from ..errors import InputError, Interrupted, WorkFailed
from ..launch import StopSignal, child_main
from ..prepare.manifest import Dataset
from ..refs import CheckpointRef, ControlScores, EvalReport, ScoreSheet, SnapshotScores
from ..runs import checkpoints, open_run
from ..sample import LoadedGenerator, draw, load_generator, to_uint8
from ..settings import Settings
from ..spec import sampled
from ..storage import CorruptObject, Store, open_store
from . import RunRequest, ScoreRequest
from .controls import reference_and_controls
from .extractors import build_extractor, find_weights
from .fidelity import Reference, extract, mean_scores, measure, no_scores, require_enough, todays_protocol
from .protocol import Protocol, gate_metric, lower_is_better, seeds
from .report import write_report

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Scorer:
    """Scores checkpoints under one protocol."""

    protocol: Protocol
    extractor: FeatureExtractorBase
    reference: Reference
    controls: list[ControlScores]
    shape: tuple[int, ...]
    """Of one row of the data set: (C, H, W) of images, (2,) of points."""
    store: Store
    device: torch.device
    stop: StopSignal

    @classmethod
    def prepare(
        cls, config: EvaluateConfig, digest: str, store: Store, settings: Settings, stop: StopSignal | None = None
    ) -> Scorer:
        """Extractor, protocol, real side and controls for a data set: found in the store, or made now.

        Raises InputError for too few images, missing weights, or a data set that is not in the store.
        """
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False  # the protocol says fp32
        dataset = Dataset.open(store, digest)
        require_enough(config, dataset)
        weights = find_weights(config.extractor, dataset, store, settings)
        extractor = build_extractor(weights, device)
        protocol = todays_protocol(config, dataset, weights)
        reference, controls = reference_and_controls(dataset, protocol, extractor, store, device)
        return cls(
            protocol, extractor, reference, controls, sampled(dataset.spec()).shape, store, device, stop or StopSignal()
        )

    def snapshot(self, checkpoint: CheckpointRef, sample_seeds: list[int]) -> SnapshotScores:
        """Scores of one checkpoint: each seed's and their mean. NaN when it makes NaN instead of images.

        Raises InputError when its images are not of the data set's shape, CorruptObject when its file is damaged.
        """
        name = checkpoint.generator_key.removeprefix(f"{checkpoint.prefix}/")
        loaded = load_generator(self.store.fetch(checkpoint.prefix, [name])[name], self.device)
        made = sampled(loaded.spec)
        if made.shape != self.shape:
            raise InputError(
                f"{checkpoint.prefix} makes {made.kind}s of shape {made.shape}, data set "
                f"{self.protocol.dataset_digest[:12]} has {self.shape}: scores of one are no measure for the other"
            )
        rows = [self._seed(loaded, seed, checkpoint) for seed in sample_seeds]
        by_seed = {metric: [row[metric] for row in rows] for metric in rows[0]}
        return SnapshotScores(checkpoint=checkpoint, scores=mean_scores(rows), by_seed=by_seed, seeds=sample_seeds)

    def _seed(self, loaded: LoadedGenerator, seed: int, checkpoint: CheckpointRef) -> dict[str, float]:
        try:
            features = extract(self.extractor, self._images(loaded, seed), self.device)
        except _NotFinite:
            log.warning("%s makes NaN or infinite pixels: it has no scores", checkpoint.prefix)
            return no_scores(self.protocol)
        return measure(features, self.reference, self.protocol)

    def _images(self, loaded: LoadedGenerator, seed: int) -> Iterator[Tensor]:
        """Samples 0, ..., n_generated - 1 of the seed, images as uint8, chunk by chunk."""
        indices = range(self.protocol.n_generated)
        for part in draw(loaded.gan, loaded.module, seed, indices, self.device, chunk=self.protocol.chunk):
            if self.stop.requested:
                raise Interrupted("evaluation was stopped; run it again, the real side and the controls are kept")
            if not part.isfinite().all():
                raise _NotFinite
            yield part if loaded.output == "point" else to_uint8(part)


class _NotFinite(Exception):
    """A generator's output is no image."""


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
    scorer = Scorer.prepare(config.evaluate, record.dataset.digest, store, settings, stop)
    selection = seeds("select", config.evaluate.select_seeds)
    snapshots = []
    for checkpoint in tqdm(found, desc="snapshots", unit="snapshot"):
        try:
            snapshots.append(scorer.snapshot(checkpoint, selection))
        except CorruptObject as error:
            log.warning("passing over a damaged checkpoint: %s", error)
    best = best_snapshot(snapshots, metric)
    report = EvalReport(
        run_id=run_id,
        dataset_digest=record.dataset.digest,
        protocol=scorer.protocol.model_dump(mode="json"),
        protocol_hash=scorer.protocol.hash,
        metric=metric,
        snapshots=snapshots,
        best=scorer.snapshot(best.checkpoint, seeds("score", config.evaluate.score_seeds)),
        controls=scorer.controls,
    )
    write_report(store, report)
    log.info(
        "%s: best at %.3f kimg, %s %.4g", run_id, best.checkpoint.images_seen / 1000, metric, report.best.scores[metric]
    )
    return report


def best_snapshot(snapshots: Iterable[SnapshotScores], metric: str) -> SnapshotScores:
    """The best by one metric, the earlier of equals.

    NaN is never best. Raises WorkFailed when there is nothing else.
    """
    scored = [snapshot for snapshot in snapshots if not math.isnan(snapshot.scores[metric])]
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
    scorer = Scorer.prepare(config.evaluate, dataset_digest, store, settings, stop)
    snapshots = [
        scorer.snapshot(checkpoint, sample_seeds) for checkpoint in tqdm(asked, "checkpoints", unit="checkpoint")
    ]
    return ScoreSheet(
        protocol=scorer.protocol.model_dump(mode="json"),
        protocol_hash=scorer.protocol.hash,
        metric=metric,
        snapshots=snapshots,
        controls=scorer.controls,
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
