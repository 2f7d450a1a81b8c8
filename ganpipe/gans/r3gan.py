"""R3GAN (arXiv:2501.05441): the relativistic pairing loss with R1 and R2, on plain residual networks."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import nn

from .. import losses
from ..errors import InputError
from ..networks import r3gan
from ..networks.labels import LabelledGenerator
from ..options import Adam, OptimizersConfig, Rate
from ..schedule import Schedule
from ..spec import DataSpec, class_count, image_shape
from .base import Batch, Loss, Networks, Request, Samples, Step, judged
from .latents import LatentConfig, LatentGAN


class R3GANConfig(LatentConfig):
    """The paper's networks for CIFAR-10 unless told otherwise; numbers of stages run from 4x4 to the image."""

    name: Literal["r3gan"] = "r3gan"
    conditioning: Literal["none", "projection"] = "none"
    """How the discriminator learns of the class, which the generator is given beside the latent: as a projection of its
    features (arXiv:1802.05637)."""
    latent_dim: int = Field(64, ge=1)
    """Size of the standard normal latent, and of the class's vector beside it."""
    widths: tuple[PositiveInt, ...] = Field((768, 768, 768, 768), min_length=2)
    """Features of each stage; each one more doubles the resolution: four make images of 32 px."""
    cardinality: tuple[PositiveInt, ...] = (96, 96, 96, 96)
    """Groups of the 3x3 convolutions of each stage."""
    blocks: int = Field(2, ge=1)
    """Residual blocks in each stage."""
    expansion: int = Field(2, ge=1)
    """How many times wider a block is inside."""
    gamma: Rate = Schedule(1.0)
    """Of gamma/2 E[|grad D|^2], at real images (R1) and at generated ones (R2)."""
    penalty_every: int = Field(1, ge=1)
    """Steps from one R1 and R2 to the next; they weigh as many times more (lazy, arXiv:1912.04958, Sec. 3.1)."""

    @model_validator(mode="after")
    def _sound(self) -> R3GANConfig:
        if len(self.cardinality) != len(self.widths):
            raise ValueError(
                f"gan.cardinality has {len(self.cardinality)} numbers and gan.widths {len(self.widths)}; "
                "give one for each stage"
            )
        for width, groups in zip(self.widths, self.cardinality, strict=True):
            if width * self.expansion % groups:
                raise ValueError(
                    f"gan.cardinality {groups} does not divide the {width * self.expansion} features inside a block of "
                    f"gan.widths {width}"
                )
        return self

    def layout(self) -> r3gan.Layout:
        """What both networks are made of."""
        return r3gan.Layout(self.widths, self.cardinality, self.blocks, self.expansion)


class R3GAN(LatentGAN):
    """Images from a latent vector, of a class when `conditioning` says so."""

    Config = R3GANConfig
    config: R3GANConfig

    def check_resolution(self, resolution: int) -> None:
        made = self.config.layout().resolution
        if made != resolution:
            raise InputError(
                f"gan.widths has {len(self.config.widths)} stages, which make images of {made} pixels, and "
                f"prepare.resolution is {resolution}; give gan.widths and gan.cardinality one number for each of "
                f"4, 8, ..., {resolution}"
            )

    def optimizers(self) -> OptimizersConfig:
        """The paper's Adam without its schedules, whose length is the run's."""
        adam = Adam(lr=Schedule(2e-4), beta1=Schedule(0.0), beta2=Schedule(0.99))
        return OptimizersConfig(generator=adam, discriminator=adam)

    def build_networks(self, spec: DataSpec) -> Networks:
        channels, resolution, _ = image_shape(spec)
        self.check_resolution(resolution)
        layout, latent_size = self.config.layout(), self.config.latent_dim + self.config.latent_components
        if self.config.conditioning == "none":
            return Networks(r3gan.Generator(latent_size, layout, channels), r3gan.Discriminator(channels, layout))
        classes, label_dim = class_count(spec), self.config.latent_dim
        generator = r3gan.Generator(latent_size + label_dim, layout, channels)
        return Networks(
            LabelledGenerator(generator, classes, label_dim), r3gan.Discriminator(channels, layout, classes)
        )

    def discriminator_loss(self, nets: Networks, batch: Batch, step: Step) -> Loss:
        """softplus(D(G(z)) - D(x)) + gamma R1 + gamma R2 (arXiv:2501.05441, Sec. 2)."""
        real_NCHW, judge = batch["image"], self.judge(nets, batch)
        with torch.no_grad():
            fake_NCHW = self.fakes(nets, batch, step)
        if step.update_index % self.config.penalty_every:
            real_logits_N, fake_logits_N, penalties = judge(real_NCHW), judge(fake_NCHW), {}
        else:
            real_logits_N, r1 = losses.judged_with_penalty(judge, real_NCHW)
            fake_logits_N, r2 = losses.judged_with_penalty(judge, fake_NCHW)
            penalties = {"r1": r1, "r2": r2}
        adversarial = losses.relativistic_discriminator(real_logits_N, fake_logits_N)
        loss = judged(adversarial, real_logits_N, fake_logits_N)
        for name, penalty in penalties.items():
            loss.add(name, penalty, self.config.gamma.at(step.images_seen) * self.config.penalty_every)
        return loss

    def generator_loss(self, nets: Networks, batch: Batch, step: Step) -> Loss:
        """softplus(D(x) - D(G(z))): each fake beside a real image, of its class when there are classes."""
        judge = self.judge(nets, batch)
        fake_logits_N = judge(self.fakes(nets, batch, step))
        with torch.no_grad():
            real_logits_N = judge(batch["image"])
        adversarial = losses.relativistic_generator(real_logits_N, fake_logits_N)
        return Loss(adversarial, {"adversarial": adversarial.detach()})

    def sample(self, generator: nn.Module, request: Request) -> Samples:
        """The generator's images without what lies beyond white and black."""
        return super().sample(generator, request).clamp(-1, 1)
