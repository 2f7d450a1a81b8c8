"""What recipes share whose samples come from a latent vector, and from a class when `conditioning` says so."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import replace

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from ..errors import InputError
from ..networks.labels import LabelledGenerator
from ..options import GanConfig
from ..rng import SampleRng, StepRng
from .base import GAN, Batch, Networks, OutputKind, Request, Samples, Step, conditioned, refuse_translations


class LatentConfig(GanConfig):
    """The prior, and whether there are classes."""

    conditioning: str = "none"
    """How the discriminator learns of the class, which the generator is given beside the latent; `none`: no classes."""
    latent_dim: int = Field(100, ge=1)
    """Size of the standard normal latent."""
    latent_components: int = Field(0, ge=0)
    """Pieces of the prior: so many coordinates besides, one of them set; 0: one piece. A continuous generator must draw
    what lies between two kinds of image, too, when its prior is connected (arXiv:1806.00880, arXiv:2006.04596)."""


class LatentGAN(GAN):
    """Draws latents and classes; which columns that takes, and how a generator is sampled from. Makes images."""

    config: LatentConfig

    def output(self, available: Collection[str]) -> OutputKind:
        refuse_translations(self.config.name, available)
        if "image" not in available:
            raise InputError(
                f"gan.name {self.config.name} is made of convolutions over pixels, and the data holds points; "
                "set gan to {name: classic, network: {name: mlp}}"
            )
        return "image"

    def columns(self, available: Collection[str]) -> frozenset[str]:
        made = self.output(available)
        if self.config.conditioning == "none":
            return frozenset({made})
        return conditioned(made, "label", available, f"gan.conditioning {self.config.conditioning}")

    def conditions(self, batch: Batch) -> tuple[Tensor, ...]:
        """The classes of the real images, which those of the fakes are too; nothing without classes."""
        return () if self.config.conditioning == "none" else (batch["label"],)

    def fakes(self, nets: Networks, batch: Batch, step: Step) -> Tensor:
        """As many rows as the micro-batch has."""
        return nets.generator(self.latents(step.rng, step.micro_batch), *self.conditions(batch))

    def judge(self, nets: Networks, batch: Batch) -> Callable[[Tensor], Tensor]:
        """rows -> logits (N,), each row as one of the class that stands in its place in the batch."""
        assert nets.discriminator is not None
        discriminator, conditions = nets.discriminator, self.conditions(batch)
        return lambda rows_NS: discriminator(rows_NS, *conditions)

    def latents(self, rng: StepRng | SampleRng, n: int, truncation: float = 1.0) -> Tensor:
        """(n, latent_dim + latent_components); the piece's coordinate is half as long as the normal part is expected.
        A truncation scales the normal part, about the mean of each piece.

        Equally long ones take over: on the digits every piece of twenty then collapsed to one image.
        """
        return self._in_piece(self._normal(rng, n) * truncation, rng)

    def _normal(self, rng: StepRng | SampleRng, n: int) -> Tensor:
        return rng.normal("latents", n, (self.config.latent_dim,))

    def _in_piece(self, normal_NZ: Tensor, rng: StepRng | SampleRng) -> Tensor:
        """With the coordinates of the pieces that `rng` draws."""
        count = self.config.latent_components
        if not count:
            return normal_NZ
        component_N = rng.integers("component", len(normal_NZ), 0, count)
        return torch.cat([normal_NZ, self.config.latent_dim**0.5 / 2 * F.one_hot(component_N, count).float()], dim=1)

    def sample(self, generator: nn.Module, request: Request) -> Samples:
        latents_NZ = request.latents
        if latents_NZ is None:
            latents_NZ = self.latents(request.rng, request.n, request.truncation)
        if not isinstance(generator, LabelledGenerator):
            return generator(latents_NZ)
        return generator(latents_NZ, request.labels(generator.classes))

    def between(
        self, generator: nn.Module, request: Request, ends: tuple[SampleRng, SampleRng], way_N: Tensor
    ) -> Samples:
        """By a quarter turn from one normal draw to the other: every step is a draw of the prior, whose piece stays."""
        start_NZ, end_NZ = (self._normal(rng, request.n) for rng in ends)
        normal_NZ = turned(start_NZ, end_NZ, way_N) * request.truncation
        return self.sample(generator, replace(request, latents=self._in_piece(normal_NZ, request.rng)))


def turned(start_NZ: Tensor, end_NZ: Tensor, way_N: Tensor) -> Tensor:
    """Row i at the share way_N[i] of a quarter turn from one normal draw to the other: a normal draw itself."""
    angle_N1 = way_N[:, None] * (math.pi / 2)
    return angle_N1.cos() * start_NZ + angle_N1.sin() * end_NZ
