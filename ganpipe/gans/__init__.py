"""Every recipe, by the name that `gan.name` picks it with."""

from __future__ import annotations

from .base import GAN
from .classic import Classic

GANS: dict[str, type[GAN]] = {
    "classic": Classic,
}
