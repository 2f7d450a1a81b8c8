"""Who is near whom in feature space."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

NEIGHBOURS = 3
"""Of precision: the manifold's balls reach to the k-th nearest training image."""
CHUNK = 1024
"""Rows of a distance matrix in memory."""


def nearest(rows_ND: Tensor, others_MD: Tensor, k: int = 1, *, same: bool = False) -> tuple[Tensor, Tensor]:
    """Distances (N, k) to the k nearest of the others, nearest first, and which they are.

    `same`: the rows are the first of the others, and none is its own neighbour.
    """
    distances, indices = [], []
    for start in range(0, len(rows_ND), CHUNK):
        part_BD = rows_ND[start : start + CHUNK]
        distance_BM = torch.cdist(part_BD, others_MD)
        if same:
            own = torch.arange(len(part_BD))
            distance_BM[own, start + own] = math.inf
        index_Bk = distance_BM.topk(k, largest=False).indices
        # Once more, as cdist's matrix product leaves little of the distances of equal rows.
        distances.append((part_BD[:, None] - others_MD[index_Bk]).norm(dim=2))
        indices.append(index_Bk)
    return torch.cat(distances), torch.cat(indices)


@dataclass(frozen=True)
class Manifold:
    """Training images, and how far each is from its neighbours."""

    train_ND: Tensor
    nearest_N: Tensor
    """Distance to the nearest other one."""
    reach_N: Tensor
    """Distance to the k-th nearest other one."""

    @classmethod
    def of(cls, train_ND: Tensor) -> Manifold:
        distance_Nk, _ = nearest(train_ND, train_ND, min(NEIGHBOURS, len(train_ND) - 1), same=True)
        return cls(train_ND, distance_Nk[:, 0], distance_Nk[:, -1])

    def holds(self, rows_ND: Tensor) -> Tensor:
        """Which rows lie within reach of a training image: the samples that precision counts (arXiv:1904.06991)."""
        parts = [(torch.cdist(part, self.train_ND) <= self.reach_N).any(1) for part in rows_ND.split(CHUNK)]
        return torch.cat(parts)

    def closeness(self, rows_ND: Tensor) -> tuple[Tensor, Tensor]:
        """Distance to the nearest training image in units of that image's own distance to its nearest; and which.

        The unit makes dense and sparse classes alike: who leaves the sparse ones out is no memoriser.
        """
        distance_N1, index_N1 = nearest(rows_ND, self.train_ND)
        smallest = torch.finfo(distance_N1.dtype).tiny
        return distance_N1[:, 0] / self.nearest_N[index_N1[:, 0]].clamp(min=smallest), index_N1[:, 0]
