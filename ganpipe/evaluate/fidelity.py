"""From images to features: one pass, in chunks that are dealt out to the ranks. `scores.py` makes numbers of them."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch_fidelity import FeatureExtractorBase
from tqdm import tqdm

from ..errors import InputError, Interrupted, WorkFailed
from ..evaluateconfig import EvaluateConfig
from ..launch import StopSignal
from ..prepare.captions import held_out_version
from ..prepare.manifest import Dataset
from ..ranks import Ranks
from ..sample import CHUNK
from . import known
from .extractors import Weights
from .protocol import NAMED, Protocol

MAX_REFERENCE = 50_000
"""Training images measured against; more do not fit a distance matrix in memory and change little."""
MANY = 5_000
"""From this many images in every set on, KID and IS have torch-fidelity's default subsets and splits."""


@dataclass(frozen=True)
class Features:
    """What the extractor saw in a set of images or points, float32 on the CPU."""

    features_ND: Tensor
    logits_NK: Tensor
    """Of points: their distances to the modes instead."""
    classes: tuple[str, ...] | None = None
    """Of each row by name, where it is known: the one asked for, or a real image's label."""
    captions: tuple[str, ...] | None = None
    """Of each row, where a text was asked for."""
    told: Mapping[str, float] = field(default_factory=dict)
    """Base name of a metric -> how well the images' maker does what texts ask for; see `told.py`."""
    beside: Mapping[str, Tensor] = field(default_factory=dict)
    """Name -> (N,), how each translation compares with its known target, or with itself, there and back; see
    `partners.py`."""

    def __len__(self) -> int:
        return len(self.features_ND)


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
    fields: dict[str, Any] = {"classes_asked": "train" if "label" in dataset.spec() else "uniform"}
    if "meaning" in dataset.spec():
        fields["phrasings"] = held_out_version()
    if config.protocol is not None and NAMED[config.protocol].reference_split == "test":
        fields |= {"reference_split": "test", "control_split": "train"}
    return protocol_of(Counts.of(config, dataset), dataset.digest, weights, name=config.protocol, **fields)


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
        density_neighborhood=min(5, counts.reference - 1),
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
    Raises NotFinite, on every rank, when `images` does on one; WorkFailed for features that are NaN or infinite, or not
    one row for each image; Interrupted.
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
    _require_rows(extractor, pairs, chunks)
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


def _require_rows(extractor: FeatureExtractorBase, pairs: list[tuple[Tensor, Tensor]], chunks: list[slice]) -> None:
    """Raise WorkFailed unless every chunk has features and logits in rows, all as long as the first chunk's."""
    for pair, rows in zip(pairs, chunks, strict=True):
        for what, found, first in zip(("features", "logits"), pair, pairs[0], strict=True):
            shape = tuple(found.shape)
            if len(shape) != 2 or shape != (rows.stop - rows.start, first.shape[-1]):
                raise WorkFailed(
                    f"the feature extractor {extractor.get_name()} returned {what} of shape {shape} for "
                    f"{rows.stop - rows.start} images: it must return one row for each, as many numbers in every row"
                )
