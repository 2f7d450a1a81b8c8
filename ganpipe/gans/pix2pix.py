"""pix2pix (arXiv:1611.07004): an image from an image, learnt from pairs."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from ..networks import unet
from ..options import OptimizersConfig, Rate
from ..rng import SampleRng, StepRng
from ..schedule import Schedule
from ..spec import DataSpec, image_shape
from .base import Batch, Loss, Networks, Plan, Request, Samples, Step
from .translation import Judge, Translation, TranslationConfig


class Pix2PixConfig(TranslationConfig):
    """The paper's networks and weights unless told otherwise."""

    name: Literal["pix2pix"] = "pix2pix"
    objective: Literal["l1", "gan", "both"] = "both"
    """What the generator learns from: the distance to the target, the discriminator, or both. With `l1` there is
    no discriminator, and what is said of one here says nothing, so that the three can be compared by this field."""
    l1_weight: Rate = Schedule(100.0)
    """Of the mean absolute distance to the target, on [-1, 1]: lambda of Eq. 4."""
    dropout: bool = True
    """The noise: half of the units of three stages are off, drawn for each image, when it is translated too."""


class Pix2Pix(Translation):
    """Adversarial loss on (source, image), and L1 to the target."""

    Config = Pix2PixConfig
    config: Pix2PixConfig
    SOURCES = frozenset({"source", "target"})

    def check_resolution(self, resolution: int) -> None:
        unet.halvings(resolution)
        if self.config.objective != "l1":
            self.check_patches(resolution)

    def padded(self, pixels: int, spec: DataSpec) -> int:
        return pixels + -pixels % image_shape(spec, "source")[1]

    def noisy(self) -> bool:
        return self.config.dropout

    def absolute_logits(self) -> bool:
        return self.config.objective != "l1" and super().absolute_logits()

    def optimizers(self) -> OptimizersConfig:
        both = super().optimizers()
        return both if self.config.objective != "l1" else OptimizersConfig(generator=both.generator)

    def build_networks(self, spec: DataSpec) -> Networks:
        (sources, resolution, _), (targets, _, _) = image_shape(spec, "source"), image_shape(spec, "target")
        self.check_resolution(resolution)
        generator = unet.Generator(sources, targets, self.config.feature_dim, resolution, self.config.dropout)
        if self.config.objective == "l1":
            return Networks(generator, None)
        return Networks(generator, self.patch_discriminator(sources + targets))

    def plan(self, step: int) -> Plan:
        return Plan(d_updates=int(self.config.objective != "l1"), g_updates=1)

    def discriminator_loss(self, nets: Networks, batch: Batch, step: Step) -> Loss:
        """D(x, y) against D(x, G(x, z)), Eq. 1; penalties are of y alone."""
        with torch.no_grad():
            fake_NCHW = self._translated(nets.generator, batch["source"], step.rng)
        return self.judging_loss(self._judge(nets, batch), batch["target"], fake_NCHW, step)

    def generator_loss(self, nets: Networks, batch: Batch, step: Step) -> Loss:
        """Eq. 4, or one of its terms; the distance is logged in any case."""
        fake_NCHW = self._translated(nets.generator, batch["source"], step.rng)
        loss = Loss(torch.zeros((), device=fake_NCHW.device))
        if self.config.objective != "l1":
            loss.add("adversarial", self.fooling_term(self._judge(nets, batch), batch["target"], fake_NCHW))
        distance = (fake_NCHW.float() - batch["target"]).abs().mean()
        if self.config.objective == "gan":
            loss.logs["l1"] = distance.detach()
        else:
            loss.add("l1", distance, self.config.l1_weight.at(step.images_seen))
        return loss

    def _judge(self, nets: Networks, batch: Batch) -> Judge:
        assert nets.discriminator is not None
        discriminator = nets.discriminator
        return lambda images_NCHW: discriminator(images_NCHW, batch["source"])

    def _translated(self, generator: nn.Module, sources_NCHW: Tensor, rng: StepRng | SampleRng) -> Tensor:
        assert isinstance(generator, unet.Generator)
        n, _, height, width = sources_NCHW.shape
        return generator(sources_NCHW, rng.integers("dropout", n, 0, 2, (generator.noise_size(height, width),)))

    def sample(self, generator: nn.Module, request: Request) -> Samples:
        """`request.sources` translated, with the noise that belongs to each row's index."""
        return self._translated(generator, self.sources(request), request.rng)
