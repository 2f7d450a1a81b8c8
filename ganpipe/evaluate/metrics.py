"""What is measured, by name: of which extractor and which generators, whether lower is better, and what a gate asks."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import get_args

from ..config import RunConfig
from ..errors import InputError
from ..prepareconfig import PrepareConfig
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
STANDARD_EXTRACTOR = known.INCEPTION


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
