"""CycleGAN (arXiv:1703.10593): from one set of images to another and back, learnt without pairs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from ..errors import InputError
from ..networks.dcgan import Norm
from ..networks.resnet_translation import MULTIPLE, SMALLEST, BothSides, BothWays, Generator, check_resolution
from ..options import Rate
from ..rng import StepRng
from ..schedule import Schedule
from ..spec import DataSpec, image_shape
from .base import Batch, Loss, Networks, Request, Samples, Step
from .translation import Judge, Translation, TranslationConfig


class CycleGANConfig(TranslationConfig):
    """The paper's networks and weights unless told otherwise."""

    name: Literal["cyclegan"] = "cyclegan"
    adversarial: Literal["minimax", "non_saturating", "lsgan", "hinge", "wasserstein", "relativistic"] = "lsgan"
    """The adversarial game, played on both sides; see `losses.py`."""
    patch_norm: Norm = "instance"
    """Normalisation in the discriminators."""
    blocks: int = Field(9, ge=1)
    """Residual blocks in each generator: the paper has six for 128 px, nine from 256 px on."""
    cycle: Rate = Schedule(10.0)
    """Weight of the mean absolute distance, on [-1, 1], of an image to itself, there and back: lambda of Eq. 3."""
    identity: Rate = Schedule(5.0)
    """Weight of the same of an image to itself, put through what translates to its own side (Sec. 5.2); 0: never."""
    pool: int = Field(50, ge=0)
    """Earlier translations of each side, which take the place of half of those that a discriminator is shown (Sec. 4,
    arXiv:1612.07828); on each process its own. 0: none."""


class CycleGAN(Translation):
    """Two generators and two discriminators, which learn at once."""

    Config = CycleGANConfig
    config: CycleGANConfig
    SOURCES = frozenset({"a", "b"})
    SIDES = 2

    def __init__(self, config: CycleGANConfig):
        super().__init__(config)
        self.pools = {side: Pool(config.pool) for side in ("a", "b")}

    def check_resolution(self, resolution: int) -> None:
        check_resolution(resolution)
        self.check_patches(resolution)

    def padded(self, pixels: int, spec: DataSpec) -> int:
        return max(pixels + -pixels % MULTIPLE, SMALLEST)

    def noisy(self) -> bool:
        return False

    def build_networks(self, spec: DataSpec) -> Networks:
        (of_a, resolution, _), (of_b, _, _) = image_shape(spec, "a"), image_shape(spec, "b")
        self.check_resolution(resolution)
        if of_a != of_b and any(self.config.identity.values()):
            raise InputError(
                f"gan.identity compares an image with what it becomes on its own side, and images of a have {of_a} "
                f"channels, those of b {of_b}; set gan.identity to 0"
            )
        size = (self.config.feature_dim, self.config.blocks)
        return Networks(
            BothWays(Generator(of_a, of_b, *size), Generator(of_b, of_a, *size)),
            BothSides(self.patch_discriminator(of_a), self.patch_discriminator(of_b)),
        )

    def discriminator_loss(self, nets: Networks, batch: Batch, step: Step) -> Loss:
        """Eq. 1 on both sides, of translations from the pools."""
        assert isinstance(nets.generator, BothWays)
        with torch.no_grad():
            a_of_b, b_of_a = nets.generator.b_to_a(batch["b"]), nets.generator.a_to_b(batch["a"])
            a_of_b = self.pools["a"].exchange(a_of_b, step.rng, "pool_a")
            b_of_a = self.pools["b"].exchange(b_of_a, step.rng, "pool_b")
        return self.judging_loss(self._judge(nets, batch), _side_by_side(batch), torch.cat([a_of_b, b_of_a], 1), step)

    def generator_loss(self, nets: Networks, batch: Batch, step: Step) -> Loss:
        """Eq. 3, and the identity loss of Sec. 5.2."""
        a, b, identity = batch["a"], batch["b"], self.config.identity.at(step.images_seen)
        made = nets.generator(a, b, identity=identity > 0)
        fakes = torch.cat([made.a_of_b, made.b_of_a], 1)
        fooling = self.fooling_term(self._judge(nets, batch), _side_by_side(batch), fakes)
        if self.config.adversarial == "lsgan":
            fooling = 2 * fooling  # Sec. 4 halves least squares for the discriminators alone
        loss = Loss(torch.zeros((), device=a.device))
        loss.add("adversarial", fooling)
        loss.add("cycle", _distance(made.back_a, a) + _distance(made.back_b, b), self.config.cycle.at(step.images_seen))
        if identity > 0:
            loss.add("identity", _distance(made.same_a, a) + _distance(made.same_b, b), identity)
        return loss

    def _judge(self, nets: Networks, batch: Batch) -> Judge:
        """Of images of A and images of B, beside one another as channels: so that one penalty is of both."""
        assert nets.discriminator is not None
        discriminator, channels = nets.discriminator, batch["a"].shape[1]
        return lambda images_NCHW: discriminator(images_NCHW[:, :channels], images_NCHW[:, channels:])

    def sample(self, generator: nn.Module, request: Request) -> Samples:
        """`request.sources` translated in `request.direction`; nothing is drawn."""
        assert isinstance(generator, BothWays)
        way = generator.a_to_b if request.direction == "AtoB" else generator.b_to_a
        return way(self.sources(request))

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        """The pools, of each rank its own."""
        held = {
            f"pool_{side}.{name}": value for side, pool in self.pools.items() for name, value in pool.state().items()
        }
        return {"shared": {}, "rank": held}

    def load_state_dict(self, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        for side, pool in self.pools.items():
            prefix = f"pool_{side}."
            own = {key.removeprefix(prefix): value for key, value in state["rank"].items() if key.startswith(prefix)}
            pool.load(own)


class Pool:
    """Up to `size` translations that the generator made earlier."""

    def __init__(self, size: int):
        self.size = size
        self.images: Tensor | None = None
        """float32 (size, C, H, W), of which the first `held` are some; None before the first."""
        self.held = 0

    def exchange(self, images_NCHW: Tensor, rng: StepRng, name: str) -> Tensor:
        """What the discriminator is shown: each image, kept while there is room; later, every other time on average, an
        earlier one, whose place it takes. Draws from the streams `name`-*; nothing waits for the device.
        """
        if not self.size:
            return images_NCHW
        images_NCHW = images_NCHW.float()
        if self.images is None:
            self.images = images_NCHW.new_zeros(self.size, *images_NCHW.shape[1:])
        pool = self.images = self.images.to(images_NCHW.device)
        swap_N = rng.integers(f"{name}-swap", len(images_NCHW), 0, 2).bool()
        place_N = rng.integers(f"{name}-place", len(images_NCHW), 0, self.size)
        shown = []
        for image_1CHW, swap_1, place_1 in zip(
            *(rows.split(1) for rows in (images_NCHW, swap_N, place_N)), strict=True
        ):
            if self.held < self.size:
                pool[self.held] = image_1CHW[0]
                self.held += 1
                shown.append(image_1CHW)
            else:
                earlier_1CHW = pool.index_select(0, place_1)
                pool.index_copy_(0, place_1, torch.where(swap_1, image_1CHW, earlier_1CHW))
                shown.append(torch.where(swap_1, earlier_1CHW, image_1CHW))
        return torch.cat(shown)

    def state(self) -> dict[str, Tensor]:
        """All that affects the next exchange; nothing before the first."""
        return {} if self.images is None else {"images": self.images, "held": torch.tensor(self.held)}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Inverse of `state`."""
        self.images = state["images"].clone() if "images" in state else None
        self.held = int(state["held"]) if "held" in state else 0


def _side_by_side(batch: Batch) -> Tensor:
    return torch.cat([batch["a"], batch["b"]], 1)


def _distance(found_NCHW: Tensor, wanted_NCHW: Tensor) -> Tensor:
    return (found_NCHW.float() - wanted_NCHW).abs().mean()
