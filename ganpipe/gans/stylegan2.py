"""StyleGAN2 (arXiv:1912.04958): a generator steered by styles and kept smooth by path lengths, R1 at real images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from .. import losses
from ..networks import stylegan2
from ..options import Adam, OptimizersConfig, Rate
from ..rng import SampleRng, generator_for
from ..schedule import Schedule
from ..spec import DataSpec, class_count, image_shape
from .base import Batch, Loss, Networks, Request, Samples, Step, judged
from .latents import LatentConfig, LatentGAN

PATH_LENGTH_DECAY = 0.01
"""Weight of the newest path length in their running mean."""
CENTRE_LATENTS = 1024
"""Latents whose styles are averaged to what a truncation leads towards."""


class StyleGAN2Config(LatentConfig):
    """Configuration F of the paper; the defaults are those for FFHQ at 1024 px."""

    name: Literal["stylegan2"] = "stylegan2"
    conditioning: Literal["none", "projection"] = "none"
    """How the discriminator learns of the class, which the mapping network is given beside the latent: as a projection
    of its features (arXiv:1802.05637)."""
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


class StyleGAN2(LatentGAN):
    """Images from a latent vector and noise for every pixel of every layer, of a class when `conditioning` says so."""

    Config = StyleGAN2Config
    config: StyleGAN2Config

    def __init__(self, config: StyleGAN2Config):
        super().__init__(config)
        self.mean_path_length = torch.zeros(())

    def optimizers(self) -> OptimizersConfig:
        """Adam as in the paper's Appendix B. Penalties share an update with the loss: nothing is rescaled for them."""
        adam = Adam(lr=Schedule(2e-3), beta1=Schedule(0.0), beta2=Schedule(0.99))
        return OptimizersConfig(generator=adam, discriminator=adam)

    def build_networks(self, spec: DataSpec) -> Networks:
        config = self.config
        channels, resolution, _ = image_shape(spec)
        classes = 0 if config.conditioning == "none" else class_count(spec)
        size = (channels, resolution, config.channel_base, config.channel_max, classes)
        latent_size = config.latent_dim + config.latent_components
        generator = stylegan2.Generator(latent_size, config.style_dim, config.mapping_layers, *size)
        return Networks(generator, stylegan2.Discriminator(*size))

    def absolute_logits(self) -> bool:
        return True

    def discriminator_loss(self, nets: Networks, batch: Batch, step: Step) -> Loss:
        real_NCHW, judge = batch["image"], self.judge(nets, batch)
        with torch.no_grad():
            fake_NCHW, _ = self._generated(nets, batch, step)
        if step.update_index % self.config.r1_every:
            real_logits_N, r1 = judge(real_NCHW), None
        else:
            real_logits_N, r1 = losses.judged_with_penalty(judge, real_NCHW)
        fake_logits_N = judge(fake_NCHW)
        loss = judged(losses.cross_entropy_discriminator(real_logits_N, fake_logits_N), real_logits_N, fake_logits_N)
        if r1 is not None:
            loss.add("r1", r1, self.config.r1.at(step.images_seen) * self.config.r1_every)
        loss.stats["sign_real"] = real_logits_N.detach().sign().float().mean()
        return loss

    def generator_loss(self, nets: Networks, batch: Batch, step: Step) -> Loss:
        """With a path length due, the images are made in fp32, as penalties are."""
        config, lengths_N = self.config, None
        if config.path_length is None or step.update_index % config.path_length_every:
            fake_NCHW, _ = self._generated(nets, batch, step)
        else:
            with torch.autocast(batch["image"].device.type, enabled=False):
                fake_NCHW, styles_NLV = self._generated(nets, batch, step)
                directions_NCHW = step.rng.normal("directions", step.micro_batch, fake_NCHW.shape[1:])
                lengths_N = losses.path_lengths(fake_NCHW, styles_NLV, directions_NCHW)
        adversarial = losses.non_saturating_generator(self.judge(nets, batch)(fake_NCHW))
        loss = Loss(adversarial, {"adversarial": adversarial.detach()})
        if lengths_N is not None and config.path_length is not None:
            penalty = (lengths_N - self.mean_path_length.to(lengths_N.device)).square().mean()
            loss.add("path_length_penalty", penalty, config.path_length * config.path_length_every)
            loss.logs["path_length"] = loss.stats["path_length"] = lengths_N.detach().mean()
        return loss

    def observe(self, means: Mapping[str, Tensor], step: Step) -> None:
        """a of Eq. 4 follows the lengths."""
        if "path_length" in means:
            length = means["path_length"]
            self.mean_path_length = self.mean_path_length.to(length.device).lerp(length, PATH_LENGTH_DECAY)

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        return {"shared": {"mean_path_length": self.mean_path_length}, "rank": {}}

    def load_state_dict(self, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        self.mean_path_length = state["shared"]["mean_path_length"]

    def _generated(self, nets: Networks, batch: Batch, step: Step) -> tuple[Tensor, Tensor]:
        """Images (N, C, H, W) of a micro-batch, and their styles (N, L, V)."""
        generator, rng, n = nets.generator, step.rng, step.micro_batch
        assert isinstance(generator, stylegan2.Generator)
        mix = None
        if self.config.style_mixing:
            mixed_N = rng.uniform("mixed", n) < self.config.style_mixing
            crossover_N = rng.integers("crossover", n, 1, generator.style_count)
            others_NZ = self.latents(replace(rng, update=f"{rng.update}-others"), n)
            mix = others_NZ, torch.where(mixed_N, crossover_N, generator.style_count)
        noise_NF = rng.normal("noise", n, (generator.noise_dim,))
        return generator(self.latents(rng, n), noise_NF, *(self.conditions(batch) or (None,)), mix)

    def sample(self, generator: nn.Module, request: Request) -> Samples:
        """A truncation leads styles, not latents, towards a mean (arXiv:1812.04948, Appendix B)."""
        assert isinstance(generator, stylegan2.Generator)
        latents_NZ = self.latents(request.rng, request.n) if request.latents is None else request.latents
        label_N = request.labels(generator.classes) if generator.classes else None
        return self._drawn(generator, generator.mapping(latents_NZ, label_N), latents_NZ, label_N, request)

    def between(
        self, generator: nn.Module, request: Request, ends: tuple[SampleRng, SampleRng], way_N: Tensor
    ) -> Samples:
        """By a straight line between styles, whose space has no shell to keep to (arXiv:1812.04948, Sec. 4.1)."""
        assert isinstance(generator, stylegan2.Generator)
        label_N = request.labels(generator.classes) if generator.classes else None
        start_NZ, end_NZ = (self._in_piece(self._normal(rng, request.n), request.rng) for rng in ends)
        start_NV, end_NV = (generator.mapping(latents_NZ, label_N) for latents_NZ in (start_NZ, end_NZ))
        return self._drawn(generator, torch.lerp(start_NV, end_NV, way_N[:, None]), start_NZ, label_N, request)

    def _drawn(
        self,
        generator: stylegan2.Generator,
        styles_NV: Tensor,
        latents_NZ: Tensor,
        label_N: Tensor | None,
        request: Request,
    ) -> Samples:
        """Images of styles, truncated as the request says; the latents and labels tell their centres."""
        if request.truncation != 1:
            styles_NV = torch.lerp(self._centres(generator, latents_NZ, label_N), styles_NV, request.truncation)
        styles_NLV = styles_NV[:, None].expand(-1, generator.style_count, -1)
        noise_NF = request.rng.normal("noise", request.n, (generator.noise_dim,))
        return generator.synthesis(styles_NLV, noise_NF).clamp(-1, 1)

    def _centres(self, generator: stylegan2.Generator, latents_NZ: Tensor, label_N: Tensor | None) -> Tensor:
        """Mean style (N, V) of each row's piece of the prior and class, over normal draws that are always the same.

        Taken afresh for these weights: one that training kept would not be the moving average's.
        """
        normal_MZ = torch.randn((CENTRE_LATENTS, self.config.latent_dim), generator=generator_for("cpu", "centre"))
        normal_MZ = normal_MZ.to(latents_NZ.device)
        labels = [None] * len(latents_NZ) if label_N is None else list(label_N)
        found: dict[str, Tensor] = {}
        centres = []
        for latent_Z, label in zip(latents_NZ, labels, strict=True):
            piece_K = latent_Z[self.config.latent_dim :]
            kind = f"{piece_K.tolist()} {label}"
            if kind not in found:
                rows_MZ = torch.cat([normal_MZ, piece_K.expand(CENTRE_LATENTS, -1)], dim=1)
                of_class_M = None if label is None else label.expand(CENTRE_LATENTS)
                found[kind] = generator.mapping(rows_MZ, of_class_M).mean(0)
            centres.append(found[kind])
        return torch.stack(centres)
