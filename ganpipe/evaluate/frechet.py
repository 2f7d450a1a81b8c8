"""Frechet distance between Gaussians fitted to features (arXiv:1706.08500, Eq. 6), and its limit at infinite n.

    d = |m - m_r|^2 + tr S + tr S_r - 2 tr (S S_r)^(1/2)

With S_r = L L^T the product S S_r has the eigenvalues of L^T S L, which is symmetric: the covariance of the rows
turned by L. That is what torch-fidelity takes a general matrix's eigenvalues for, at a higher cost. With n <= D, where
covariances are singular, what rounding makes of zero eigenvalues (1e-16, whose root is 1e-8, thousands of times) is
left out here and not there: torch-fidelity's distance is then off by some 1e-5 of its value, and this one is not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch_fidelity.metric_fid import fid_features_to_statistics

from .resampling import random_unions


@dataclass(frozen=True)
class Gaussian:
    """The reference side of a Frechet distance, float64."""

    mean_D: Tensor
    factor_DK: Tensor
    """L L^T is the covariance; K = D, or its rank."""
    trace: float
    """Of the covariance."""

    @classmethod
    def of_rows(cls, features_ND: Tensor, mean_D: np.ndarray, covariance_DD: np.ndarray) -> Gaussian:
        """The same from the rows that the moments are of: fewer rows than features are a factor themselves."""
        n, dims = features_ND.shape
        if n > dims:
            return cls.of(mean_D, covariance_DD)
        rows_ND = features_ND.double()
        factor_DN = (rows_ND - rows_ND.mean(0)).T / (n - 1) ** 0.5
        return cls(torch.from_numpy(mean_D).double(), factor_DN, float(np.trace(covariance_DD)))

    @classmethod
    def of(cls, mean_D: np.ndarray, covariance_DD: np.ndarray) -> Gaussian:
        covariance = torch.from_numpy(np.atleast_2d(covariance_DD)).double()
        factor, failed = torch.linalg.cholesky_ex(covariance)
        if failed:
            values, vectors = torch.linalg.eigh(covariance)
            kept = values > values.max() * len(values) * torch.finfo(torch.float64).eps
            factor = vectors[:, kept] * values[kept].sqrt()
        return cls(torch.from_numpy(mean_D).double(), factor, float(covariance.trace()))


class Distances:
    """Frechet distances of a set's blocks of rows, taken together in any way, to one Gaussian.

    Row i lies in block i % blocks. All rows are gone through once; after that a distance costs the eigenvalues of one
    symmetric matrix, K x K or, of fewer rows than that, n x n.
    """

    def __init__(self, features_ND: Tensor, reference: Gaussian, blocks: int):
        self.reference = reference
        self._known: dict[tuple[bool, ...], float] = {}
        self.block_N = torch.arange(len(features_ND)) % blocks
        self.rows_B = torch.bincount(self.block_N, minlength=blocks).double()
        rows_ND = features_ND.double()
        self.offset_D = rows_ND.mean(0)
        rows_ND = rows_ND - self.offset_D
        self.sums_BD = rows_ND.new_zeros(blocks, rows_ND.shape[1]).index_add(0, self.block_N, rows_ND)
        self.squares_B = rows_ND.new_zeros(blocks).index_add(0, self.block_N, rows_ND.square().sum(1))
        self.turned_NK = rows_ND @ reference.factor_DK
        self.seconds_BKK: Tensor | None = None
        if self._covariance_is_smaller(len(features_ND)):
            parts = [self.turned_NK[block::blocks] for block in range(blocks)]
            self.seconds_BKK = torch.stack([part.T @ part for part in parts])

    def _covariance_is_smaller(self, rows: int) -> bool:
        return rows > self.turned_NK.shape[1]

    def rows(self, chosen_B: Tensor) -> int:
        """Number of rows in the chosen blocks."""
        return int(self.rows_B[chosen_B].sum())

    def distance(self, chosen_B: Tensor) -> float:
        """Of the rows in the chosen blocks (bool), at least two."""
        key = tuple(chosen_B.tolist())
        if key not in self._known:
            mean_D = self.offset_D + self.sums_BD[chosen_B].sum(0) / self.rows(chosen_B)
            difference_D = mean_D - self.reference.mean_D
            self._known[key] = float(difference_D @ difference_D) + self.covariance_part(chosen_B)
        return self._known[key]

    def covariance_part(self, chosen_B: Tensor | None = None) -> float:
        """tr S + tr S_r - 2 tr (S S_r)^(1/2); of all rows when none are chosen."""
        if chosen_B is None:
            chosen_B = torch.ones(len(self.rows_B), dtype=torch.bool)
        n = self.rows(chosen_B)
        mean_D = self.sums_BD[chosen_B].sum(0) / n
        turned_K = mean_D @ self.reference.factor_DK
        trace = float(self.squares_B[chosen_B].sum() - n * mean_D @ mean_D) / (n - 1)
        if self.seconds_BKK is not None and self._covariance_is_smaller(n):
            gram = self.seconds_BKK[chosen_B].sum(0) - n * torch.outer(turned_K, turned_K)
        else:
            centred = self.turned_NK[chosen_B[self.block_N]] - turned_K
            gram = centred @ centred.T
        root = float((torch.linalg.eigvalsh(gram).clamp(min=0) / (n - 1)).sqrt().sum())
        return trace + self.reference.trace - 2 * root


def moments(features_ND: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Mean (D,) in float32 and covariance (D, D) in float64: torch-fidelity's, to the last bit."""
    statistics = fid_features_to_statistics(features_ND)
    return statistics["mu"], statistics["sigma"]


def frechet_distance(features_ND: Tensor, mu: np.ndarray, sigma: np.ndarray) -> float:
    """Of float32 rows to a Gaussian of mean `mu` (D,), float32, and covariance `sigma` (D, D), float64."""
    return mean_part(features_ND, mu) + Distances(features_ND, Gaussian.of(mu, sigma), blocks=1).covariance_part()


def mean_part(features_ND: Tensor, mu: np.ndarray) -> float:
    """|m - m_r|^2 in float32, as torch-fidelity has it."""
    difference = np.mean(features_ND.numpy(), axis=0) - mu
    return float(difference.dot(difference))


def at_infinity(distances: Distances, points: int, repeats: int, seed: int) -> float:
    """The distance that infinitely many rows would have (`fid_inf`, arXiv:1911.07023).

    The bias of a Frechet distance goes with 1/n. So it is measured at `points` numbers of rows from n / 2 to n, evenly
    spaced in 1/n, each the mean over `repeats` random unions of blocks, and the straight line through them is read off
    at 1/n = 0. The reference stays whole, as in the paper: its own finite number of rows stays part of the value. It
    can come out below 0 where the true distance is about 0.
    """
    blocks = len(distances.rows_B)
    inverse, means = [], []
    for kept in sorted({_blocks_at(blocks, point / (points - 1)) for point in range(points)}):
        unions = random_unions(blocks, kept, repeats, seed)
        inverse.append(float(np.mean([1 / distances.rows(chosen) for chosen in unions])))
        means.append(float(np.mean([distances.distance(chosen) for chosen in unions])))
    if len(means) == 1:
        return means[0]
    return float(np.polyfit(inverse, means, 1)[1])


def _blocks_at(blocks: int, position: float) -> int:
    """How many blocks to keep: 1 / kept goes evenly from 1 / blocks (position 0) to 2 / blocks (1)."""
    return min(blocks, max(2, round(blocks / (1 + position))))
