"""What the launcher starts: scores snapshots of a run, or checkpoints side by side for the gate."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch_fidelity import FeatureExtractorBase

from ..config import RunConfig, load_config
from ..errors import InputError, WorkFailed
from ..evaluateconfig import EvaluateConfig
from ..launch import StopSignal, child_main
from ..prepare.manifest import Dataset
from ..ranks import Ranks
from ..refs import CheckpointRef, ControlScores, Diagnostics, EvalReport, ScoreSheet, SnapshotScores
from ..runs import checkpoints, open_run
from ..sample import LoadedGenerator, draw, load_generator, to_uint8
from ..settings import Settings
from ..spec import sampled
from ..storage import CorruptObject, Store, open_store
from . import RunRequest, ScoreRequest
from .asked import captions_asked, classes_asked
from .controls import reference_and_controls
from .diagnostics import Real, diagnose
from .exhibits import Exhibits, make_exhibits
from .extractors import build_extractor, feature_dim, find_weights
from .fidelity import Features, NotFinite, extract, require_enough, todays_protocol
from .protocol import POINT_EXTRACTOR, Protocol, gate_metric, lower_is_better, seeds
from .report import write_pages, write_report
from .scores import Reference, mean_of, measure_all
from .told import can_be_told, text_scores

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Scorer:
    """Scores checkpoints under one protocol."""

    protocol: Protocol
    extractor: FeatureExtractorBase
    reference: Reference
    controls: list[ControlScores]
    dataset: Dataset
    store: Store
    ranks: Ranks
    stop: StopSignal

    @classmethod
    def prepare(
        cls, config: EvaluateConfig, digest: str, store: Store, settings: Settings, stop: StopSignal | None = None
    ) -> Scorer:
        """Extractor, protocol, real side and controls for a data set: found in the store, or made now.

        Raises InputError for too few images, missing weights, or a data set that is not in the store.
        """
        ranks = Ranks()
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False  # the protocol says fp32
        dataset = Dataset.open(store, digest)
        require_enough(config, dataset)
        weights = ranks.main_first(lambda: find_weights(config.extractor, dataset, store, settings))
        extractor = build_extractor(weights, ranks.device)
        shape = sampled(dataset.spec()).shape
        require_enough(config, dataset, feature_dim(extractor, shape, ranks.device))
        protocol = todays_protocol(config, dataset, weights)
        reference, controls = reference_and_controls(dataset, protocol, extractor, store, ranks)
        return cls(protocol, extractor, reference, controls, dataset, store, ranks, stop or StopSignal())

    def score(
        self,
        checkpoints: Sequence[CheckpointRef],
        sample_seeds: list[int],
        what: str,
        seen: dict[int, Features] | None = None,
    ) -> list[SnapshotScores]:
        """Scores of each checkpoint: each seed's and their mean. NaN when it makes NaN instead of images.

        `seen` is filled with the features of the first one's samples, by seed. Raises InputError when its images are
        not of the data set's shape, CorruptObject when its file is damaged.
        """
        load = lru_cache(maxsize=1)(self._load)
        jobs = [
            partial(self._features, load, checkpoint, seed, seen if number == 0 else None)
            for number, checkpoint in enumerate(checkpoints)
            for seed in sample_seeds
        ]
        rows = measure_all(jobs, self.reference, self.protocol, self.ranks, what)
        scored = []
        for number, checkpoint in enumerate(checkpoints):
            of_seeds = rows[number * len(sample_seeds) : (number + 1) * len(sample_seeds)]
            means = mean_of(of_seeds)
            by_seed = {metric: [row.scores.get(metric, math.nan) for row in of_seeds] for metric in means.scores}
            rest = means.model_dump(exclude={"format"})
            scored.append(SnapshotScores(checkpoint=checkpoint, by_seed=by_seed, seeds=sample_seeds, **rest))
        return scored

    def diagnose(self, seen: dict[int, Features], sample_seeds: list[int]) -> Diagnostics | None:
        """Alarms of the samples that these features are of; None of points, and when some seed made NaN."""
        if self.protocol.extractor == POINT_EXTRACTOR or len(seen) < len(sample_seeds):
            return None
        real = Real(*self.reference.trained_on(self.protocol))
        if (label := self.dataset.spec().get("label")) is not None:
            labels = self.dataset.column("label", "train")[: len(real.train_ND)]
            real = replace(real, labels_N=torch.from_numpy(np.array(labels)), names=label.vocabulary or ())
        generated_ND = torch.cat([seen[seed].features_ND for seed in sample_seeds])
        return self.ranks.from_main(lambda: diagnose(generated_ND, real))

    def file(self, checkpoint: CheckpointRef) -> Path:
        """The generator's file, verified. Raises CorruptObject when it is damaged."""
        name = checkpoint.generator_key.removeprefix(f"{checkpoint.prefix}/")
        return self.store.fetch(checkpoint.prefix, [name])[name]

    def _load(self, checkpoint: CheckpointRef) -> LoadedGenerator:
        loaded = load_generator(self.file(checkpoint), self.ranks.device)
        made, wanted, kind = sampled(loaded.spec).shape, sampled(self.dataset.spec()).shape, loaded.output
        if made != wanted:
            raise InputError(
                f"{checkpoint.prefix} makes {kind}s of shape {made}, data set {self.protocol.dataset_digest[:12]} has "
                f"{wanted}: scores of one are no measure for the other"
            )
        return loaded

    def _features(
        self,
        load: Callable[[CheckpointRef], LoadedGenerator],
        checkpoint: CheckpointRef,
        seed: int,
        seen: dict[int, Features] | None,
    ) -> Features:
        """Of samples 0, ..., n_generated - 1 of the seed. Raises NotFinite when there are none."""
        loaded, n = load(checkpoint), self.protocol.n_generated
        classes = classes_asked(loaded, self.dataset, seed, range(n))
        label = None if classes is None else loaded.class_numbers(classes)
        texts = captions_asked(loaded, self.dataset, seed, range(n))

        def images(rows: slice) -> Tensor:
            indices, chunk = range(rows.start, rows.stop), self.protocol.chunk
            asked, said = None if label is None else label[rows], None if texts is None else texts[rows]
            (part,) = draw(
                loaded.gan, loaded.module, seed, indices, self.ranks.device, asked, chunk=chunk, caption=said
            )
            if not part.isfinite().all():
                raise NotFinite
            return part if loaded.output == "point" else to_uint8(part)

        try:
            features = extract(self.extractor, n, images, self.ranks, "samples", self.stop)
            told = {}
            if loaded.takes_text and can_be_told(self.dataset) and self.reference.classes:
                known = self.reference.classes
                told = text_scores(loaded, self.dataset, self.extractor, known, self.ranks, seed, self.stop)
        except NotFinite:
            log.warning("%s makes NaN or infinite pixels: it has no scores", checkpoint.prefix)
            raise
        features = replace(features, classes=classes, captions=texts, told=told)
        if seen is not None:
            seen[seed] = features
        return features

    def exhibits(self, checkpoint: CheckpointRef, seen: dict[int, Features], seed: int) -> Exhibits | None:
        """What there is to show of the checkpoint that these features are of, to one process; None when it made NaN."""
        if seed not in seen:
            return None
        loaded = self._load(checkpoint)
        return make_exhibits(loaded, seen[seed], self.reference, self.dataset, self.protocol, seed)


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
    snapshots = scorer.score(list(_sound(found, scorer)), selection, "snapshots")
    best = best_snapshot(snapshots, metric)
    scoring, seen = seeds("score", config.evaluate.score_seeds), dict[int, Features]()
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
    seen: dict[int, Features] = {}
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
