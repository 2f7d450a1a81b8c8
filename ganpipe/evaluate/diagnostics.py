"""Alarms: what is wrong with a generator when a score alone does not say it.

From features of generated samples, training images and held-out real images, four questions:

- `duplicates`: do samples have near-duplicates among themselves, as of a generator that makes few images?
- `missing_class`: is a class (without labels: a cluster of training images) rare or absent among them?
- `memorised`: do they lie nearer to training images than held-out real images do? (cf. arXiv:2004.05675)
- `low_quality`: are few of them like any training image, as held-out real images are?

No threshold on a distance is a constant: each is what held-out real images of the same data have. Held-out images and
samples of a perfect generator are draws of one distribution, so counts of both are compared by exact tests, and a
perfect generator raises an alarm with a probability of at most LEVEL each. Significance alone would blame every
generator once samples are many, so that an alarm asks for a difference that matters as well (MANY, RARE, LOW).
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..refs import Alarm, ClassShare, Diagnostics
from .neighbours import Nearness, nearest

LEVEL = 1e-3
"""Probability that an alarm is raised by samples that are as good as held-out real images; less for most."""
TAIL = 0.01
"""Share of the held-out images that count as unusually near: to each other, or to training images."""
DUPLICATE = 0.5
"""Near-duplicates are nearer than this share of what is unusually near: a generator without some of the classes has
more samples of the others, and nearer ones, and is no generator of few images."""
TINY = 0.05
"""Distances below this share of the median are unusually near in any data, even in one that holds duplicates itself."""
MANY = 0.05
"""Duplicates and copies are too many from this share of the samples on, five times that of what is unusually near..."""
RARE = 0.5
"""...a class is rare below this share of its real frequency..."""
LIKE = 0.9
"""Share of the held-out images that is like training images: nearer than a distance that this makes."""
LOW = 0.2
"""...and quality is low when less than this share of LIKE is: the alarm is for what is no image of this data, not for a
generator that leaves to be desired (see benchmarks/RESULTS.md). Precision (arXiv:1904.06991) would be its statistic, if
balls around outliers did not hold the noisiest of images."""
CLEAR = 1 / 3
"""Classes are judged from this share of LIKE on: what is like no image may be of any class."""
MAX_CLUSTERS = 20
IMAGES_PER_CLUSTER = 30
"""Held-out images, on average: clusters of fewer could go missing unnoticed."""
MAX_ROWS = 10_000
"""Of samples, and of held-out images, that are looked at: the first ones."""
EXAMPLES = 8


@dataclass(frozen=True)
class Real:
    """What samples are held against, in one feature space, float32. The generator saw `train_ND` and not the rest."""

    train_ND: Tensor
    held_out_MD: Tensor
    labels_N: Tensor | None = None
    """Class numbers of the training images; None: clusters take the place of classes."""
    names: Sequence[str] = ()
    """Of the classes, by number; empty: the numbers are the names."""


def diagnose(generated_ND: Tensor, real: Real) -> Diagnostics:
    """All alarms of the samples with these features, float32; two rows at least on each side."""
    generated_ND, held_out_MD = generated_ND[:MAX_ROWS], real.held_out_MD[:MAX_ROWS]
    own_N, other_N = nearest(real.train_ND, real.train_ND, same=True)
    ours, theirs = (Nearness.of(rows, real.train_ND, own_N) for rows in (generated_ND, held_out_MD))
    same, quality = duplicates(generated_ND, held_out_MD), low_quality(ours, theirs)
    groups = Groups.of(real, len(held_out_MD))
    counts_C, real_C = groups.count(ours.index_N), groups.count(torch.cat([other_N, theirs.index_N]))
    # Samples that are one another's duplicates are few images, whatever they look like, and not of all classes.
    if (quality.statistic or 0) < CLEAR * LIKE and not same.raised:
        missing = Alarm(
            name="missing_class", raised=False, statistic=None, threshold=None,
            detail=f"{groups.kind} are not judged: too few samples are like training images",
        )  # fmt: skip
    else:
        missing = missing_class(counts_C, real_C, groups)
    return Diagnostics(
        generated=len(generated_ND),
        held_out=len(held_out_MD),
        alarms=[same, missing, memorised(ours, theirs), quality],
        kind=groups.kind,
        classes=[
            ClassShare(name=name, real=known / int(real_C.sum()), generated=made / int(counts_C.sum()))
            for name, made, known in zip(groups.names, counts_C.tolist(), real_C.tolist(), strict=True)
        ],
    )


# --- tests -------------------------------------------------------------------------------------------------------


def most_below(n: int, m: int, rank: int, level: float = LEVEL) -> int:
    """How many of n draws may lie below the rank-th smallest of m more draws of the same distribution.

    That number is beta-binomial whatever the distribution is (the precedence test, Nelson 1963); the result is exceeded
    with a probability of at most `level`.
    """
    from scipy.stats import betabinom

    return int(betabinom.isf(level, n, rank, m - rank + 1))


def fewest(n: int, hits: int, m: int, share: float, level: float) -> int:
    """How many hits among n draws are enough, when there are `hits` among m real ones.

    Fewer have a probability of at most `level` (Fisher's exact test, one-sided) and are less than `share` of the real
    frequency. 0 when no number is too small.
    """
    from scipy.stats import hypergeom

    def enough(found: int) -> bool:
        return found * m >= share * hits * n or hypergeom.cdf(found, n + m, hits + found, n) > level

    return bisect_left(range(n + 1), True, key=enough)


def unusual(real_M: Tensor, margin: float = 1.0) -> tuple[float, int]:
    """Up to where a distance is unusually small, and the rank that this has among the real ones."""
    rank = math.ceil(TAIL * len(real_M))
    bound = margin * float(real_M.kthvalue(rank).values)
    bound = max(bound, TINY * float(real_M.median()))
    return bound, max(rank, int((real_M <= bound).sum()))


# --- alarms ------------------------------------------------------------------------------------------------------


def duplicates(generated_ND: Tensor, real_MD: Tensor) -> Alarm:
    """Samples whose nearest neighbour among the samples is far nearer than neighbours among real images are.

    As many samples as real images are looked at, since more of either lie nearer together.
    """
    n = min(len(generated_ND), len(real_MD))
    ours_N, index_N = nearest(generated_ND[:n], generated_ND[:n], same=True)
    theirs_N, _ = nearest(real_MD[:n], real_MD[:n], same=True)
    bound, rank = unusual(theirs_N, DUPLICATE)
    near_N = ours_N <= bound
    # Neighbours come in pairs, each of which is one observation and not two.
    chance = 2 * most_below(n // 2, n // 2, min(n // 2, (rank + 1) // 2))
    limit, count = max(chance, math.floor(MANY * n)), int(near_N.sum())
    pairs = _examples(ours_N, index_N, near_N, mutual=True)
    return Alarm(
        name="duplicates", raised=count > limit, statistic=count / n, threshold=limit / n, pairs=pairs,
        detail=f"{_of(count, n)} samples have a near-duplicate among them{_like(pairs, 'samples', 'and')}; "
        f"the limit is {limit / n:.1%}",
    )  # fmt: skip


def memorised(ours: Nearness, theirs: Nearness) -> Alarm:
    """Samples that are nearer to a training image than nearly all held-out real images are."""
    n, m = len(ours.relative_N), len(theirs.relative_N)
    bound, rank = unusual(theirs.relative_N)
    near_N = ours.relative_N <= bound
    limit, count = max(most_below(n, m, rank), math.floor(MANY * n)), int(near_N.sum())
    pairs = _examples(ours.relative_N, ours.index_N, near_N)
    share = int((theirs.relative_N <= bound).sum()) / m
    return Alarm(
        name="memorised", raised=count > limit, statistic=count / n, threshold=limit / n, pairs=pairs,
        detail=f"{_of(count, n)} samples are as near to a training image as {share:.1%} of held-out real images are"
        f"{_like(pairs, 'sample', 'to training image')}; the limit is {limit / n:.1%}",
    )  # fmt: skip


def low_quality(ours: Nearness, theirs: Nearness) -> Alarm:
    """Samples that are farther from any training image than nearly all held-out real images are."""
    n, m = len(ours.distance_N), len(theirs.distance_N)
    rank = math.ceil((1 - LIKE) * m)
    bound = theirs.distance_N.kthvalue(m - rank + 1).values
    like = int((ours.distance_N <= bound).sum())
    enough = min(n - most_below(n, m, rank), math.ceil(round(LOW * LIKE * n, 6)))
    return Alarm(
        name="low_quality", raised=like < enough, statistic=like / n, threshold=enough / n,
        detail=f"{_of(like, n)} samples are like training images, of held-out real images {LIKE:.0%}; "
        f"below {enough / n:.1%} is low",
    )  # fmt: skip


def missing_class(counts_C: Tensor, real_C: Tensor, groups: Groups) -> Alarm:
    """Classes that are rare among the samples: less than half as frequent as among real images, and not by chance.

    The same rule puts samples and real images into classes, so that its mistakes count on both sides.
    """
    n, m = int(counts_C.sum()), int(real_C.sum())
    enough_C = torch.tensor([fewest(n, int(hits), m, RARE, LEVEL / len(real_C)) for hits in real_C])
    rare_C = counts_C < enough_C
    shares = [
        f"{groups.names[c]}: {counts_C[c] / n:.1%} of the samples, {real_C[c] / m:.1%} of real images"
        for c in sorted(rare_C.nonzero().flatten().tolist(), key=lambda c: counts_C[c] / real_C[c])
    ]
    more = f"; and {len(shares) - EXAMPLES} more" if len(shares) > EXAMPLES else ""
    ratio_C = counts_C / n / (real_C / m).clamp(min=1 / m)
    judged_C = torch.where(enough_C > 0, counts_C / enough_C, math.inf)
    worst = int(judged_C.argmin() if enough_C.any() else ratio_C.argmin())
    detail = (
        f"rare or missing: {'; '.join(shares[:EXAMPLES])}{more}"
        if shares
        else f"none of the {len(real_C)} {groups.kind} is rare or missing, the rarest is {groups.names[worst]}: "
        f"{counts_C[worst] / n:.1%} of the samples, {real_C[worst] / m:.1%} of real images"
    )
    return Alarm(
        name="missing_class", raised=bool(shares), statistic=int(counts_C[worst]) / n,
        threshold=int(enough_C[worst]) / n, detail=detail,
    )  # fmt: skip


@dataclass(frozen=True)
class Groups:
    """Classes, or clusters, of the training images; any other image is of its nearest one's."""

    group_N: Tensor
    """Number of each training image's group."""
    names: Sequence[str]
    kind: str
    """`classes` or `clusters`."""

    @classmethod
    def of(cls, real: Real, held_out: int) -> Groups:
        if real.labels_N is not None:
            present, group_N = real.labels_N.unique(return_inverse=True)
            names = [f"class {real.names[label] if real.names else label}" for label in present.tolist()]
            return cls(group_N, names, "classes")
        from sklearn.cluster import KMeans

        count = min(MAX_CLUSTERS, max(2, held_out // IMAGES_PER_CLUSTER), len(real.train_ND))
        found = KMeans(count, n_init=4, random_state=0).fit(real.train_ND.double().numpy())
        centres_CD = torch.from_numpy(found.cluster_centers_).to(real.train_ND.dtype)
        _, typical_C = nearest(centres_CD, real.train_ND)
        names = [f"cluster {c} (around training image {image})" for c, image in enumerate(typical_C.tolist())]
        return cls(torch.from_numpy(found.labels_).long(), names, "clusters")

    def count(self, nearest_M: Tensor) -> Tensor:
        """How many of M images are of each group, int64 (C,), by their nearest training images."""
        return torch.bincount(self.group_N[nearest_M], minlength=len(self.names))


# --- for people --------------------------------------------------------------------------------------------------


def _of(count: int, n: int) -> str:
    return f"{count} of {n} ({count / n:.1%})"


def _examples(distance_N: Tensor, index_N: Tensor, near: Tensor, mutual: bool = False) -> list[tuple[int, int]]:
    """The nearest pairs; of `mutual` ones each once."""
    rows = [row for row in distance_N.argsort(stable=True).tolist() if near[row]]
    pairs = [(row, int(index_N[row])) for row in rows]
    if mutual:
        pairs = list(dict.fromkeys((min(pair), max(pair)) for pair in pairs))
    return pairs[:EXAMPLES]


def _like(pairs: list[tuple[int, int]], what: str, link: str) -> str:
    return f", like {what} {pairs[0][0]} {link} {pairs[0][1]}" if pairs else ""
