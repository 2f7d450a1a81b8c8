"""Scores checkpoints under one protocol: what a process that evaluates holds."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch_fidelity import FeatureExtractorBase

from ..errors import InputError
from ..evaluateconfig import EvaluateConfig
from ..launch import StopSignal
from ..prepare.manifest import Dataset
from ..ranks import Ranks
from ..refs import CheckpointRef, ControlScores, Diagnostics, SnapshotScores
from ..sample import LoadedGenerator, draw, load_generator, to_uint8
from ..settings import Settings
from ..spec import sampled, ways
from ..storage import Store
from .asked import captions_asked, classes_asked
from .controls import measured_real, reference_and_controls
from .diagnostics import Real, diagnose
from .exhibits import Exhibits, make_exhibits
from .extractors import build_extractor, feature_dim, find_weights
from .fidelity import Features, NotFinite, extract, require_enough, todays_protocol
from .metrics import POINT_EXTRACTOR
from .protocol import Protocol
from .scores import Measured, Reference, mean_of, measure_all, values_on_halves
from .told import can_be_told, text_scores

log = logging.getLogger(__name__)


Seen = dict[int, tuple[Features, ...]]
"""Features of a checkpoint's samples, by seed: of translations, of each direction."""
Job = tuple[Callable[[CheckpointRef], LoadedGenerator], CheckpointRef, int, Seen | None]
"""How checkpoints are loaded, one of them, a sample seed, and what is to be filled with the features."""


@dataclass(frozen=True)
class Scorer:
    """Scores checkpoints under one protocol."""

    INDEPENDENT_SEEDS: ClassVar[bool] = True
    """Whether scores of several sample seeds are of images that have nothing to do with one another."""
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
        reference, controls = reference_and_controls(dataset, protocol, extractor, store, ranks, measured_real)
        return cls(protocol, extractor, reference, controls, dataset, store, ranks, stop or StopSignal())

    def score(
        self,
        checkpoints: Sequence[CheckpointRef],
        sample_seeds: list[int],
        what: str,
        seen: Seen | None = None,
    ) -> list[SnapshotScores]:
        """Scores of each checkpoint: each seed's and their mean. NaN when it makes NaN instead of images.

        `seen` is filled with the features of the first one's samples. Raises InputError when its images are
        not of the data set's shape, CorruptObject when its file is damaged.
        """
        load = lru_cache(maxsize=1)(self._load)
        jobs = [
            (load, checkpoint, seed, seen if number == 0 else None)
            for number, checkpoint in enumerate(checkpoints)
            for seed in sample_seeds
        ]
        rows = self._measured(jobs, what)
        measured = dict.fromkeys(name for row in rows for name in row.scores)
        scored = []
        for number, checkpoint in enumerate(checkpoints):
            of_seeds = rows[number * len(sample_seeds) : (number + 1) * len(sample_seeds)]
            means = mean_of(of_seeds, self.INDEPENDENT_SEEDS)
            broken = all(math.isnan(score) for score in means.scores.values())
            names = measured if broken else means.scores
            by_seed = {metric: [row.scores.get(metric, math.nan) for row in of_seeds] for metric in names}
            scored.append(
                SnapshotScores(
                    checkpoint=checkpoint,
                    scores={metric: means.scores.get(metric, math.nan) for metric in names},
                    intervals=means.intervals,
                    by_class=means.by_class,
                    by_seed=by_seed,
                    by_half={} if self.INDEPENDENT_SEEDS else values_on_halves(of_seeds),
                    seeds=sample_seeds,
                )
            )
        return scored

    def _measured(self, jobs: Sequence[Job], what: str) -> list[Measured]:
        """Scores of each job."""
        sets = [partial(self._features, *job) for job in jobs]
        return measure_all(sets, self.reference, self.protocol, self.ranks, what)

    def diagnose(self, seen: Seen, sample_seeds: list[int]) -> Diagnostics | None:
        """Alarms of the samples that these features are of; None of points, and when some seed made NaN."""
        if self.protocol.extractor == POINT_EXTRACTOR or len(seen) < len(sample_seeds):
            return None
        real = Real(*self.reference.trained_on(self.protocol))
        if (label := self.dataset.spec().get("label")) is not None:
            labels = self.dataset.column("label", "train")[: len(real.train_ND)]
            real = replace(real, labels_N=torch.from_numpy(np.array(labels)), names=label.vocabulary or ())
        generated_ND = torch.cat([seen[seed][0].features_ND for seed in sample_seeds])
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
        if set(loaded.directions) != set(ways(self.dataset.spec())):
            raise InputError(
                f"{checkpoint.prefix} translates {' and '.join(loaded.directions) or 'nothing'}, and data set "
                f"{self.protocol.dataset_digest[:12]} is of {' and '.join(ways(self.dataset.spec())) or 'single rows'}"
            )
        return loaded

    def _features(
        self,
        load: Callable[[CheckpointRef], LoadedGenerator],
        checkpoint: CheckpointRef,
        seed: int,
        seen: Seen | None,
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
            self.warn_of(checkpoint)
            raise
        features = replace(features, classes=classes, captions=texts, told=told)
        if seen is not None:
            seen[seed] = (features,)
        return features

    def warn_of(self, checkpoint: CheckpointRef) -> None:
        """Say that a checkpoint has no scores, and why."""
        log.warning("%s makes NaN or infinite pixels: it has no scores", checkpoint.prefix)

    def exhibits(self, checkpoint: CheckpointRef, seen: Seen, seed: int) -> Exhibits | None:
        """What there is to show of the checkpoint that these features are of, to one process; None when it made NaN."""
        if seed not in seen:
            return None
        loaded = self._load(checkpoint)
        return make_exhibits(loaded, seen[seed][0], self.reference, self.dataset, self.protocol, seed)
