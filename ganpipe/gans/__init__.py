"""Every recipe, by the name that `gan.name` picks it with."""

from __future__ import annotations

from .base import GAN
from .classic import Classic
from .cyclegan import CycleGAN
from .pix2pix import Pix2Pix
from .r3gan import R3GAN
from .stylegan2 import StyleGAN2
from .text_to_image import TextToImage

GANS: dict[str, type[GAN]] = {
    "classic": Classic,
    "r3gan": R3GAN,
    "stylegan2": StyleGAN2,
    "text_to_image": TextToImage,
    "pix2pix": Pix2Pix,
    "cyclegan": CycleGAN,
}
