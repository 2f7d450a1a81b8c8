"""Quality and diversity apart, by nearest neighbours among features.

Precision and recall (arXiv:1904.06991, Eq. 1 and 2): the share of generated rows within the balls of real rows, and of
real rows within those of generated ones, where a row's ball reaches to its k-th nearest neighbour on its own side.
Density and coverage (arXiv:2002.09797, Eq. 6 and 7) count real balls only, with a k of their own: how many hold a
generated row, over k, and how many real rows have a generated one within. Each of the three distance matrices is made
once, a few rows at a time, and that among real rows once for a reference.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

ELEMENTS = 1 << 26
"""Of a distance matrix at a time: 256 MiB."""
HALVES_RECALL = 1_000
"""Real rows that the recall of halves is measured on."""


@dataclass(frozen=True)
class Manifold:
    """Who lies in whose ball."""

    precise_N: Tensor
    """bool: generated rows within a real ball."""
    recalled_M: Tensor
    """bool: real rows within a generated ball."""
    balls_N: Tensor
    """float64: real balls of density's k around a generated row, over k."""
    covered_MB: Tensor
    """bool: real rows in whose ball of density's k lies a row of the block of generated ones."""
    recall_J: Tensor
    """float64: recall, by each half of the generated rows alone, of the first 1,000 real rows."""

    def scores(self) -> dict[str, float]:
        """precision, recall, density and coverage."""
        return {
            # float32 means, like torch-fidelity's
            "precision": float(self.precise_N.float().mean()),
            "recall": float(self.recalled_M.float().mean()),
            "density": float(self.balls_N.mean()),
            "coverage": float(self.covered_MB.any(1).double().mean()),
        }

    def coverage_without(self) -> Tensor:
        """(B,): coverage by all generated rows but one block's."""
        alone_MB = self.covered_MB & (self.covered_MB.sum(1, keepdim=True) == 1)
        return self.covered_MB.any(1).double().mean() - alone_MB.double().mean(0)


def radii(rows_ND: Tensor, neighbours: tuple[int, ...]) -> Tensor:
    """(N, len(neighbours)), float32: distance of each row to its k-th nearest other one, for each k."""
    columns = list(neighbours)
    parts = [near.values[:, columns] for near in _nearest(rows_ND, max(neighbours) + 1)]
    return torch.cat(parts)


def manifold(
    generated_ND: Tensor,
    real_MD: Tensor,
    real_radii_M2: Tensor,
    neighbours: tuple[int, int],
    blocks: int,
    halves_JB: Tensor,
) -> Manifold:
    """Compare two sets of features, float32.

    `neighbours` are the k of precision and recall, and that of density and coverage; `real_radii_M2` are `radii` of
    the real rows for them. Generated row i lies in block i % blocks, and `halves_JB` are sets of blocks, maybe none.
    """
    recall_k, density_k = neighbours
    n = len(generated_ND)
    block_N = torch.arange(n) % blocks
    radius_N, *radii_of_halves = _radii(generated_ND, recall_k, block_N, halves_JB).T.contiguous()
    own_block_NB = torch.nn.functional.one_hot(block_N, blocks).float()
    precise_N, balls_N = torch.zeros(n, dtype=torch.bool), torch.zeros(n, dtype=torch.float64)
    recalled, covered, by_halves = [], [], []
    for rows in _bands(len(real_MD), n):
        distances_MN = torch.cdist(real_MD[rows], generated_ND)
        recalled.append((distances_MN <= radius_N).any(1))
        few_MN = distances_MN[: max(0, HALVES_RECALL - rows.start)]
        by_halves.append(torch.tensor([(few_MN <= radii_N).any(1).sum() for radii_N in radii_of_halves]))
        precise_N |= (distances_MN <= real_radii_M2[rows, :1]).any(0)
        within_MN = distances_MN <= real_radii_M2[rows, 1:]
        balls_N += within_MN.sum(0)
        covered.append(within_MN.float() @ own_block_NB > 0)
    recall_J = torch.stack(by_halves).sum(0).double() / min(HALVES_RECALL, len(real_MD))
    return Manifold(precise_N, torch.cat(recalled), balls_N / density_k, torch.cat(covered), recall_J)


def _radii(rows_ND: Tensor, k: int, block_N: Tensor, halves_JB: Tensor) -> Tensor:
    """(N, 1 + J): distance of each row to its k-th nearest other one, among all and in each half; -1 for rows outside.

    A half's neighbours are looked for among the nearest 4 (k + 1) of all: all but one in some 10^5 are there.
    """
    near = min(4 * (k + 1) + 8, len(rows_ND)) if len(halves_JB) else k + 1
    parts = []
    for found in _nearest(rows_ND, near):
        whole = found.values[:, k : k + 1]
        inside_NKJ = halves_JB.T[block_N[found.indices]]
        position_NJ = (inside_NKJ.cumsum(1) <= k).sum(1).clamp(max=near - 1)
        parts.append(torch.cat([whole, found.values.gather(1, position_NJ)], 1))
    radii_NJ = torch.cat(parts)
    radii_NJ[:, 1:][~halves_JB.T[block_N]] = -1
    return radii_NJ


def _nearest(rows_ND: Tensor, count: int) -> Iterator[torch.return_types.topk]:
    """The nearest `count` rows of each row, itself among them."""
    for rows in _bands(len(rows_ND), len(rows_ND)):
        yield torch.cdist(rows_ND[rows], rows_ND).topk(count, largest=False)


def _bands(rows: int, columns: int) -> Iterator[slice]:
    size = max(1, ELEMENTS // columns)
    for start in range(0, rows, size):
        yield slice(start, min(rows, start + size))
