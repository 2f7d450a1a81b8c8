"""Augmentation at the discriminator's door: recipes are handed augment + D and do not know of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from .augmentconfig import AugmentConfig, ControllerConfig
from .rng import StepRng
from .transforms import Draws, ada, diff_augment


class Controller:
    """Moves p so that r_t = E[sign(D(real))] stays at its target (arXiv:2006.06676, Sec. 3.2), without a host sync."""

    def __init__(self, config: ControllerConfig, batch: int, p: Tensor):
        """`p` is moved in place; `batch` is the number of real images in an update of D."""
        self.config, self.p = config, p
        self.p.fill_(config.start)
        self.step = config.every * batch / (config.over_kimg * 1000)
        self.signs = torch.zeros_like(p)
        self.updates = 0

    def observe(self, sign_real: Tensor) -> None:
        """After an update of D: the mean sign of its logits of real images, over all ranks."""
        self.signs += sign_real
        self.updates += 1
        if self.updates == self.config.every:
            self.p.add_(self.step * (self.signs / self.updates - self.config.target).sign()).clamp_(0, 1)
            self.signs.zero_()
            self.updates = 0

    def state_dict(self) -> dict[str, Tensor]:
        """All that affects the next p."""
        return {"p": self.p, "signs": self.signs, "updates": torch.tensor(self.updates)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Inverse of `state_dict`."""
        self.p.copy_(state["p"])
        self.signs.copy_(state["signs"])
        self.updates = int(state["updates"])


class Augment:
    """What `train.augment` says, each transform applied to each image with probability p."""

    def __init__(self, config: AugmentConfig, batch: int, device: torch.device):
        """`batch` is the number of real images in an update of D."""
        self.config = config
        self.p = torch.zeros((), device=device)
        """Probability, on the device: a schedule or a controller writes it, nobody reads it back."""
        self.controller = Controller(config.p, batch, self.p) if isinstance(config.p, ControllerConfig) else None

    def __call__(self, images_NCHW: Tensor, rng: StepRng, name: str) -> Tensor:
        """Augmented images, float32; draws from the streams `name`-*. What is not augmented stays as it is."""
        if not self.config.transforms():
            return images_NCHW
        draws = Draws(rng, name, len(images_NCHW), self.p)
        with torch.autocast(images_NCHW.device.type, enabled=False):
            images_NCHW = images_NCHW.float()
            if self.config.ada is not None:
                images_NCHW = ada(images_NCHW, self.config.ada, replace(draws, name=f"{name}-ada"))
            return diff_augment(images_NCHW, self.config, draws)

    def schedule(self, images_seen: int) -> None:
        """Set p, where it follows a schedule."""
        if not isinstance(self.config.p, ControllerConfig):
            self.p.fill_(self.config.p.at(images_seen))

    def observe(self, means: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Called after each update of D with the means of its `Loss.stats`; p moves, where it is steered.

        Returns what to log.
        """
        if not self.config.transforms():
            return {}
        logs = {"p": self.p.clone()}
        if self.controller is not None:
            self.controller.observe(means["sign_real"])
            logs["sign_real"] = means["sign_real"]
        return logs

    def state_dict(self) -> dict[str, Tensor]:
        """All that affects the next p and is no function of images seen."""
        return {} if self.controller is None else self.controller.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Inverse of `state_dict`."""
        if self.controller is not None:
            self.controller.load_state_dict(state)


class Door(nn.Module):
    """What recipes get as `nets.discriminator`: every image is augmented, then judged, under its conditions if any.

    Conditions that are images themselves are augmented by the same draws: a source moves with what is made of it.
    """

    def __init__(self, discriminator: nn.Module, augment: Augment):
        super().__init__()
        self.discriminator = discriminator
        self.augment = augment
        self.rng: StepRng | None = None
        self.calls = 0

    def open(self, rng: StepRng) -> None:
        """Begin a micro-batch: its draws come from `rng`, one stream per call."""
        self.rng, self.calls = rng, 0

    def forward(self, images_NCHW: Tensor, *conditions: Tensor) -> Tensor:
        assert self.rng is not None, "the trainer opens the door before each loss"
        self.calls += 1
        rng, name = self.rng, f"augment{self.calls}"
        seen = [self.augment(rows, rng, name) if rows.dim() == 4 else rows for rows in (images_NCHW, *conditions)]
        return self.discriminator(*seen)
