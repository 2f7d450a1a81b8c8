"""What a score was measured by. Numbers of unlike protocols are never compared.

A protocol describes the score of one sample seed. Which seeds a score is the mean of stands beside it
(`SnapshotScores.seeds`), so that choosing the best snapshot and scoring it share one protocol and one set of controls.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer

from .. import config as configuration
from ..errors import InputError
from ..seeds import derive_seed
from ..spec import Direction
from . import known

if TYPE_CHECKING:
    from ..evaluateconfig import EvaluateConfig

SINCE_2 = ("blocks", "density_neighborhood", "fid_inf_points", "fid_inf_repeats", "class_rows")
"""Fields of a protocol that its format 1 had not."""
OF_NEWER_DATA = ("phrasings", "direction", "likeness", "back")
"""Fields that stand in a protocol only of data that they have something to say of."""
UNCOUNTED = frozenset({"name", "classes_asked"})
"""Fields of a protocol that are no part of its hash."""
Split = Literal["train", "test", "all"]
"""`all`: of images that are no data set of ganpipe's, and so have no splits."""


@dataclass(frozen=True)
class Named:
    """What a named protocol fixes."""

    extractor: str
    reference_split: Literal["train", "test"]
    n_generated: int
    n_reference: int
    """Most real images that are measured against: all there are, when they are fewer..."""
    least: int
    """...but never fewer than this."""

    def require(self, name: str, reference: int, what: str) -> None:
        """Raise InputError when there are too few real images: `what` names them."""
        if reference < self.least:
            raise InputError(
                f"protocol {name} wants {self.least:,} images to measure against, and {what} has {reference:,}; "
                "name another protocol, or none"
            )


NAMED: dict[str, Named] = {
    "fid50k-train": Named(known.INCEPTION, "train", 50_000, 50_000, 2),
    "fid10k-train": Named(known.INCEPTION, "train", 10_000, 50_000, 2),
    "fid10k-test": Named(known.INCEPTION, "test", 10_000, 10_000, 10_000),
}
"""Protocols that papers name: so many generated images against the training images, or against the test images."""


def named(protocol: str) -> Named:
    """The protocol of this name. Raises InputError listing what there is."""
    if protocol not in NAMED:
        raise InputError(f"there is no protocol {protocol!r}; there is {', '.join(NAMED)}")
    return NAMED[protocol]


def with_fixed(evaluate: Any) -> Any:
    """A raw `evaluate` section with what its named protocol fixes. Raises InputError when it says otherwise."""
    name = evaluate.get("protocol") if isinstance(evaluate, dict) else None
    if name is None:
        return evaluate
    wanted = named(name)
    fixed = {"extractor": wanted.extractor, "num_samples": wanted.n_generated}
    for field, value in fixed.items():
        if evaluate.get(field, value) not in (value, None):
            raise InputError(
                f"evaluate.{field} is {evaluate[field]}, and evaluate.protocol {name} fixes it at {value}; leave "
                "one of them out"
            )
    return {**evaluate, **fixed}


def check_translations(evaluate: EvaluateConfig, test_images: Sequence[int]) -> None:
    """Raise InputError when more are asked for than there are test images to translate, of each side so many: the same
    ones again would tell nothing more. A named protocol needs its number on every side."""
    if evaluate.protocol is not None:
        there, fixed = min(test_images), f", which evaluate.protocol {evaluate.protocol} fixes,"
    else:
        there, fixed = max(test_images), ""
    if (evaluate.num_samples or 0) > there:
        mend = "leave it out" if evaluate.protocol is None else "name no protocol"
        raise InputError(
            f"evaluate.num_samples{fixed} is {evaluate.num_samples:,}, and there are {there:,} test images to "
            f"translate; {mend}"
        )


class Controls(BaseModel):
    """How the images are made that are no GAN's; see `controls.py`."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    draws: int = 3
    """Random draws that the score of a random control is the mean of."""
    pca_images: int = 4096
    """Most training images that the Gaussian is fitted to."""
    pca_pixels: int = 64
    """Largest side, pixels, that it is fitted at; its samples are enlarged to the data's resolution."""
    pca_variance: float = 0.95
    """Share of the variance that its components keep..."""
    pca_components: int = 256
    """...unless that takes more than this many of them."""


class Protocol(BaseModel):
    """All that a score depends on besides the generator and the sample seed."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    format: Literal[1, 2] = 2
    """1 was without SINCE_2: such protocols are read, and nothing is measured by them any more."""
    name: str | None = None
    """Which of NAMED was asked for. No part of the hash: what counts is what it fixes."""
    extractor: str
    """Name of the feature extractor."""
    weights_sha256: str
    """sha256 of the file with its weights."""
    torch_fidelity: str
    """Version of the library whose functions turn features into numbers."""
    dataset_digest: str
    """Of the data set, or of all pixels of images that are none."""
    reference_split: Split = "train"
    """Generated images are measured against this split."""
    control_split: Literal["test", "train"] | None = "test"
    """The `real` control: real images that are not measured against. With `test`, none that anything was trained on."""
    resize: str
    """How the extractor brings an image to its own resolution."""
    n_reference: int
    """Images of the reference split, the first ones in the order of their content hash."""
    n_generated: int
    """Images on the generated side, for each seed."""
    chunk: int
    """Images in every forward pass of generator and extractor, but for the extractor's last."""
    ema: Literal[True] = True
    """The moving average of the generator's weights is what samples."""
    classes_asked: Literal["train", "uniform"] = "train"
    """How often a generator of classes is asked for each: as often as training images are of it, or, where the real
    images have no labels, each alike. No part of the hash: it follows from the data, and most generators are asked
    nothing."""
    phrasings: str | None = None
    """Of data whose captions' meaning is known: which sentences generators are asked with. None: of other data."""
    direction: Direction | None = None
    """Of translations: test image i of its source side is what sample i is made of. None: of other data."""
    likeness: str | None = None
    """What measures translations beside their targets, where these are known. None: of other data."""
    back: Protocol | None = None
    """Of unpaired data: the protocol of the other direction."""
    precision: Literal["fp32"] = "fp32"
    """Of generator and extractor."""
    rng_seed: int = 2020
    """Seed of KID's subsets and of the order of images in IS; torch-fidelity's default."""
    kid_subsets: int
    kid_subset_size: int
    isc_splits: int
    prc_neighborhood: int
    """Precision and recall: the manifold's balls reach to the k-th nearest neighbour."""
    blocks: int = 16
    """Of the generated side, for `fid_inf` and the half-samples of intervals; see `resampling.py`."""
    density_neighborhood: int = 5
    """Density and coverage: likewise, of real images only."""
    fid_inf_points: int = 4
    """Numbers of images, from half of them to all, that `fid_inf` is the limit of..."""
    fid_inf_repeats: int = 4
    """...each the mean over so many random unions of blocks, or all balanced halves."""
    class_rows: int = 10
    """Fewest images of a class on each side that its own scores are measured with."""
    controls: Controls = Controls()

    @model_serializer(mode="wrap")
    def _as_before(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without what only newer kinds of data have it is written as before there were any: hashes hang on it."""
        written: dict[str, Any] = handler(self)
        return {name: value for name, value in written.items() if value is not None or name not in OF_NEWER_DATA}

    @property
    def held_out(self) -> str:
        """The control split of a data set, which always has one."""
        assert self.control_split is not None
        return self.control_split

    @property
    def hash(self) -> str:
        """First 16 hex digits of the sha256 of the canonical JSON."""
        canonical = json.dumps(_counted(self), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def differences(before: Protocol, after: Protocol) -> list[str]:
    """`field: old -> new` for every field in which two protocols differ."""
    return configuration.differences(_counted(before), _counted(after))


def _counted(protocol: Protocol) -> dict[str, Any]:
    """All that counts, without what its format had not, as JSON values."""
    counted = protocol.model_dump(mode="json", exclude={*UNCOUNTED, *(SINCE_2 if protocol.format == 1 else ())})
    return counted if protocol.back is None else {**counted, "back": _counted(protocol.back)}


def headline(protocol: Mapping[str, Any], hash: str) -> str:
    """A protocol in a few words, for beside a score: `fid50k-train 0123456789abcdef (inception, 50,000 ...)`.

    Of a protocol of another version, whose fields are others, only the hash is told.
    """
    named = f"{protocol['name']} " if protocol.get("name") else ""
    if not {"extractor", "n_generated", "n_reference", "reference_split"} <= protocol.keys():
        return f"{named}{hash}"
    n, reference = protocol["n_generated"], protocol["n_reference"]
    split = "" if protocol["reference_split"] == "all" else f" of {protocol['reference_split']}"
    return f"{named}{hash} ({protocol['extractor']}, {n:,} generated against {reference:,}{split})"


def require_same(before: Protocol, after: Protocol, seeds: tuple[Sequence[int], Sequence[int]] | None = None) -> None:
    """Refuse to compare scores of unlike protocols, or of unlike sample seeds when both sides' are given.

    Raises InputError listing the differences.
    """
    lines = differences(before, after)
    if seeds is not None and list(seeds[0]) != list(seeds[1]):
        lines.append(f"sample seeds: {list(seeds[0])} -> {list(seeds[1])}")
    if lines:
        raise InputError(
            "scores of unlike protocols cannot be compared:\n  "
            + "\n  ".join(lines)
            + "\nScore both sides afresh under one protocol."
        )


def seeds(purpose: str, count: int) -> list[int]:
    """`count` sample seeds of one purpose (`select`, `score`, ...); those of different purposes share none."""
    return [derive_seed("evaluate", purpose, index) for index in range(count)]
