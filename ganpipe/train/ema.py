"""Exponential moving average of the generator's weights."""

from __future__ import annotations

import torch
from torch import nn

from ..sample import frozen_copy


class Ema:
    """A second generator whose weights follow the first at a half-life measured in images."""

    def __init__(self, generator: nn.Module):
        self.module = frozen_copy(generator)

    @torch.no_grad()
    def update(self, generator: nn.Module, images: int, half_life_kimg: float) -> None:
        """Move towards `generator` after `images` more were seen; a half-life of 0 copies it.

        Buffers are left alone: batch statistics are recomputed before sampling.
        """
        weight = 1.0 if half_life_kimg <= 0 else 1 - 0.5 ** (images / (half_life_kimg * 1000))
        torch._foreach_lerp_(list(self.module.parameters()), list(generator.parameters()), weight)
