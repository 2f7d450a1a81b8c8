"""Every recipe, by the name that `gan.name` picks it with."""

from __future__ import annotations

from .base import GAN
from .classic import Classic
from .stylegan2 import StyleGAN2

GANS: dict[str, type[GAN]] = {
    "classic": Classic,
    "stylegan2": StyleGAN2,
}
