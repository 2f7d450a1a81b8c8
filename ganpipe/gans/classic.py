"""The classic grid: networks x objectives x what keeps the discriminator smooth x how both learn of a class.

{mlp, dcgan, resnet} x {minimax, non_saturating, lsgan, hinge, wasserstein, relativistic}
x {weight_clip, gradient_penalty, r1, r2, spectral_norm} x {concat, projection, auxiliary}; pairs that make no sense are
refused.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from .. import losses
from ..errors import InputError
from ..networks import dcgan, labels, mlp, resnet, spectral
from ..options import Adam, OptimizersConfig, RMSProp, Section
from ..schedule import Schedule
from ..spec import DataSpec, class_count, image_shape, sampled
from .base import Batch, Loss, Networks, OutputKind, Plan, Step, judged, refuse_translations
from .latents import LatentConfig, LatentGAN


@dataclass(frozen=True)
class Objective:
    """The two sides of an adversarial game."""

    discriminator: Callable[[Tensor, Tensor], Tensor]
    """(real logits, fake logits) -> loss of D."""
    generator: Callable[..., Tensor]
    """(fake logits) -> loss of G; (real logits, fake logits) when `paired`."""
    paired: bool = False
    """Whether each fake is compared with a real of its own."""
    middle: float | None = 0
    """Logit between generated and real; None where only differences of logits mean something."""


OBJECTIVES = {
    "minimax": Objective(losses.cross_entropy_discriminator, losses.minimax_generator),
    "non_saturating": Objective(losses.cross_entropy_discriminator, losses.non_saturating_generator),
    "lsgan": Objective(losses.least_squares_discriminator, losses.least_squares_generator, middle=0.5),
    "hinge": Objective(losses.hinge_discriminator, losses.wasserstein_generator),
    "wasserstein": Objective(losses.wasserstein_discriminator, losses.wasserstein_generator, middle=None),
    "relativistic": Objective(
        losses.relativistic_discriminator, losses.relativistic_generator, paired=True, middle=None
    ),
}

LABEL_DEVIATION = 0.1
"""Of the class's vector, as it begins, beside latents of deviation 1. On the digits a vector as long as the latent took
over, and each class was few images for long."""


class MlpNetwork(Section):
    """Fully connected generator and discriminator."""

    name: Literal["mlp"] = "mlp"
    hidden_dim: int = Field(256, ge=1)
    """Width of the hidden layers."""
    hidden_layers: int = Field(3, ge=1)
    """Number of hidden layers in each network."""


class DcganNetwork(Section):
    """HW06's convolutional generator and discriminator."""

    name: Literal["dcgan"] = "dcgan"
    feature_dim: int = Field(64, ge=1)
    """Channels next to the image; they double with every halving of the resolution."""
    norm: dcgan.Norm = "batch"
    """Normalisation in the discriminator; the generator's is always batch normalisation."""


class ResnetNetwork(Section):
    """SN-GAN's residual generator and discriminator."""

    name: Literal["resnet"] = "resnet"
    feature_dim: int = Field(128, ge=1)
    """Channels of the discriminator; the generator has twice as many."""


Network = Annotated[MlpNetwork | DcganNetwork | ResnetNetwork, Field(discriminator="name")]


class ClassicConfig(LatentConfig):
    """An objective, a network, and at most one way to keep the critic Lipschitz."""

    name: Literal["classic"] = "classic"
    objective: Literal["minimax", "non_saturating", "lsgan", "hinge", "wasserstein", "relativistic"] = "non_saturating"
    """The adversarial game; see `losses.py`."""
    network: Network = DcganNetwork()
    """Architecture of both networks."""
    conditioning: Literal["none", "concat", "projection", "auxiliary"] = "none"
    """How the discriminator learns of the class, which the generator is given beside the latent: as one channel more
    (arXiv:1411.1784), as a projection of its features (arXiv:1802.05637), or by telling it itself (AC-GAN,
    arXiv:1610.09585)."""
    weight_clip: float | None = Field(None, gt=0)
    """Clamp every weight of the critic to [-c, c] after its update (arXiv:1701.07875 takes 0.01)."""
    gradient_penalty: float | None = Field(None, gt=0)
    """Weight of the penalty on interpolates (arXiv:1704.00028 takes 10)."""
    r1: float | None = Field(None, gt=0)
    """gamma of gamma/2 E[|grad D|^2] at real images (arXiv:1801.04406)."""
    r2: float | None = Field(None, gt=0)
    """gamma of the same at generated images."""
    penalty_every: int = Field(1, ge=1)
    """Steps from one R1 and R2 to the next; they weigh as many times more (lazy, arXiv:1912.04958, Sec. 3.1)."""
    spectral_norm: bool = False
    """Divide every weight of the discriminator by its largest singular value (arXiv:1802.05957)."""
    critic_steps: int = Field(1, ge=1)
    """D updates for each G update; each sees a fresh batch of reals."""

    @model_validator(mode="after")
    def _sound(self) -> ClassicConfig:
        if self.weight_clip is not None and self.gradient_penalty is not None:
            raise ValueError("gan.weight_clip and gan.gradient_penalty bound the critic twice; set one of them to null")
        if self.spectral_norm and self.weight_clip is not None:
            raise ValueError("gan.weight_clip clips weights that gan.spectral_norm rescales; set one of them to null")
        bounded = self.spectral_norm or self.weight_clip is not None or self.gradient_penalty is not None
        if self.objective == "wasserstein" and not bounded:
            raise ValueError(
                "gan.objective wasserstein needs a bounded critic, its loss has no minimum otherwise; "
                "set gan.gradient_penalty (10), gan.spectral_norm (true) or gan.weight_clip (0.01)"
            )
        if isinstance(self.network, DcganNetwork) and self.network.norm == "batch":
            for penalty in ("gradient_penalty", "r1", "r2"):
                if getattr(self, penalty) is not None:
                    raise ValueError(
                        f"gan.{penalty} penalises each image's own gradient, but gan.network.norm batch makes a logit "
                        "depend on the whole batch; set gan.network.norm to instance or none"
                    )
        if self.spectral_norm and isinstance(self.network, DcganNetwork) and self.network.norm != "none":
            raise ValueError(
                f"gan.network.norm {self.network.norm} rescales what gan.spectral_norm has normalised; "
                "set gan.network.norm to none"
            )
        if self.weight_clip is not None and self.conditioning in ("concat", "auxiliary"):
            what = "channel of the class" if self.conditioning == "concat" else "classifier"
            raise ValueError(
                f"gan.conditioning {self.conditioning} needs the {what}, and gan.weight_clip leaves little of it; "
                "set gan.conditioning to projection, or gan.gradient_penalty (10) in place of gan.weight_clip"
            )
        if self.penalty_every > 1 and self.r1 is None and self.r2 is None:
            raise ValueError("gan.penalty_every is for gan.r1 and gan.r2, and neither is set; leave it at 1")
        return self


class Classic(LatentGAN):
    """Generation from a latent vector, of images or of points; of images also from a class."""

    Config = ClassicConfig
    config: ClassicConfig

    def output(self, available: Collection[str]) -> OutputKind:
        refuse_translations(self.config.name, available)
        if "point" not in available:
            return "image"
        if not isinstance(self.config.network, MlpNetwork):
            raise InputError(
                f"gan.network.name {self.config.network.name} is made of convolutions over pixels, and the data holds "
                "points; set gan.network to {name: mlp}"
            )
        return "point"

    def optimizers(self) -> OptimizersConfig:
        """DCGAN's Adam, WGAN's RMSProp, WGAN-GP's and SN-GAN's Adam: each as its paper states."""
        if self.config.weight_clip is not None:
            return OptimizersConfig(generator=RMSProp(), discriminator=RMSProp())
        if self.config.gradient_penalty is not None:
            adam = Adam(lr=Schedule(1e-4), beta1=Schedule(0.0), beta2=Schedule(0.9))
            return OptimizersConfig(generator=adam, discriminator=adam)
        if self.config.spectral_norm:
            adam = Adam(lr=Schedule(2e-4), beta1=Schedule(0.0), beta2=Schedule(0.9))
            return OptimizersConfig(generator=adam, discriminator=adam)
        return OptimizersConfig(generator=Adam(), discriminator=Adam())

    def build_networks(self, spec: DataSpec) -> Networks:
        networks = self._labelled(spec) if self.config.conditioning != "none" else Networks(*self._build(spec))
        if self.config.spectral_norm and networks.discriminator is not None:
            spectral.normalise(networks.discriminator)
        return networks

    def _labelled(self, spec: DataSpec) -> Networks:
        """The class's vector has as many numbers as the latent, like those of arXiv:1912.04958 and arXiv:2501.05441."""
        classes, conditioning, label_dim = class_count(spec), self.config.conditioning, self.config.latent_dim
        generator, plain = self._build(spec, label_dim, int(conditioning == "concat"))
        discriminator: nn.Module
        if conditioning == "projection":
            discriminator = labels.ProjectionDiscriminator(plain, classes)
        elif conditioning == "auxiliary":
            discriminator = labels.AuxiliaryDiscriminator(plain, classes)
        else:
            discriminator = labels.ConcatDiscriminator(plain, classes, image_shape(spec)[1])
        return Networks(labels.LabelledGenerator(generator, classes, label_dim, LABEL_DEVIATION), discriminator)

    def _build(self, spec: DataSpec, label_dim: int = 0, planes: int = 0) -> tuple[nn.Module, labels.TwoParts]:
        """A generator of latents that are `label_dim` longer, and a discriminator of images with `planes` more."""
        network, latent_size = self.config.network, self.config.latent_dim + self.config.latent_components + label_dim
        if isinstance(network, MlpNetwork):
            size, shape = (network.hidden_dim, network.hidden_layers), sampled(spec).shape
            judged = (shape[0] + planes, *shape[1:])
            bounded = self.output(spec) == "image"
            return mlp.Generator(latent_size, shape, *size, bounded=bounded), mlp.Discriminator(judged, *size)
        channels, resolution, _ = image_shape(spec)
        if isinstance(network, ResnetNetwork):
            return (
                resnet.Generator(latent_size, 2 * network.feature_dim, channels, resolution),
                resnet.Discriminator(channels + planes, network.feature_dim, resolution),
            )
        return (
            dcgan.Generator(latent_size, network.feature_dim, channels, resolution),
            dcgan.Discriminator(channels + planes, network.feature_dim, resolution, network.norm),
        )

    def plan(self, step: int) -> Plan:
        return Plan(d_updates=self.config.critic_steps, g_updates=1)

    def absolute_logits(self) -> bool:
        return OBJECTIVES[self.config.objective].middle is not None

    def discriminator_loss(self, nets: Networks, batch: Batch, step: Step) -> Loss:
        real_NS, conditions = batch[self.output(batch)], self.conditions(batch)
        with torch.no_grad():
            fake_NS = self.fakes(nets, batch, step)
        real_logits_N, real_classes = self._judged(nets, real_NS, conditions)
        fake_logits_N, fake_classes = self._judged(nets, fake_NS, conditions)
        adversarial = OBJECTIVES[self.config.objective].discriminator(real_logits_N, fake_logits_N)
        loss = judged(adversarial, real_logits_N, fake_logits_N)

        def judge(rows_NS: Tensor) -> Tensor:
            return self._judged(nets, rows_NS, conditions)[0]

        if real_classes is not None and fake_classes is not None:
            told = losses.class_loss(real_classes, *conditions) + losses.class_loss(fake_classes, *conditions)
            loss.add("class_loss", told)
        if self.config.gradient_penalty is not None:
            mix_N = step.rng.uniform("mix", step.micro_batch)
            penalty = losses.gradient_penalty(judge, real_NS, fake_NS, mix_N)
            loss.add("gradient_penalty", penalty, self.config.gradient_penalty)
        if step.update_index % self.config.penalty_every == 0:
            for name, gamma, rows_NS in (("r1", self.config.r1, real_NS), ("r2", self.config.r2, fake_NS)):
                if gamma is not None:
                    loss.add(name, losses.zero_centred_penalty(judge, rows_NS), gamma * self.config.penalty_every)
        if self.config.objective == "wasserstein":
            loss.logs["wasserstein_estimate"] = -adversarial.detach()
        elif self.config.objective in ("minimax", "non_saturating"):
            loss.logs |= {
                "prob_real": real_logits_N.detach().float().sigmoid().mean(),
                "prob_fake": fake_logits_N.detach().float().sigmoid().mean(),
                "js_bound": losses.js_divergence_bound(adversarial.detach()),
            }
        middle = OBJECTIVES[self.config.objective].middle
        if middle is not None:
            loss.stats["sign_real"] = (real_logits_N.detach().float() - middle).sign().mean()
        return loss

    def generator_loss(self, nets: Networks, batch: Batch, step: Step) -> Loss:
        conditions = self.conditions(batch)
        fake_logits_N, fake_classes = self._judged(nets, self.fakes(nets, batch, step), conditions)
        objective = OBJECTIVES[self.config.objective]
        if objective.paired:
            with torch.no_grad():
                real_logits_N, _ = self._judged(nets, batch[self.output(batch)], conditions)
            adversarial = objective.generator(real_logits_N, fake_logits_N)
        else:
            adversarial = objective.generator(fake_logits_N)
        loss = Loss(adversarial, {"adversarial": adversarial.detach()})
        if fake_classes is not None:
            loss.add("class_loss", losses.class_loss(fake_classes, *conditions))
        return loss

    def _judged(self, nets: Networks, rows_NS: Tensor, conditions: tuple[Tensor, ...]) -> tuple[Tensor, Tensor | None]:
        """Logits (N,) of being real, and (N, K) of the classes where the discriminator tells them."""
        assert nets.discriminator is not None
        if self.config.conditioning == "auxiliary":
            return nets.discriminator(rows_NS)
        return nets.discriminator(rows_NS, *conditions), None

    @torch.no_grad()
    def constrain(self, discriminator: nn.Module) -> None:
        """w <- clip(w, -c, c) (arXiv:1701.07875, Alg. 1, line 7); one power iteration (arXiv:1802.05957, Alg. 1)."""
        if self.config.weight_clip is not None:
            for parameter in discriminator.parameters():
                parameter.clamp_(-self.config.weight_clip, self.config.weight_clip)
        if self.config.spectral_norm:
            spectral.iterate(discriminator)
