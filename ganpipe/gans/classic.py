"""The classic grid: {mlp, dcgan} x {minimax, non_saturating, wasserstein} x {free, clipped, gradient penalty}."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from .. import losses
from ..networks import dcgan, mlp
from ..options import Adam, GanConfig, OptimizersConfig, RMSProp, Section
from ..rng import SampleRng, StepRng
from ..schedule import Schedule
from ..spec import DataSpec, image_shape
from .base import GAN, Batch, Loss, Networks, Plan, Request, Samples, Step


@dataclass(frozen=True)
class Objective:
    """The two sides of an adversarial game."""

    discriminator: Callable[[Tensor, Tensor], Tensor]
    """(real logits, fake logits) -> loss of D."""
    generator: Callable[[Tensor], Tensor]
    """(fake logits) -> loss of G."""


OBJECTIVES = {
    "minimax": Objective(losses.cross_entropy_discriminator, losses.minimax_generator),
    "non_saturating": Objective(losses.cross_entropy_discriminator, losses.non_saturating_generator),
    "wasserstein": Objective(losses.wasserstein_discriminator, losses.wasserstein_generator),
}


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


Network = Annotated[MlpNetwork | DcganNetwork, Field(discriminator="name")]


class ClassicConfig(GanConfig):
    """An objective, a network, and at most one way to keep the critic Lipschitz."""

    name: Literal["classic"] = "classic"
    objective: Literal["minimax", "non_saturating", "wasserstein"] = "non_saturating"
    """The adversarial game; see `losses.py`."""
    network: Network = DcganNetwork()
    """Architecture of both networks."""
    latent_dim: int = Field(100, ge=1)
    """Size of the standard normal latent."""
    latent_components: int = Field(0, ge=0)
    """Pieces of the prior: so many coordinates besides, one of them set; 0: one piece. A continuous generator must draw
    what lies between two kinds of image, too, when its prior is connected (arXiv:1806.00880, arXiv:2006.04596)."""
    weight_clip: float | None = Field(None, gt=0)
    """Clamp every weight of the critic to [-c, c] after its update (arXiv:1701.07875 takes 0.01)."""
    gradient_penalty: float | None = Field(None, gt=0)
    """Weight of the penalty on interpolates (arXiv:1704.00028 takes 10)."""
    r1: float | None = Field(None, gt=0)
    """gamma of gamma/2 E[|grad D|^2] at real images (arXiv:1801.04406)."""
    r1_every: int = Field(1, ge=1)
    """Steps from one R1 to the next; it weighs as many times more (lazy regularisation, arXiv:1912.04958, Sec. 3.1)."""
    critic_steps: int = Field(1, ge=1)
    """D updates for each G update; each sees a fresh batch of reals."""

    @model_validator(mode="after")
    def _sound(self) -> ClassicConfig:
        if self.weight_clip is not None and self.gradient_penalty is not None:
            raise ValueError("gan.weight_clip and gan.gradient_penalty bound the critic twice; set one of them to null")
        bounded = self.weight_clip is not None or self.gradient_penalty is not None
        if self.objective == "wasserstein" and not bounded:
            raise ValueError(
                "gan.objective wasserstein needs a bounded critic, its loss has no minimum otherwise; "
                "set gan.gradient_penalty (10) or gan.weight_clip (0.01)"
            )
        if isinstance(self.network, DcganNetwork) and self.network.norm == "batch":
            for penalty in ("gradient_penalty", "r1"):
                if getattr(self, penalty) is not None:
                    raise ValueError(
                        f"gan.{penalty} penalises each image's own gradient, but gan.network.norm batch makes a logit "
                        "depend on the whole batch; set gan.network.norm to instance or none"
                    )
        return self


class Classic(GAN):
    """Unconditional generation from a latent vector."""

    Config = ClassicConfig
    columns = frozenset({"image"})
    output = "image"
    config: ClassicConfig

    def optimizers(self) -> OptimizersConfig:
        """DCGAN's Adam, WGAN's RMSProp, WGAN-GP's Adam: each as its paper states."""
        if self.config.weight_clip is not None:
            return OptimizersConfig(generator=RMSProp(), discriminator=RMSProp())
        if self.config.gradient_penalty is not None:
            adam = Adam(lr=Schedule(1e-4), beta1=Schedule(0.0), beta2=Schedule(0.9))
            return OptimizersConfig(generator=adam, discriminator=adam)
        return OptimizersConfig(generator=Adam(), discriminator=Adam())

    def build_networks(self, spec: DataSpec) -> Networks:
        channels, resolution, _ = shape = image_shape(spec)
        network = self.config.network
        if isinstance(network, MlpNetwork):
            size = (network.hidden_dim, network.hidden_layers)
            return Networks(
                mlp.Generator(self._latent_size(), shape, *size, bounded=True), mlp.Discriminator(shape, *size)
            )
        return Networks(
            dcgan.Generator(self._latent_size(), network.feature_dim, channels, resolution),
            dcgan.Discriminator(channels, network.feature_dim, resolution, network.norm),
        )

    def plan(self, step: int) -> Plan:
        return Plan(d_updates=self.config.critic_steps, g_updates=1)

    def discriminator_loss(self, nets: Networks, batch: Batch, step: Step) -> Loss:
        assert nets.discriminator is not None
        real_NCHW = batch["image"]
        with torch.no_grad():
            fake_NCHW = nets.generator(self._latents(step.rng, step.micro_batch))
        real_logits_N, fake_logits_N = nets.discriminator(real_NCHW), nets.discriminator(fake_NCHW)
        adversarial = OBJECTIVES[self.config.objective].discriminator(real_logits_N, fake_logits_N)
        logs = {
            "adversarial": adversarial.detach(),
            "logits_real": real_logits_N.detach().mean(),
            "logits_fake": fake_logits_N.detach().mean(),
        }
        total = adversarial
        if self.config.gradient_penalty is not None:
            mix_N = step.rng.uniform("mix", step.micro_batch)
            penalty = losses.gradient_penalty(nets.discriminator, real_NCHW, fake_NCHW, mix_N)
            total = adversarial + self.config.gradient_penalty * penalty
            logs["gradient_penalty"] = penalty.detach()
        if self.config.r1 is not None and step.update_index % self.config.r1_every == 0:
            penalty = losses.zero_centred_penalty(nets.discriminator, real_NCHW)
            total = total + self.config.r1 * self.config.r1_every * penalty
            logs["r1"] = penalty.detach()
        if self.config.objective == "wasserstein":
            logs["wasserstein_estimate"] = -adversarial.detach()
        else:
            logs |= {
                "prob_real": real_logits_N.detach().float().sigmoid().mean(),
                "prob_fake": fake_logits_N.detach().float().sigmoid().mean(),
                "js_bound": losses.js_divergence_bound(adversarial.detach()),
            }
        return Loss(total, logs, stats={"sign_real": real_logits_N.detach().sign().float().mean()})

    def generator_loss(self, nets: Networks, batch: Batch, step: Step) -> Loss:
        assert nets.discriminator is not None
        fake_logits_N = nets.discriminator(nets.generator(self._latents(step.rng, step.micro_batch)))
        adversarial = OBJECTIVES[self.config.objective].generator(fake_logits_N)
        return Loss(adversarial, {"adversarial": adversarial.detach()})

    @torch.no_grad()
    def constrain(self, discriminator: nn.Module) -> None:
        """w <- clip(w, -c, c) (arXiv:1701.07875, Alg. 1, line 7)."""
        if self.config.weight_clip is not None:
            for parameter in discriminator.parameters():
                parameter.clamp_(-self.config.weight_clip, self.config.weight_clip)

    def sample(self, generator: nn.Module, request: Request) -> Samples:
        latents_NZ = request.latents
        if latents_NZ is None:
            latents_NZ = self._latents(request.rng, request.n)
        return generator(latents_NZ)

    def _latent_size(self) -> int:
        return self.config.latent_dim + self.config.latent_components

    def _latents(self, rng: StepRng | SampleRng, n: int) -> Tensor:
        """(n, latent_dim + latent_components); the piece's coordinate is half as long as the normal part is expected.

        Equally long ones take over: on the digits every piece of twenty then collapsed to one image.
        """
        normal_NZ = rng.normal("latents", n, (self.config.latent_dim,))
        count = self.config.latent_components
        if not count:
            return normal_NZ
        component_N = rng.integers("component", n, 0, count)
        return torch.cat([normal_NZ, self.config.latent_dim**0.5 / 2 * F.one_hot(component_N, count).float()], dim=1)
