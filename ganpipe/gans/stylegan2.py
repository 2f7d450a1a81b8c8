"""StyleGAN2 (arXiv:1912.04958): a generator steered by styles and kept smooth by path lengths, R1 at real images."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from .. import losses
from ..errors import InputError
from ..networks import stylegan2
from ..options import Adam, GanConfig, OptimizersConfig, Rate
from ..rng import SampleRng, StepRng, generator_for
from ..schedule import Schedule
from ..spec import DataSpec, image_shape
from .base import GAN, Batch, Loss, Networks, OutputKind, Request, Samples, Step

PATH_LENGTH_DECAY = 0.01
"""Weight of the newest path length in their running mean."""
CENTRE_LATENTS = 1024
"""Latents whose styles are averaged to what a truncation leads towards."""


class StyleGAN2Config(GanConfig):
    """Configuration F of the paper; the defaults are those for FFHQ at 1024 px."""

    name: Literal["stylegan2"] = "stylegan2"
    latent_dim: int = Field(512, ge=1)
    """Size of the standard normal latent."""
    style_dim: int = Field(512, ge=1)
    """Size of a style."""
    mapping_layers: int = Field(8, ge=1)
    """Layers from latent to style."""
    channel_base: int = Field(32768, ge=1)
    """Features at a resolution of p pixels are channel_base / p ..."""
    channel_max: int = Field(512, ge=1)
    """... but at most this many."""
    r1: Rate = Schedule(10.0)
    """gamma of gamma/2 E[|grad D|^2] at real images; 0.0002 x pixels / batch is a good first guess."""
    r1_every: int = Field(16, ge=1)
    """Steps from one R1 to the next; it weighs as many times more (lazy, Sec. 3.1)."""
    path_length: float | None = Field(2.0, gt=0)
    """Weight of the path length regularisation (Sec. 3.2); null: none."""
    path_length_every: int = Field(4, ge=1)
    """Steps from one to the next; it weighs as many times more."""
    style_mixing: float = Field(0.9, ge=0, le=1)
    """Share of training's samples that take another latent's style from some layer on (arXiv:1812.04948, Sec. 3.1)."""


class StyleGAN2(GAN):
    """Images from a latent vector and noise for every pixel of every layer."""

    Config = StyleGAN2Config
    config: StyleGAN2Config

    def __init__(self, config: StyleGAN2Config):
        super().__init__(config)
        self.mean_path_length = torch.zeros(())

    def columns(self, available: Collection[str]) -> frozenset[str]:
        return frozenset({self.output(available)})

    def output(self, available: Collection[str]) -> OutputKind:
        if "image" not in available:
            raise InputError(
                "gan.name stylegan2 is made of convolutions over pixels, and the data holds points; "
                "set gan to {name: classic, network: {name: mlp}}"
            )
        return "image"

    def optimizers(self) -> OptimizersConfig:
        """Adam as in the paper's Appendix B. Penalties share an update with the loss: nothing is rescaled for them."""
        adam = Adam(lr=Schedule(2e-3), beta1=Schedule(0.0), beta2=Schedule(0.99))
        return OptimizersConfig(generator=adam, discriminator=adam)

    def build_networks(self, spec: DataSpec) -> Networks:
        config = self.config
        channels, resolution, _ = image_shape(spec)
        size = (channels, resolution, config.channel_base, config.channel_max)
        return Networks(
            stylegan2.Generator(config.latent_dim, config.style_dim, config.mapping_layers, *size),
            stylegan2.Discriminator(*size),
        )

    def discriminator_loss(self, nets: Networks, batch: Batch, step: Step) -> Loss:
        assert nets.discriminator is not None
        real_NCHW = batch["image"]
        with torch.no_grad():
            fake_NCHW, _ = self._generate(nets.generator, step)
        real_logits_N, fake_logits_N = nets.discriminator(real_NCHW), nets.discriminator(fake_NCHW)
        adversarial = losses.cross_entropy_discriminator(real_logits_N, fake_logits_N)
        total = adversarial
        logs = {
            "adversarial": adversarial.detach(),
            "logits_real": real_logits_N.detach().mean(),
            "logits_fake": fake_logits_N.detach().mean(),
            "prob_real": real_logits_N.detach().float().sigmoid().mean(),
            "prob_fake": fake_logits_N.detach().float().sigmoid().mean(),
        }
        if step.update_index % self.config.r1_every == 0:
            penalty = losses.zero_centred_penalty(nets.discriminator, real_NCHW)
            total = total + self.config.r1.at(step.images_seen) * self.config.r1_every * penalty
            logs["r1"] = penalty.detach()
        return Loss(total, logs, stats={"sign_real": real_logits_N.detach().sign().float().mean()})

    def generator_loss(self, nets: Networks, batch: Batch, step: Step) -> Loss:
        assert nets.discriminator is not None
        weight = self.config.path_length if step.update_index % self.config.path_length_every == 0 else None
        if weight is None:
            fake_NCHW, _ = self._generate(nets.generator, step)
            adversarial = losses.non_saturating_generator(nets.discriminator(fake_NCHW))
            return Loss(adversarial, {"adversarial": adversarial.detach()})

        with torch.autocast(batch["image"].device.type, enabled=False):
            fake_NCHW, styles_NLV = self._generate(nets.generator, step)
            directions_NCHW = step.rng.normal("directions", step.micro_batch, fake_NCHW.shape[1:])
            lengths_N = losses.path_lengths(fake_NCHW, styles_NLV, directions_NCHW)
            penalty = (lengths_N - self.mean_path_length.to(lengths_N.device)).square().mean()
        adversarial = losses.non_saturating_generator(nets.discriminator(fake_NCHW))
        length = lengths_N.detach().mean()
        logs = {"adversarial": adversarial.detach(), "path_length": length, "path_length_penalty": penalty.detach()}
        total = adversarial + weight * self.config.path_length_every * penalty
        return Loss(total, logs, stats={"path_length": length})

    def observe(self, means: Mapping[str, Tensor], step: Step) -> None:
        """a of Eq. 4 follows the lengths."""
        if "path_length" in means:
            length = means["path_length"]
            self.mean_path_length = self.mean_path_length.to(length.device).lerp(length, PATH_LENGTH_DECAY)

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        return {"shared": {"mean_path_length": self.mean_path_length}, "rank": {}}

    def load_state_dict(self, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        self.mean_path_length = state["shared"]["mean_path_length"]

    def _generate(self, generator: nn.Module, step: Step) -> tuple[Tensor, Tensor]:
        """Images (N, C, H, W) of a micro-batch, and their styles (N, L, V)."""
        assert isinstance(generator, stylegan2.Generator)
        n, latent = step.micro_batch, (self.config.latent_dim,)
        latents_NZ, noise_NF = self._noise(generator, step.rng, n)
        if not self.config.style_mixing:
            return generator(latents_NZ, noise_NF)
        mixed_N = step.rng.uniform("mixed", n) < self.config.style_mixing
        crossover_N = step.rng.integers("crossover", n, 1, generator.style_count)
        crossover_N = torch.where(mixed_N, crossover_N, generator.style_count)
        return generator(latents_NZ, noise_NF, (step.rng.normal("other_latents", n, latent), crossover_N))

    def _noise(self, generator: stylegan2.Generator, rng: StepRng | SampleRng, n: int) -> tuple[Tensor, Tensor]:
        """Latents (n, Z) and what is added to the layers' pixels (n, F)."""
        return rng.normal("latents", n, (self.config.latent_dim,)), rng.normal("noise", n, (generator.noise_dim,))

    def sample(self, generator: nn.Module, request: Request) -> Samples:
        """A truncation leads styles, not latents, towards their mean (arXiv:1812.04948, Appendix B)."""
        assert isinstance(generator, stylegan2.Generator)
        latents_NZ, noise_NF = self._noise(generator, request.rng, request.n)
        if request.latents is not None:
            latents_NZ = request.latents
        styles_NV = generator.mapping(latents_NZ)
        if request.truncation != 1:
            centre_V = self._centre(generator, latents_NZ)
            styles_NV = centre_V + request.truncation * (styles_NV - centre_V)
        styles_NLV = styles_NV[:, None].expand(-1, generator.style_count, -1)
        return generator.synthesis(styles_NLV, noise_NF).clamp(-1, 1)

    def _centre(self, generator: stylegan2.Generator, like: Tensor) -> Tensor:
        """Mean style (V,) of latents that are always the same: one that training kept would be of other weights than
        the moving average's."""
        draws = torch.randn((CENTRE_LATENTS, self.config.latent_dim), generator=generator_for("cpu", "centre"))
        return generator.mapping(draws.to(like.device)).mean(0)
