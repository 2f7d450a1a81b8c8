"""Who is near whom in feature space."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

CHUNK = 1024
"""Rows of a distance matrix in memory."""


def nearest(rows_ND: Tensor, others_MD: Tensor, *, same: bool = False) -> tuple[Tensor, Tensor]:
    """Distance (N,) to the nearest of the others, and which it is.

    `same`: the rows are the first of the others, and none is its own neighbour.
    """
    distances, indices = [], []
    for start in range(0, len(rows_ND), CHUNK):
        part_BD = rows_ND[start : start + CHUNK]
        distance_BM = torch.cdist(part_BD, others_MD)
        if same:
            own = torch.arange(len(part_BD))
            distance_BM[own, start + own] = math.inf
        index_B = distance_BM.argmin(1)
        # Once more, as cdist's matrix product leaves little of the distances of equal rows.
        distances.append((part_BD - others_MD[index_B]).norm(dim=1))
        indices.append(index_B)
    return torch.cat(distances), torch.cat(indices)


@dataclass(frozen=True)
class Nearness:
    """Rows and their nearest training images."""

    distance_N: Tensor
    index_N: Tensor
    relative_N: Tensor
    """The distance in units of that image's own distance to its nearest other training image. The unit makes dense and
    sparse classes alike: who leaves the sparse ones out is no memoriser."""

    @classmethod
    def of(cls, rows_ND: Tensor, train_ND: Tensor, train_own_N: Tensor) -> Nearness:
        """`train_own_N` are the training images' own distances: `nearest(train_ND, train_ND, same=True)[0]`."""
        distance_N, index_N = nearest(rows_ND, train_ND)
        smallest = torch.finfo(distance_N.dtype).tiny
        return cls(distance_N, index_N, distance_N / train_own_N[index_N].clamp(min=smallest))
