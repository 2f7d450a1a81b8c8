"""Images from a sentence: GAN-CLS (arXiv:1605.05396) on DCGAN's networks, the discriminator a projection one."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from .. import losses
from ..errors import InputError
from ..networks import dcgan
from ..networks.pretrained import PretrainedEncoder, pretrained
from ..networks.text import ByteEncoder, TextDiscriminator, TextGenerator, check_text, to_bytes
from ..options import Adam, GanConfig, OptimizersConfig, Section
from ..rng import SampleRng
from ..spec import DataSpec, image_shape
from .base import (
    GAN,
    WRONG_CAPTION,
    Batch,
    Loss,
    Networks,
    OutputKind,
    Request,
    Samples,
    Step,
    conditioned,
    refuse_translations,
)
from .latents import turned


class BytesEncoder(Section):
    """Learned from the captions alone, of any script."""

    name: Literal["bytes"] = "bytes"
    width: int = Field(64, ge=1)
    """Channels of the convolutions over bytes."""
    layers: int = Field(3, ge=1)
    """Their number; each sees two bytes further to either side."""


class HuggingFaceEncoder(Section):
    """A frozen text model of the hub, with a linear layer that learns; needs the extra `text`."""

    name: Literal["hugging_face"] = "hugging_face"
    id: str = Field(min_length=1)
    """`owner/name` with safetensors, or a local folder of the same. It is needed wherever the generator is loaded."""
    revision: str | None = None
    """Branch, tag or commit. null: the newest of the main branch, or of the local cache."""


Encoder = Annotated[BytesEncoder | HuggingFaceEncoder, Field(discriminator="name")]


class TextToImageConfig(GanConfig):
    """DCGAN's networks, each with an encoder of its own."""

    name: Literal["text_to_image"] = "text_to_image"
    encoder: Encoder = BytesEncoder()
    """What makes a vector of a sentence."""
    max_bytes: int = Field(128, ge=1, le=4096)
    """Longest text, in bytes of UTF-8: a letter has one in English, two in Greek or Russian, three in Chinese."""
    text_dim: int = Field(64, ge=1)
    """Size of a sentence's vector."""
    latent_dim: int = Field(100, ge=1)
    """Size of the standard normal latent beside it."""
    feature_dim: int = Field(64, ge=1)
    """Channels next to the image; they double with every halving of the resolution."""
    wrong_text: float = Field(0.5, ge=0, le=1)
    """Share that real images with a wrong text have of the discriminator's loss of what is not real; generated ones
    have the rest. 0: no wrong texts, and what a text means is learnt from what generated images look like alone."""
    r1: float | None = Field(None, gt=0)
    """gamma of gamma/2 E[|grad D|^2] at real images with their own text (arXiv:1801.04406)."""
    penalty_every: int = Field(1, ge=1)
    """Steps from one R1 to the next; it weighs as many times more (lazy, arXiv:1912.04958, Sec. 3.1)."""

    @model_validator(mode="after")
    def _sound(self) -> TextToImageConfig:
        if self.penalty_every > 1 and self.r1 is None:
            raise ValueError("gan.penalty_every is for gan.r1, which is not set; leave it at 1")
        return self


class TextToImage(GAN):
    """Images from a latent vector and a sentence."""

    Config = TextToImageConfig
    config: TextToImageConfig

    def columns(self, available: Collection[str]) -> frozenset[str]:
        wanted = conditioned(self.output(available), "caption", available, f"gan.name {self.config.name}")
        return wanted | {WRONG_CAPTION} if self.config.wrong_text else wanted

    def output(self, available: Collection[str]) -> OutputKind:
        refuse_translations(self.config.name, available)
        if "image" not in available:
            raise InputError(
                f"gan.name {self.config.name} makes images, and the data holds points; set gan to "
                "{name: classic, network: {name: mlp}}"
            )
        return "image"

    def check_resolution(self, resolution: int) -> None:
        dcgan.stages_between(resolution)

    def check_text(self, text: str) -> None:
        check_text(text, self.config.max_bytes)
        if isinstance(encoder := self.config.encoder, HuggingFaceEncoder):
            pretrained(encoder.id, encoder.revision).tokens(text)

    def requirements(self) -> frozenset[str]:
        return frozenset({"transformers"} if isinstance(self.config.encoder, HuggingFaceEncoder) else ())

    def optimizers(self) -> OptimizersConfig:
        """DCGAN's Adam, as arXiv:1605.05396, Sec. 5, has it."""
        return OptimizersConfig(generator=Adam(), discriminator=Adam())

    def build_networks(self, spec: DataSpec) -> Networks:
        """Raises InputError when some caption of the data is too long."""
        caption, config = spec["caption"], self.config
        if caption.shape[0] > config.max_bytes:
            raise InputError(
                f"gan.max_bytes is {config.max_bytes}, and the longest caption of the data has {caption.shape[0]} "
                f"bytes of UTF-8; raise gan.max_bytes to {caption.shape[0]}, or shorten the captions"
            )
        channels, resolution, _ = image_shape(spec)
        trunk = dcgan.Generator(config.latent_dim + config.text_dim, config.feature_dim, channels, resolution)
        plain = dcgan.Discriminator(channels, config.feature_dim, resolution, norm="none")
        return Networks(
            TextGenerator(trunk, self._encoder(), caption.examples or ()),
            TextDiscriminator(plain, self._encoder(), config.text_dim),
        )

    def _encoder(self) -> ByteEncoder | PretrainedEncoder:
        encoder, text_dim = self.config.encoder, self.config.text_dim
        if isinstance(encoder, HuggingFaceEncoder):
            return PretrainedEncoder(pretrained(encoder.id, encoder.revision), text_dim)
        return ByteEncoder(text_dim, encoder.width, encoder.layers)

    def absolute_logits(self) -> bool:
        return True

    def discriminator_loss(self, nets: Networks, batch: Batch, step: Step) -> Loss:
        assert nets.discriminator is not None
        discriminator, caption_NL = nets.discriminator, batch["caption"]
        with torch.no_grad():
            fake_NCHW = self._fakes(nets, batch, step)
        fake_N = discriminator(fake_NCHW, caption_NL)
        wrong_N = None
        if self.config.wrong_text:
            real_N, wrong_N = discriminator(batch["image"], caption_NL, batch[WRONG_CAPTION])
        else:
            real_N = discriminator(batch["image"], caption_NL)
        adversarial = losses.matching_aware_discriminator(real_N, fake_N, wrong_N, self.config.wrong_text)
        logits = {"real": real_N, "fake": fake_N} | ({} if wrong_N is None else {"wrong": wrong_N})
        loss = Loss(adversarial, {f"logits_{name}": value.detach().float().mean() for name, value in logits.items()})
        loss.logs["adversarial"] = adversarial.detach()
        if self.config.r1 is not None and step.update_index % self.config.penalty_every == 0:
            r1 = losses.zero_centred_penalty(lambda images: discriminator(images, caption_NL), batch["image"])
            loss.add("r1", r1, self.config.r1 * self.config.penalty_every)
        loss.stats["sign_real"] = real_N.detach().float().sign().mean()
        return loss

    def generator_loss(self, nets: Networks, batch: Batch, step: Step) -> Loss:
        """Each fake beside the text that it was made from."""
        assert nets.discriminator is not None
        fake_N = nets.discriminator(self._fakes(nets, batch, step), batch["caption"])
        adversarial = losses.non_saturating_generator(fake_N)
        return Loss(adversarial, {"adversarial": adversarial.detach()})

    def _fakes(self, nets: Networks, batch: Batch, step: Step) -> Tensor:
        """As many images as the micro-batch has, of its captions."""
        latents_NZ = step.rng.normal("latents", step.micro_batch, (self.config.latent_dim,))
        return nets.generator(latents_NZ, batch["caption"])

    def sample(self, generator: torch.nn.Module, request: Request) -> Samples:
        latents_NZ = request.latents
        if latents_NZ is None:
            latents_NZ = self._latents(request.rng, request)
        return self._told(generator, latents_NZ, request)

    def between(
        self, generator: torch.nn.Module, request: Request, ends: tuple[SampleRng, SampleRng], way_N: Tensor
    ) -> Samples:
        """By a quarter turn from one latent to the other; the text stays."""
        start_NZ, end_NZ = (self._latents(rng, request) for rng in ends)
        return self._told(generator, turned(start_NZ, end_NZ, way_N), request)

    def _latents(self, rng: SampleRng, request: Request) -> Tensor:
        return rng.normal("latents", request.n, (self.config.latent_dim,)) * request.truncation

    def _told(self, generator: torch.nn.Module, latents_NZ: Tensor, request: Request) -> Samples:
        assert isinstance(generator, TextGenerator)
        texts = request.captions(generator.examples)
        return generator(latents_NZ, to_bytes(texts, self.config.max_bytes).to(latents_NZ.device))
