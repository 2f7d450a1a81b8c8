"""From features to numbers: every metric of one pass over the images, its interval, and the same class by class.

Frechet distance (arXiv:1706.08500), KID (arXiv:1801.01401), Inception score (arXiv:1606.03498), precision and recall
(arXiv:1904.06991) equal torch-fidelity's to 1e-6. Beside them stands what they hide: `fid_inf`, the Frechet distance at
infinite n; the Inception score's two entropies, of which variety raises the one and confidence lowers the other;
density and coverage. Generated rows come first and real ones second, as in `torch_fidelity.calculate_metrics`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, isc_features_to_metric
from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, KEY_METRIC_KID_STD, kid_features_to_metric
from tqdm import tqdm

from ..errors import InputError
from ..ranks import Ranks
from ..refs import Scores
from . import known, resampling
from .by_class import by_class
from .fidelity import Features, NotFinite, chunked
from .frechet import Distances, Gaussian, at_infinity, mean_part, moments
from .manifold import manifold, radii
from .metrics import MODE_METRICS, TRANSLATION_METRICS, base_name, metric_names
from .modes import mode_scores, triple_scores
from .protocol import Protocol
from .resampling import Estimate, estimate, without_bias

BOUNDS: dict[str, tuple[float, float]] = {
    "kid": (-math.inf, math.inf),
    "psnr": (-math.inf, math.inf),
    "ssim": (-1, 1),
    "is": (1, math.inf),
    **dict.fromkeys(
        (
            *("precision", "recall", "coverage", "label_accuracy"),
            *("mode_overlap", "high_quality", "confident"),
        ),
        (0, 1),
    ),
}
"""Least and largest possible value of a metric, by its base name; 0 and infinity where it is missing."""


@dataclass(frozen=True)
class Reference:
    """The real side."""

    features_ND: Tensor
    logits_NK: Tensor
    radii_N2: Tensor
    """Distances to the neighbours that precision and recall, and density and coverage, reach to."""
    mu: np.ndarray
    """(D,), float32."""
    sigma: np.ndarray
    """(D, D), float64."""
    held_out_MD: Tensor | None = None
    """Features of the control split, which alarms are calibrated on; None for images that are no data set."""
    classes: tuple[str, ...] = ()
    """What the logits stand for; empty when they are no classes of the data."""

    @classmethod
    def of(
        cls, real: Features, protocol: Protocol, held_out: Features | None = None, classes: tuple[str, ...] = ()
    ) -> Reference:
        """Raises InputError when all images have the same features."""
        mu, sigma = moments(real.features_ND)
        if not np.trace(np.atleast_2d(sigma)) > 0:
            raise InputError(
                f"all {len(real)} real images have the same features, and nothing can be measured against them: "
                "is the data set one image over and over?"
            )
        near = radii(real.features_ND, (protocol.prc_neighborhood, protocol.density_neighborhood))
        others = None if held_out is None else held_out.features_ND
        return cls(real.features_ND, real.logits_NK, near, mu, sigma, others, classes)

    def trained_on(self, protocol: Protocol) -> tuple[Tensor, Tensor]:
        """Features of a data set's training images and of its test images, whichever are measured against."""
        assert self.held_out_MD is not None
        sides = self.features_ND, self.held_out_MD
        return sides if protocol.reference_split == "train" else sides[::-1]

    @cached_property
    def gaussian(self) -> Gaussian:
        return Gaussian.of_rows(self.features_ND, self.mu, self.sigma)


@dataclass(frozen=True)
class Measured:
    """Scores of one set of images, by metric."""

    scores: dict[str, float]
    estimates: dict[str, Estimate] = field(default_factory=dict)
    """Of the metrics that have an interval."""
    by_class: dict[str, dict[str, float]] = field(default_factory=dict)
    """metric -> class -> score"""


def measure_all(
    sets: Sequence[Callable[[], Features]], reference: Reference, protocol: Protocol, ranks: Ranks, what: str
) -> list[Measured]:
    """Scores of each set of images, on every rank: features are made together, each set's numbers by one rank.

    A set that raises NotFinite, on every rank, has NaN scores.
    """
    found: list[Measured] = []
    with tqdm(total=len(sets), desc=what, unit="set", disable=not ranks.is_main) as bar:
        for group in chunked(len(sets), ranks.count):
            own: Features | None = None
            for owner, make in enumerate(sets[group]):
                features = _made(make)
                if owner == ranks.index:
                    own = features
                bar.update()
            mine = Measured(no_scores(protocol)) if own is None else measure(own, reference, protocol)
            found += ranks.gather(mine)[: len(sets[group])]
    return found


def _made(make: Callable[[], Features]) -> Features | None:
    try:
        return make()
    except NotFinite:
        return None


def measure(generated: Features, reference: Reference, protocol: Protocol) -> Measured:
    """Every metric of the protocol's extractor, by its full name: generated (or control) rows against real."""
    n = len(generated)
    blocks = min(n, protocol.blocks)
    halves = resampling.half_samples(blocks) if n >= 2 * protocol.blocks else None
    scores: dict[str, float] = {}
    estimates: dict[str, Estimate] = {}
    parts: list[Callable[[Features, Reference, Protocol, int, Tensor | None], Part]] = [_frechet, _kernel]
    if protocol.extractor in SCORES_OF_MODES:
        parts.append(_modes)
    elif known.classifies(protocol.extractor):
        parts.append(_entropies)
    if generated.classes is not None and reference.classes:
        parts.append(_label_accuracy)
    if generated.beside:
        parts.append(_beside)
    for part in parts:
        of_part, estimated = part(generated, reference, protocol, blocks, halves)
        scores |= of_part
        estimates |= estimated
    scores |= generated.told
    lain = manifold(
        generated.features_ND,
        reference.features_ND,
        reference.radii_N2,
        (protocol.prc_neighborhood, protocol.density_neighborhood),
        blocks,
        torch.ones(0, blocks, dtype=torch.bool) if halves is None else halves,
    )
    scores |= lain.scores()
    if halves is not None:
        of_halves = {
            "precision": resampling.shares(lain.precise_N, halves),
            "recall": lain.recall_J,
            "density": resampling.shares(lain.balls_N, halves),
        }
        estimates |= {base: estimate(scores[base], values) for base, values in of_halves.items()}
        estimates["coverage"] = resampling.jackknife(scores["coverage"], lain.coverage_without())
    found = metric_names(protocol.extractor, labelled=True, told=True, translated=TRANSLATION_METRICS)
    names = {name: name if name in MODE_METRICS else base_name(name) for name in found}
    of_classes = {}
    if reference.classes:  # some extractors give no logits, and others none of the data's classes
        of_classes = by_class(
            (generated.features_ND, _class_numbers(generated, reference)),
            (reference.features_ND, reference.logits_NK.argmax(1)),
            lain.recalled_M,
            reference.classes,
            protocol.extractor,
            protocol.class_rows,
        )
    return Measured(
        {name: scores[base] for name, base in names.items() if base in scores},
        {name: estimates[base] for name, base in names.items() if base in estimates},
        of_classes,
    )


def _class_numbers(rows: Features, reference: Reference) -> Tensor:
    """Of each row, (N,), among the reference's classes: the class asked for, or the one read; -1 for any other."""
    if rows.classes is None:
        return rows.logits_NK.argmax(1)
    number = {name: number for number, name in enumerate(reference.classes)}
    return torch.tensor([number.get(name, -1) for name in rows.classes])


Part = tuple[dict[str, float], dict[str, Estimate]]
"""Scores and estimates, by base name."""


def _frechet(generated: Features, reference: Reference, protocol: Protocol, blocks: int, halves: Tensor | None) -> Part:
    distances = Distances(generated.features_ND, reference.gaussian, blocks)
    limit = at_infinity(distances, protocol.fid_inf_points, protocol.fid_inf_repeats, protocol.rng_seed)
    scores = {
        "fid": mean_part(generated.features_ND, reference.mu) + distances.covariance_part(),
        "fid_inf": limit,
    }
    if halves is None or len(generated) <= 2 * len(reference.mu):  # a half's covariance would be singular
        return scores, {}
    spread = estimate(limit, [distances.distance(half) for half in halves])
    return scores, {"fid": spread, "fid_inf": spread}


def _kernel(generated: Features, reference: Reference, protocol: Protocol, _: int, halves: Tensor | None) -> Part:
    found = kid_features_to_metric(
        generated.features_ND,
        reference.features_ND,
        kid_subsets=protocol.kid_subsets,
        kid_subset_size=protocol.kid_subset_size,
        rng_seed=protocol.rng_seed,
        verbose=False,
    )
    kid = found[KEY_METRIC_KID_MEAN]
    if halves is None:
        return {"kid": kid}, {}
    made, real = (side.features_ND[: resampling.KERNEL_ROWS] for side in (generated, reference))
    of_rows = estimate(kid, resampling.kernel_distances(made, real, halves))
    # What the subsets add to all rows, and what these rows have to do with all samples.
    drawn = found[KEY_METRIC_KID_STD] / protocol.kid_subsets**0.5
    error = math.hypot(of_rows.error * (len(made) / len(generated)) ** 0.5, drawn)
    return {"kid": kid}, {"kid": Estimate(kid, error, of_rows.freedom, of_rows.halves)}


def _entropies(generated: Features, real: Reference, protocol: Protocol, blocks: int, halves: Tensor | None) -> Part:
    """exp(entropy_marginal - entropy_conditional) is the Inception score, but for the mean over splits."""
    logits = generated.logits_NK
    found = isc_features_to_metric(logits, protocol.isc_splits, rng_seed=protocol.rng_seed)
    order = np.random.RandomState(protocol.rng_seed).permutation(len(logits))  # its own splits
    splits = protocol.isc_splits
    bounds = [part * len(logits) // splits for part in range(splits + 1)]
    whole = torch.ones(1, 1, dtype=torch.bool)
    pairs = [resampling.entropies(logits[order[start:stop]], whole) for start, stop in pairwise(bounds)]
    marginal, conditional = (float(torch.cat(values).mean()) for values in zip(*pairs, strict=True))
    scores = {
        "is": found[KEY_METRIC_ISC_MEAN],
        "entropy_marginal": marginal,
        "entropy_conditional": conditional,
    }
    if halves is None:
        return scores, {}
    all_marginal, all_conditional = resampling.entropies(logits, whole)
    marginal_J, conditional_J = resampling.entropies(logits, halves)
    marginal_rest_J, _ = resampling.entropies(logits, ~halves)
    unsplit = float((all_marginal - all_conditional).exp())
    return scores, {
        "is": without_bias(unsplit, (marginal_J - conditional_J).exp()),
        "entropy_marginal": resampling.with_complements(float(all_marginal), marginal_J, marginal_rest_J),
        "entropy_conditional": estimate(float(all_conditional), conditional_J),
    }


def _label_accuracy(generated: Features, reference: Reference, _: Protocol, blocks: int, halves: Tensor | None) -> Part:
    """Of the rows whose class the classifier knows."""
    class_N = _class_numbers(generated, reference)
    known_N = class_N >= 0
    right_N = generated.logits_NK.argmax(1)[known_N] == class_N[known_N]
    if not len(right_N):
        return {}, {}
    accuracy = float(right_N.double().mean())
    if halves is None or len(right_N) < 2 * blocks:
        return {"label_accuracy": accuracy}, {}
    return {"label_accuracy": accuracy}, {"label_accuracy": estimate(accuracy, resampling.shares(right_N, halves))}


def _beside(generated: Features, _: Reference, protocol: Protocol, blocks: int, halves: Tensor | None) -> Part:
    from . import partners

    scores: dict[str, float] = {}
    estimates: dict[str, Estimate] = {}
    for name, rows_N in generated.beside.items():
        base, value = partners.score(name, float(rows_N.mean()))
        scores[base] = value
        if halves is not None:
            values = [partners.score(name, float(mean))[1] for mean in resampling.shares(rows_N, halves)]
            estimates[base] = estimate(value, values)
    return scores, estimates


SCORES_OF_MODES: dict[str, Callable[[Tensor], dict[str, float]]] = {
    known.POINT: mode_scores,
    known.TRIPLES: triple_scores,
}
"""Extractor -> scores of what it returns in the place of logits."""


def _modes(generated: Features, _: Reference, protocol: Protocol, blocks: int, halves: Tensor | None) -> Part:
    scored = SCORES_OF_MODES[protocol.extractor]
    scores = scored(generated.logits_NK)
    if halves is None:
        return scores, {}
    block_N = torch.arange(len(generated)) % blocks
    of_halves = [scored(generated.logits_NK[half[block_N]]) for half in halves]
    return scores, {name: estimate(value, [half[name] for half in of_halves]) for name, value in scores.items()}


def no_scores(protocol: Protocol) -> dict[str, float]:
    """NaN for every metric: what images that are no images score."""
    return dict.fromkeys(metric_names(protocol.extractor), math.nan)


def mean_of(sets: Sequence[Measured], independent: bool = True) -> Scores:
    """Mean over sets of as many images; NaN, and without interval, when one of them is.

    A class's score is the mean over the sets, if all have it. Sets that are not `independent` tell no more than one.
    """
    first = sets[0]
    names = dict.fromkeys(name for one in sets for name in one.scores)
    means = {name: math.fsum(one.scores.get(name, math.nan) for one in sets) / len(sets) for name in names}
    intervals = {}
    for name in names:
        parts = [one.estimates[name] for one in sets if name in one.estimates]
        if len(parts) == len(sets) and math.isfinite(means[name]):
            base = name if name in MODE_METRICS else base_name(name)
            parts = parts if independent else [resampling.typical(parts)]
            intervals[name] = resampling.interval(parts, BOUNDS.get(base or name, (0, math.inf)))
    classes = {
        metric: {
            name: math.fsum(one.by_class[metric][name] for one in sets) / len(sets)
            for name in by_name
            if all(name in one.by_class.get(metric, {}) for one in sets)
        }
        for metric, by_name in first.by_class.items()
    }
    return Scores(scores=means, intervals=intervals, by_class={name: of for name, of in classes.items() if of})


def values_on_halves(sets: Sequence[Measured]) -> dict[str, list[float]]:
    """metric -> its mean over the sets on each balanced half, where halves tell its error."""
    return {
        name: list(halves)
        for name in sets[0].estimates
        if all(name in one.estimates for one in sets)
        and (halves := resampling.typical([one.estimates[name] for one in sets]).halves)
    }
