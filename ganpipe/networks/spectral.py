"""Spectral normalisation of a network's weights (arXiv:1802.05957), the same whatever the batch is cut into.

Forward passes only read the singular vectors; they move once after each update of the weights. A power iteration in
every forward pass would make a step depend on the number of micro-batches and ranks.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

FIRST_ITERATIONS = 15


class SpectralNorm(nn.Module):
    """weight (O, ...) -> weight / sigma, with sigma = u^T W v for the matrix W (O, prod(...)); unit u (O,), v."""

    u: Tensor
    v: Tensor

    def __init__(self, weight: Tensor):
        super().__init__()
        matrix = weight.detach().flatten(1)
        self.register_buffer("u", F.normalize(torch.randn(matrix.shape[0]), dim=0))
        self.register_buffer("v", F.normalize(torch.randn(matrix.shape[1]), dim=0))
        for _ in range(FIRST_ITERATIONS):
            self.iterate(weight)

    def forward(self, weight: Tensor) -> Tensor:
        with torch.autocast(weight.device.type, enabled=False):
            return weight / torch.dot(self.u, torch.mv(weight.flatten(1), self.v))

    @torch.no_grad()
    def iterate(self, weight: Tensor) -> None:
        """One power iteration towards the largest singular value."""
        matrix = weight.flatten(1)
        self.v.copy_(F.normalize(torch.mv(matrix.T, self.u), dim=0))
        self.u.copy_(F.normalize(torch.mv(matrix, self.v), dim=0))


def normalise(network: nn.Module) -> None:
    """Normalise the weight of every linear and convolution layer, in place; draws from torch's global generator."""
    for module in list(network.modules()):
        if isinstance(module, nn.Linear | nn.Conv2d):
            parametrize.register_parametrization(module, "weight", SpectralNorm(module.weight))


def iterate(network: nn.Module) -> None:
    """One power iteration for every normalised weight."""
    for module in network.modules():
        if isinstance(module, parametrize.ParametrizationList):
            for normalisation in module:
                if isinstance(normalisation, SpectralNorm):
                    normalisation.iterate(module.original)
