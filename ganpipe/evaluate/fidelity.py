"""From images to numbers: one feature pass, then torch-fidelity's own functions.

Frechet distance (arXiv:1706.08500), KID (arXiv:1801.01401), Inception score (arXiv:1606.03498), precision and recall
(arXiv:1904.06991). Generated images come first and real ones second, as in `torch_fidelity.calculate_metrics`.
"""

from __future__ import annotations

import importlib.metadata
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch_fidelity import FeatureExtractorBase
from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, isc_features_to_metric
from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, kid_features_to_metric
from torch_fidelity.metric_prc import KEY_METRIC_PRECISION, KEY_METRIC_RECALL, prc_features_to_metric
from tqdm import tqdm

from ..config import EvaluateConfig
from ..errors import InputError, Interrupted, WorkFailed
from ..launch import StopSignal
from ..prepare.manifest import Dataset
from ..ranks import Ranks
from ..sample import CHUNK
from . import known
from .extractors import Weights
from .modes import mode_scores
from .protocol import NAMED, POINT_EXTRACTOR, Protocol, metric_name, metric_names

MAX_REFERENCE = 50_000
"""Training images measured against; more do not fit a distance matrix in memory and change little."""
MANY = 5_000
"""From this many images in every set on, KID and IS have torch-fidelity's default subsets and splits."""
PRC_BATCH = 10_000


@dataclass(frozen=True)
class Features:
    """What the extractor saw in a set of images or points, float32 on the CPU."""

    features_ND: Tensor
    logits_NK: Tensor
    """Of points: their distances to the modes instead."""

    def __len__(self) -> int:
        return len(self.features_ND)


@dataclass(frozen=True)
class Reference:
    """The real side."""

    features_ND: Tensor
    mu: np.ndarray
    """(D,), float32."""
    sigma: np.ndarray
    """(D, D), float64."""

    @classmethod
    def of(cls, features_ND: Tensor) -> Reference:
        statistics = fid_features_to_statistics(features_ND)
        return cls(features_ND, statistics["mu"], statistics["sigma"])


@dataclass(frozen=True)
class Counts:
    """How many images take part."""

    reference: int
    generated: int
    held_out: int

    @classmethod
    def of(cls, config: EvaluateConfig, dataset: Dataset) -> Counts:
        """Raises InputError when a split has no two images, or too few for a named protocol."""
        rows = dataset.manifest.ref.rows
        for split in ("train", "test"):
            if rows[split] < 2:
                raise InputError(
                    f"the {split} split of data set {dataset.digest[:12]} has {rows[split]} images, too few for any "
                    "score; add images, or change prepare.test_fraction and prepare.extractor_fraction"
                )
        if config.protocol is None:
            return cls(min(rows["train"], MAX_REFERENCE), config.num_samples or rows["test"], rows["test"])
        wanted = NAMED[config.protocol]
        split, other = ("train", "test") if wanted.reference_split == "train" else ("test", "train")
        wanted.require(config.protocol, rows[split], f"the {split} split of data set {dataset.digest[:12]}")
        return cls(min(rows[split], wanted.n_reference), wanted.n_generated, rows[other])


def require_enough(config: EvaluateConfig, dataset: Dataset, feature_dim: int | None = None) -> None:
    """Refuse numbers of images whose covariance is singular in the extractor's feature dimension.

    Without `feature_dim` it is that of the extractor's name; nothing is refused when only the module itself knows it.
    Raises InputError unless `evaluate.allow_few`.
    """
    counts, feature_dim = Counts.of(config, dataset), feature_dim or known.feature_dim(config.extractor)
    if config.allow_few or feature_dim is None or min(counts.generated, counts.reference) > feature_dim:
        return
    raise InputError(
        f"{counts.generated} generated images (evaluate.num_samples) against {counts.reference} real images are "
        f"too few for the {feature_dim} features of evaluate.extractor={config.extractor}: each side needs more than "
        f"{feature_dim}. Raise evaluate.num_samples, add data, take another extractor, or set evaluate.allow_few=true "
        "to score all the same"
    )


def todays_protocol(config: EvaluateConfig, dataset: Dataset, weights: Weights) -> Protocol:
    """The protocol that this configuration, data set and installation give."""
    splits = {}
    if config.protocol is not None and NAMED[config.protocol].reference_split == "test":
        splits = {"reference_split": "test", "control_split": "train"}
    return protocol_of(Counts.of(config, dataset), dataset.digest, weights, name=config.protocol, **splits)


def protocol_of(counts: Counts, digest: str, weights: Weights, **fields: Any) -> Protocol:
    """The protocol of so many images in this installation; `fields` are as the defaults but for these."""
    smallest = min(counts.reference, counts.generated, counts.held_out)
    many = smallest >= MANY
    return Protocol(
        extractor=weights.extractor,
        weights_sha256=weights.sha256,
        torch_fidelity=importlib.metadata.version("torch-fidelity"),
        dataset_digest=digest,
        n_reference=counts.reference,
        n_generated=counts.generated,
        chunk=CHUNK,
        kid_subsets=100 if many else 10,
        kid_subset_size=min(1000, smallest),
        isc_splits=10 if many else 1,
        prc_neighborhood=min(3, smallest - 1),
        **{"resize": known.resize(weights.extractor), **fields},
    )


def chunked(n: int, size: int = CHUNK) -> list[slice]:
    """Rows 0, ..., n - 1, at most `size` of them at a time."""
    return [slice(start, min(n, start + size)) for start in range(0, n, size)]


class NotFinite(Exception):
    """A generator's output is no image."""


def extract(
    extractor: FeatureExtractorBase,
    n: int,
    images: Callable[[slice], Tensor],
    ranks: Ranks,
    what: str,
    stop: StopSignal | None = None,
) -> Features:
    """Features of uint8 images 0, ..., n - 1, on every rank; `images` makes those of a chunk.

    Chunks are dealt out to the ranks, so that each goes through the extractor as it would in one process.
    Raises NotFinite, on every rank, when `images` does on one; WorkFailed for NaN or infinite features; Interrupted.
    """
    stop = stop or StopSignal()
    chunks = chunked(n)
    mine = tqdm(
        chunks[ranks.index :: ranks.count], what, unit="chunk", leave=False, disable=None if ranks.is_main else True
    )
    found: list[tuple[Tensor, Tensor]] = []
    finite = False
    with torch.no_grad(), suppress(NotFinite):
        for rows in mine:
            if stop.requested:
                break
            features, logits = extractor(images(rows).to(ranks.device))
            found.append((features.cpu(), logits.cpu()))
        finite = True
    stopped, not_finite = ranks.any(stop.requested, not finite)
    if stopped:
        raise Interrupted("evaluation was stopped; run it again, the real side and the controls are kept")
    if not_finite:
        raise NotFinite
    dealt = ranks.gather(found)
    pairs = [dealt[number % ranks.count][number // ranks.count] for number in range(len(chunks))]
    whole = Features(torch.cat([features for features, _ in pairs]), torch.cat([logits for _, logits in pairs]))
    return require_finite(whole, extractor)


def require_finite(features: Features, extractor: FeatureExtractorBase) -> Features:
    """The features themselves. Raises WorkFailed when any is NaN or infinite."""
    if features.features_ND.isfinite().all() and features.logits_NK.isfinite().all():
        return features
    raise WorkFailed(
        f"the feature extractor {extractor.get_name()} returned NaN or infinite features for images of bytes: "
        "its weights are damaged"
    )


def rows_of(images_NCHW: np.ndarray | Tensor) -> Callable[[slice], Tensor]:
    """Images that are there already (memory-mapped or not), as `extract` asks for them."""

    def read(rows: slice) -> Tensor:
        part = images_NCHW[rows]
        return part if isinstance(part, Tensor) else torch.from_numpy(np.array(part))

    return read


def measure_all(
    sets: Sequence[Callable[[], Features]], reference: Reference, protocol: Protocol, ranks: Ranks, what: str
) -> list[dict[str, float]]:
    """Scores of each set of images, on every rank: features are made together, each set's numbers by one rank.

    A set that raises NotFinite, on every rank, has NaN scores.
    """
    scores: list[dict[str, float]] = []
    with tqdm(total=len(sets), desc=what, unit="set", disable=not ranks.is_main) as bar:
        for group in chunked(len(sets), ranks.count):
            own: Features | None = None
            for owner, make in enumerate(sets[group]):
                features = _made(make)
                if owner == ranks.index:
                    own = features
                bar.update()
            mine = no_scores(protocol) if own is None else measure(own, reference, protocol)
            scores += ranks.gather(mine)[: len(sets[group])]
    return scores


def _made(make: Callable[[], Features]) -> Features | None:
    try:
        return make()
    except NotFinite:
        return None


def measure(generated: Features, reference: Reference, protocol: Protocol) -> dict[str, float]:
    """Every metric of the protocol's extractor, by its full name: generated (or control) rows against real."""
    features, real = generated.features_ND, reference.features_ND
    frechet = fid_statistics_to_metric(
        fid_features_to_statistics(features), {"mu": reference.mu, "sigma": reference.sigma}, verbose=False
    )
    kernel = kid_features_to_metric(
        features,
        real,
        kid_subsets=protocol.kid_subsets,
        kid_subset_size=protocol.kid_subset_size,
        rng_seed=protocol.rng_seed,
        verbose=False,
    )
    manifold = prc_features_to_metric(
        features,
        real,
        prc_neighborhood=protocol.prc_neighborhood,
        prc_batch_size=PRC_BATCH,
        save_cpu_ram=max(len(features), len(real)) > PRC_BATCH,
        verbose=False,
    )
    scores = {
        "fid": frechet[KEY_METRIC_FID],
        "kid": kernel[KEY_METRIC_KID_MEAN],
        "precision": manifold[KEY_METRIC_PRECISION],
        "recall": manifold[KEY_METRIC_RECALL],
    }
    named = {metric_name(base, protocol.extractor): value for base, value in scores.items()}
    if protocol.extractor == POINT_EXTRACTOR:
        named |= mode_scores(generated.logits_NK)
    elif known.classifies(protocol.extractor):
        inception = isc_features_to_metric(generated.logits_NK, protocol.isc_splits, rng_seed=protocol.rng_seed)
        named[metric_name("is", protocol.extractor)] = inception[KEY_METRIC_ISC_MEAN]
    return {name: named[name] for name in metric_names(protocol.extractor)}


def no_scores(protocol: Protocol) -> dict[str, float]:
    """NaN for every metric: what images that are no images score."""
    return dict.fromkeys(metric_names(protocol.extractor), math.nan)


def mean_scores(by_seed: list[dict[str, float]]) -> dict[str, float]:
    """Mean of every metric over the seeds; NaN when one of them is."""
    return {name: math.fsum(scores[name] for scores in by_seed) / len(by_seed) for name in by_seed[0]}
