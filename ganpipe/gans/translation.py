"""What recipes share that translate images: a PatchGAN, and any of the adversarial games with it."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from .. import losses
from ..errors import InputError
from ..networks.dcgan import Norm
from ..networks.patch import Discriminator, check_patches
from ..options import Adam, GanConfig, OptimizersConfig
from .base import GAN, Loss, OutputKind, Request, Step, judged
from .classic import OBJECTIVES

Judge = Callable[[Tensor], Tensor]
"""images -> logits (N, ...), as many for each as there are patches."""


class TranslationConfig(GanConfig):
    """The discriminator, and the game that it plays."""

    adversarial: Literal["minimax", "non_saturating", "lsgan", "hinge", "wasserstein", "relativistic"] = (
        "non_saturating"
    )
    """The adversarial game; see `losses.py`."""
    feature_dim: int = Field(64, ge=1)
    """Channels next to the image, of every network."""
    patch_layers: int = Field(3, ge=1)
    """Halvings in the discriminator: three judge patches of 70x70 pixels, two 34x34, one 16x16."""
    patch_norm: Norm = "batch"
    """Normalisation in the discriminator."""
    gradient_penalty: float | None = Field(None, gt=0)
    """Weight of the penalty on interpolates (arXiv:1704.00028 takes 10). The gradient is that of the mean logit of an
    image's patches, here and below; where there are two discriminators, of both together."""
    r1: float | None = Field(None, gt=0)
    """gamma of gamma/2 E[|grad D|^2] at real images (arXiv:1801.04406)."""
    r2: float | None = Field(None, gt=0)
    """gamma of the same at generated images."""
    penalty_every: int = Field(1, ge=1)
    """Steps from one R1 and R2 to the next; they weigh as many times more (lazy, arXiv:1912.04958, Sec. 3.1)."""

    @model_validator(mode="after")
    def _sound_game(self) -> TranslationConfig:
        if self.adversarial == "wasserstein" and self.gradient_penalty is None:
            raise ValueError(
                "gan.adversarial wasserstein needs a bounded critic, its loss has no minimum otherwise; "
                "set gan.gradient_penalty (10)"
            )
        for penalty in ("gradient_penalty", "r1", "r2"):
            if getattr(self, penalty) is not None and self.patch_norm == "batch":
                raise ValueError(
                    f"gan.{penalty} penalises each image's own gradient, but gan.patch_norm batch makes a logit depend "
                    "on the whole batch; set gan.patch_norm to instance or none"
                )
        if self.penalty_every > 1 and self.r1 is None and self.r2 is None:
            raise ValueError("gan.penalty_every is for gan.r1 and gan.r2, and neither is set; leave it at 1")
        return self


class Translation(GAN):
    """Makes an image of another one."""

    config: TranslationConfig
    LEAST_BATCH = 1
    SOURCES: ClassVar[frozenset[str]]
    """Columns that it learns from."""
    SIDES: ClassVar[int] = 1
    """Discriminators, each of which judges the same number of patches; their games are added up."""

    def columns(self, available: Collection[str]) -> frozenset[str]:
        if missing := sorted(self.SOURCES - set(available)):
            raise InputError(
                f"gan.name {self.config.name} learns from the columns {' and '.join(sorted(self.SOURCES))}, and the "
                f"data has no {' and no '.join(missing)}; change prepare.source, or gan.name"
            )
        return self.SOURCES

    def output(self, available: Collection[str]) -> OutputKind:
        return "translation"

    def optimizers(self) -> OptimizersConfig:
        """DCGAN's Adam, which both papers take."""
        return OptimizersConfig(generator=Adam(), discriminator=Adam())

    def absolute_logits(self) -> bool:
        return OBJECTIVES[self.config.adversarial].middle is not None

    def check_patches(self, resolution: int) -> None:
        """Raises InputError when the discriminator leaves no patch of an image of so many pixels."""
        check_patches(resolution, self.config.patch_layers, "gan.patch_layers")

    def patch_discriminator(self, channels: int) -> Discriminator:
        """A new one, of images with so many channels in all."""
        return Discriminator(channels, self.config.feature_dim, self.config.patch_layers, self.config.patch_norm)

    def judging_loss(self, judge: Judge, real_NCHW: Tensor, fake_NCHW: Tensor, step: Step) -> Loss:
        """The discriminator's side, with its penalties."""
        game = OBJECTIVES[self.config.adversarial]
        real_logits, fake_logits = judge(real_NCHW), judge(fake_NCHW)
        loss = judged(self.SIDES * game.discriminator(real_logits, fake_logits), real_logits, fake_logits)
        if game.middle is not None:
            loss.stats["sign_real"] = (real_logits.detach().float() - game.middle).sign().mean()

        def judge_whole(images_NCHW: Tensor) -> Tensor:
            return self.SIDES * judge(images_NCHW).flatten(1).mean(1)

        if self.config.gradient_penalty is not None:
            mix_N = step.rng.uniform("mix", step.micro_batch)
            penalty = losses.gradient_penalty(judge_whole, real_NCHW, fake_NCHW, mix_N)
            loss.add("gradient_penalty", penalty, self.config.gradient_penalty)
        if step.update_index % self.config.penalty_every == 0:
            for name, gamma, images_NCHW in (("r1", self.config.r1, real_NCHW), ("r2", self.config.r2, fake_NCHW)):
                if gamma is not None:
                    penalty = losses.zero_centred_penalty(judge_whole, images_NCHW)
                    loss.add(name, penalty, gamma * self.config.penalty_every)
        return loss

    def fooling_term(self, judge: Judge, real_NCHW: Tensor, fake_NCHW: Tensor) -> Tensor:
        """The generator's side."""
        game = OBJECTIVES[self.config.adversarial]
        fake_logits = judge(fake_NCHW)
        if not game.paired:
            return self.SIDES * game.generator(fake_logits)
        with torch.no_grad():
            real_logits = judge(real_NCHW)
        return self.SIDES * game.generator(real_logits, fake_logits)

    def sources(self, request: Request) -> Tensor:
        """What the request wants translated, (n, C, H, W). Raises InputError when it holds no images."""
        if request.sources is None:
            raise InputError(f"the recipe {self.config.name} translates images, and none were given")
        assert len(request.sources) == request.n, "one source for each sample"
        return request.sources
