"""Fully connected networks, as in the first GAN paper (arXiv:1406.2661), for images and for points.

Legend: N rows, Z latent size, S the shape of one row.
"""

from __future__ import annotations

import itertools
import math

from torch import Tensor, nn


class Generator(nn.Module):
    """latents (N, Z) -> rows (N, *S): in [-1, 1] through a tanh when `bounded`, else any number."""

    def __init__(self, in_dim: int, shape: tuple[int, ...], hidden_dim: int, hidden_layers: int, bounded: bool):
        super().__init__()
        self.shape = shape
        self.layers = nn.Sequential(
            *_hidden(in_dim, hidden_dim, hidden_layers), nn.Linear(hidden_dim, math.prod(shape))
        )
        self.output = nn.Tanh() if bounded else nn.Identity()

    def forward(self, latents_NZ: Tensor) -> Tensor:
        return self.output(self.layers(latents_NZ)).unflatten(1, self.shape)


class Discriminator(nn.Module):
    """rows (N, *S) -> logits (N,)."""

    def __init__(self, shape: tuple[int, ...], hidden_dim: int, hidden_layers: int):
        super().__init__()
        self.feature_count = hidden_dim
        self.layers = nn.Sequential(*_hidden(math.prod(shape), hidden_dim, hidden_layers), nn.Linear(hidden_dim, 1))

    def features(self, rows_NS: Tensor) -> Tensor:
        """(N, hidden_dim)"""
        return self.layers[:-1](rows_NS.flatten(1))

    def logits(self, features_NF: Tensor) -> Tensor:
        """(N,)"""
        return self.layers[-1](features_NF).flatten()

    def forward(self, rows_NS: Tensor) -> Tensor:
        return self.logits(self.features(rows_NS))


def _hidden(in_dim: int, hidden_dim: int, hidden_layers: int) -> list[nn.Module]:
    widths = [in_dim, *[hidden_dim] * hidden_layers]
    layers: list[nn.Module] = []
    for inner, outer in itertools.pairwise(widths):
        layers += [nn.Linear(inner, outer), nn.LeakyReLU(0.2)]
    return layers
