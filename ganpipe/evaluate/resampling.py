"""What a score could have been: 95 % intervals from half-samples.

Only the generated side is thinned; the reference is the protocol's, and fixed. Its rows, which are independent draws,
are dealt to blocks (row i to block i % blocks), and every metric is measured on balanced halves of the blocks
(McCarthy 1969), in the order of Hadamard's matrix: the bootstrap without replacement, of half the rows. Their spread
around their mean is that of the whole set around its expectation: half the rows double the variance, and half of that
lies between the set and infinitely many rows. With replacement, every set would hold rows twice: that shortens the
distances to the nearest neighbours, and adds to the Frechet distance its bias once more.

A score whose bias goes with 1/n has twice of it on a half, so the whole's own can be taken off: its interval is of the
value at infinitely many samples, and lies below a Frechet distance of few. All other intervals are of the value that is
expected at this n. Student's quantiles stand for the normal's, as a variance from so few halves is itself uncertain.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from scipy.special import stdtrit
from torch import Tensor

LEVEL = 0.95
KERNEL_ROWS = 2_000
"""Most rows of a side that a whole kernel matrix is made of."""


@dataclass(frozen=True)
class Estimate:
    """A score with what is known of its error."""

    centre: float
    """Without the bias of few samples, where that is known."""
    error: float
    """Standard error."""
    freedom: int
    """Degrees of freedom of that error."""
    halves: tuple[float, ...] = ()
    """Values on the balanced halves, where the error is their spread."""


def half_samples(blocks: int) -> Tensor | None:
    """(blocks - 1, blocks), bool: the rows of Hadamard's matrix but the first, each of which holds half of the blocks.

    Any two blocks stand as often together as apart, but for once. None unless `blocks` is a power of two, at least 4.
    """
    if blocks < 4 or blocks & (blocks - 1):
        return None
    signs = torch.ones(1, 1)
    while len(signs) < blocks:
        signs = torch.cat([torch.cat([signs, signs], 1), torch.cat([signs, -signs], 1)])
    return signs[1:] > 0


def random_unions(blocks: int, kept: int, repeats: int, seed: int) -> Tensor:
    """(R, blocks), bool: sets of `kept` blocks: all halves where there are balanced ones, else `repeats` at random."""
    if kept == blocks:
        return torch.ones(1, blocks, dtype=torch.bool)
    halves = half_samples(blocks)
    if halves is not None and 2 * kept == blocks:
        return halves
    draws = torch.Generator().manual_seed(seed + kept)
    return torch.stack([torch.randperm(blocks, generator=draws) < kept for _ in range(repeats)])


def estimate(centre: float, of_halves: Sequence[float] | Tensor) -> Estimate:
    """A score and its values on the balanced halves."""
    values = torch.as_tensor(of_halves, dtype=torch.float64)
    return Estimate(centre, float(values.std()), len(values) - 1, tuple(values.tolist()))


def without_bias(of_whole: float, of_halves: Sequence[float] | Tensor) -> Estimate:
    """The same where the bias goes with 1/n."""
    values = torch.as_tensor(of_halves, dtype=torch.float64)
    return estimate(2 * of_whole - float(values.mean()), values)


def with_complements(of_whole: float, of_halves: Tensor, of_complements: Tensor) -> Estimate:
    """Bias with 1/n again, for a score that may be near its extreme, where it is a sum of squares.

    A half and the rest lie as far from the whole, on opposite sides. Half of the difference is what the score has of
    first order, half of the sum what it has of second, as the whole's own error has: halves show twice of its
    variance too much in the first and once in the second, so that the variance is the difference of the two; never
    less than the second's.
    """
    first, second = (of_halves - of_complements) / 2, (of_halves + of_complements) / 2
    variance = max(float(first.var() - second.var()), float(second.var()))
    return Estimate(2 * of_whole - float(second.mean()), math.sqrt(variance), len(of_halves) - 1)


def jackknife(centre: float, without_B: Tensor) -> Estimate:
    """A score and its values without one block each: for coverage, whose halves vary less than the whole does."""
    blocks = len(without_B)
    return Estimate(centre, float(without_B.std(correction=0)) * math.sqrt(blocks - 1), blocks - 1)


def interval(estimates: Sequence[Estimate], bounds: tuple[float, float]) -> tuple[float, float]:
    """95 % interval of the mean of independent scores, within `bounds`."""
    many = len(estimates)
    centre = math.fsum(part.centre for part in estimates) / many
    error = math.sqrt(math.fsum(part.error**2 for part in estimates)) / many
    reach = float(stdtrit(sum(part.freedom for part in estimates), (1 + LEVEL) / 2)) * error
    low, high = bounds
    return min(max(centre - reach, low), high), max(min(centre + reach, high), low)


def typical(estimates: Sequence[Estimate]) -> Estimate:
    """One for scores that share their error, like those of several translations of the same images."""
    many = len(estimates)
    centre = math.fsum(part.centre for part in estimates) / many
    error = math.sqrt(math.fsum(part.error**2 for part in estimates) / many)
    halves = tuple(math.fsum(values) / many for values in zip(*(part.halves for part in estimates), strict=True))
    return Estimate(centre, error, min(part.freedom for part in estimates), halves)


# --- what metrics are on halves ----------------------------------------------------------------------------------


def shares(of_rows_N: Tensor, halves_JB: Tensor) -> Tensor:
    """(J,): means over the rows of each half, of a quantity that each row has."""
    blocks = halves_JB.shape[1]
    block_N = torch.arange(len(of_rows_N)) % blocks
    sums_B = torch.zeros(blocks, dtype=torch.float64).index_add(0, block_N, of_rows_N.double())
    rows_B = torch.bincount(block_N, minlength=blocks).double()
    return (halves_JB.double() @ sums_B) / (halves_JB.double() @ rows_B)


def entropies(logits_NK: Tensor, halves_JB: Tensor) -> tuple[Tensor, Tensor]:
    """(J,), (J,): entropy of the mean class probabilities and mean entropy of each row's, nats, of each half."""
    log_p_NK = logits_NK.double().log_softmax(1)
    p_NK = log_p_NK.exp()
    blocks = halves_JB.shape[1]
    block_N = torch.arange(len(p_NK)) % blocks
    sums_BK = torch.zeros(blocks, p_NK.shape[1], dtype=torch.float64).index_add(0, block_N, p_NK)
    p_JK = halves_JB.double() @ sums_BK
    p_JK = p_JK / p_JK.sum(1, keepdim=True)
    return torch.special.entr(p_JK).sum(1), shares(torch.special.entr(p_NK).sum(1), halves_JB)


def kernel_distances(generated_ND: Tensor, real_MD: Tensor, halves_JB: Tensor) -> Tensor:
    """(J,): the unbiased squared MMD (arXiv:1801.01401, Eq. 4) of each half of the rows to all real ones."""
    blocks, n = halves_JB.shape[1], len(generated_ND)
    order = torch.cat([torch.arange(block, n, blocks) for block in range(blocks)])
    rows_B = torch.tensor([len(range(block, n, blocks)) for block in range(blocks)])
    generated_ND = generated_ND[order]
    gg_BB = _block_sums(cubic_kernel(generated_ND, generated_ND), rows_B)
    gg_BB -= torch.diag(_diagonal_sums(generated_ND, rows_B))
    gr_B = torch.stack([part.sum() for part in cubic_kernel(generated_ND, real_MD).double().split(rows_B.tolist())])
    rr = unbiased_mean(cubic_kernel(real_MD, real_MD))
    halves, n_J = halves_JB.double(), halves_JB.double() @ rows_B.double()
    gg_J = (halves @ gg_BB * halves).sum(1) / (n_J * (n_J - 1))
    return gg_J + rr - 2 * (halves @ gr_B) / (n_J * len(real_MD))


def cubic_kernel(a_ND: Tensor, b_MD: Tensor) -> Tensor:
    """(a . b / D + 1)^3 for all pairs, (N, M)."""
    base_NM = (a_ND @ b_MD.T).div_(a_ND.shape[1]).add_(1)
    return base_NM * base_NM * base_NM


def unbiased_mean(kernel_NN: Tensor) -> float:
    """Mean over pairs of two different rows."""
    n = len(kernel_NN)
    return float(kernel_NN.double().sum() - kernel_NN.diagonal().double().sum()) / (n * (n - 1))


def _block_sums(kernel_NN: Tensor, rows_B: Tensor) -> Tensor:
    parts = rows_B.tolist()
    bands = [band.double().sum(0).split(parts) for band in kernel_NN.split(parts)]
    return torch.stack([torch.stack([cell.sum() for cell in band]) for band in bands])


def _diagonal_sums(rows_ND: Tensor, rows_B: Tensor) -> Tensor:
    diagonal_N = (rows_ND.double().square().sum(1) / rows_ND.shape[1] + 1) ** 3
    return torch.stack([part.sum() for part in diagonal_N.split(rows_B.tolist())])
