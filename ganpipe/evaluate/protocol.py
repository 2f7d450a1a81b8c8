"""What a score was measured by. Numbers of unlike protocols are never compared.

A protocol describes the score of one sample seed. Which seeds a score is the mean of stands beside it
(`SnapshotScores.seeds`), so that choosing the best snapshot and scoring it share one protocol and one set of controls.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer

from .. import config as configuration
from ..config import RunConfig
from ..errors import InputError
from ..prepareconfig import PrepareConfig
from ..seeds import derive_seed
from ..spec import Direction
from . import known

FRECHET = "fid"
METRICS: dict[str, bool] = {
    FRECHET: True,
    "fid_inf": True,
    "kid": True,
    "is": False,
    "entropy_marginal": False,
    "entropy_conditional": True,
    "precision": False,
    "recall": False,
    "density": False,
    "coverage": False,
}
"""Base name of every metric of features -> whether lower is better."""
OF_CLASSES = frozenset({"is", "entropy_marginal", "entropy_conditional"})
"""Those that are read off class probabilities, which points have not."""
LABEL_METRICS: dict[str, bool] = {"label_accuracy": False}
"""Those of a generator that is asked for classes: `label_accuracy` is the share of its samples that the `domain`
classifier, which no training saw, reads as the class asked for."""
TEXT_METRICS: dict[str, bool] = {
    **dict.fromkeys(("text_digit", "text_weight", "text_slant", "text_all"), False),
    **dict.fromkeys(("text_digit_unseen", "text_weight_unseen", "text_slant_unseen", "text_all_unseen"), False),
    "text_diversity": False,
}
"""Those of a generator of captions whose meaning is known; see `told.py`. Share of samples that show the digit, the
weight, the slant, and all three that a caption asks for; the same of combinations that no training image has; and how
varied the samples of one caption are, as a multiple of real images'."""
OF_FEATURES = {**METRICS, **LABEL_METRICS, **TEXT_METRICS}
PARTNER_METRICS: dict[str, bool] = {"l1": True, "psnr": False, "ssim": False, "lpips": True}
"""Those of a translation beside its known target; see `partners.py`."""
CYCLE = "cycle_l1"
TRANSLATION_METRICS: dict[str, bool] = {**PARTNER_METRICS, CYCLE: True}
"""And of an image beside itself, there and back, where both ways are learnt."""
ONE_WAY = frozenset({FRECHET, "kid", "label_accuracy", *TRANSLATION_METRICS})
"""Base names of what is told of each direction, too, as `<metric>_AtoB`: without a direction it is the mean of both."""
POINT_EXTRACTOR = known.POINT
MODE_OVERLAP = "mode_overlap"
OF_MODES: dict[str, dict[str, bool]] = {
    known.POINT: {MODE_OVERLAP: False, "modes": False, "high_quality": False},
    known.TRIPLES: {"modes": False, "mode_kl": True, "confident": False},
}
"""Extractor of data whose modes are known -> name of every metric of theirs -> whether lower is better; see
`modes.py`."""
MODE_METRICS: dict[str, bool] = {name: lower for metrics in OF_MODES.values() for name, lower in metrics.items()}
SINCE_2 = ("blocks", "density_neighborhood", "fid_inf_points", "fid_inf_repeats", "class_rows")
"""Fields of a protocol that its format 1 had not."""
STANDARD_EXTRACTOR = known.INCEPTION
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
    """Of translations: test image i of its source side is what sample i is made of, the first one again after the last.
    None: of other data."""
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


def metric_name(base: str, extractor: str) -> str:
    """`fid` with the standard Inception extractor, `fid_<extractor>` with any other; likewise for the other metrics."""
    return base if extractor == STANDARD_EXTRACTOR else f"{base}_{known.slug(extractor)}"


def metric_names(
    extractor: str, labelled: bool = False, told: bool = False, translated: Collection[str] = ()
) -> dict[str, bool]:
    """Name of every metric measured with this extractor, of generators of classes, of captions whose meaning is known,
    of those that translate, or of others -> whether lower is better. `translated` are some of TRANSLATION_METRICS."""
    of_asked = {**(LABEL_METRICS if labelled else {}), **(TEXT_METRICS if told else {})}
    of_features = {
        metric_name(base, extractor): lower
        for base, lower in {**METRICS, **(of_asked if extractor == "domain" else {})}.items()
        if base not in OF_CLASSES or known.classifies(extractor)
    }
    of_translations = {base: lower for base, lower in TRANSLATION_METRICS.items() if base in translated}
    return {**OF_MODES.get(extractor, {}), **of_features, **of_translations}


def one_way(metric: str, direction: Direction) -> str:
    """The metric of one direction of unpaired data."""
    return f"{metric}_{direction}"


def base_name(metric: str) -> str | None:
    """The key of OF_FEATURES or TRANSLATION_METRICS that a metric's full name begins with; None for others."""
    bases = (*OF_FEATURES, *TRANSLATION_METRICS)
    fitting = [base for base in bases if metric == base or metric.startswith(f"{base}_")]
    return max(fitting, key=len, default=None)


def default_metric(names: Iterable[str]) -> str:
    """What is compared by unless another is asked for: of points their `mode_overlap`, else the Frechet distance.

    Points of one Gaussian have the mean and covariance, and even the third moments, of a ring or a grid: neither a
    Frechet distance nor KID's cubic kernel tells them apart.
    """
    names = list(names)
    return next((name for name in names if name == MODE_OVERLAP), None) or next(
        name for name in names if base_name(name) == FRECHET
    )


def gate_metric(config: RunConfig) -> str:
    """What the run's snapshots are compared by.

    Raises InputError when `register.metric` or `register.require` names something that is not measured.
    """
    names = _measured(config)
    asked = {"register.metric": config.registration.metric}
    asked.update({f"register.require.{name}": name for name in config.registration.require})
    for field, name in asked.items():
        if name is not None and name not in names:
            if base_name(name) in LABEL_METRICS:
                raise InputError(
                    f"{field} is for generators of classes, read by the extractor `domain`: this gan section takes no "
                    f"labels, or evaluate.extractor is another one ({config.evaluate.extractor}); leave it out"
                )
            if base_name(name) in TEXT_METRICS:
                raise InputError(
                    f"{field} is for generators of captions whose meaning is known, as of prepare.source "
                    f"captioned_digits, read by the extractor `domain`: gan.name is {config.gan.name}, prepare.source "
                    f"{config.prepare.source.name}, evaluate.extractor {config.evaluate.extractor}; leave it out"
                )
            raise InputError(
                f"{field}: {name!r} is not measured with evaluate.extractor={config.evaluate.extractor}; "
                f"there is {', '.join(names)}"
            )
    for name, wanted in config.registration.require.items():
        if wanted.times is not None and wanted.times not in (there := _controls(config, name)):
            raise InputError(
                f"register.require.{name}.times: {wanted.times} has no {name} of these data; "
                f"there is {', '.join(there) or 'no control with one'}"
            )
    return config.registration.metric or default_metric(names)


def _controls(config: RunConfig, metric: str) -> list[str]:
    """Names of those that have such a metric."""
    if not _translates(config):
        return ["real", "pca_gaussian", "resampled_train"]
    base = base_name(metric)
    if base == CYCLE:
        return []
    trivial = ["identity", "constant_mean", "resampled_train"]
    trivial += ["inversion"] if config.prepare.source.name == "restyled_digits" else []
    return trivial if base in PARTNER_METRICS else ["real", *trivial]


def _translates(config: RunConfig) -> bool:
    return config.recipe().output(config.prepare.columns) == "translation"


def _measured(config: RunConfig) -> dict[str, bool]:
    """Every metric that may be measured of such a run, as far as it can be told before there is data."""
    taken, prepare, extractor = config.columns(), config.prepare, config.evaluate.extractor
    if not _translates(config):
        told = "caption" in taken and "meaning" in prepare.columns
        return metric_names(extractor, labelled="label" in taken, told=told)
    assert isinstance(prepare, PrepareConfig)
    of_pairs = PARTNER_METRICS if prepare.knows_partners else {}
    both = "b" in prepare.columns
    names = metric_names(extractor, labelled=prepare.labelled, translated={*of_pairs, *([CYCLE] if both else [])})
    if not both:
        return names
    split = {
        one_way(name, direction): lower
        for name, lower in names.items()
        for direction in get_args(Direction)
        if base_name(name) in ONE_WAY
    }
    return {**names, **split}


def lower_is_better(metric: str) -> bool:
    """Direction of a metric by its full name. Raises InputError for an unknown one."""
    if metric in MODE_METRICS:
        return MODE_METRICS[metric]
    base = base_name(metric)
    if base is None:
        raise InputError(
            f"{metric!r} is no metric; there is {', '.join(OF_FEATURES)}, each with _<extractor> but "
            f"for inception, and {', '.join((*MODE_METRICS, *TRANSLATION_METRICS))}"
        )
    return {**OF_FEATURES, **TRANSLATION_METRICS}[base]


def seeds(purpose: str, count: int) -> list[int]:
    """`count` sample seeds of one purpose (`select`, `score`, ...); those of different purposes share none."""
    return [derive_seed("evaluate", purpose, index) for index in range(count)]
