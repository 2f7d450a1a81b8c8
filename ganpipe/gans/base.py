"""The contract between a GAN and the trainer: a recipe returns losses, the trainer acts.

Adding a GAN touches three places: `gans/<name>.py`, one line in `GANS`, one YAML in `configs/`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from ..errors import InputError
from ..options import GanConfig, OptimizersConfig
from ..rng import SampleRng, StepRng
from ..spec import DataSpec, Direction

OutputKind = Literal["image", "translation", "text", "point"]
Batch = Mapping[str, Tensor]
"""Columns by name, rows first: image float in [-1, 1] NCHW, label int64 N, caption uint8 NL (UTF-8, filled up with 0),
wrong_caption like it, tokens int64 NL, point float ND."""
WRONG_CAPTION = "wrong_caption"
"""Column made of the others: another row's caption, wrong for this row's image; see `wording.py`."""

MENDED = {
    "label": "name their column in prepare.source.label_column, or put image files into a sub-folder for each class",
    "caption": "name their column in prepare.source.caption_column",
}
"""Condition -> how data come by it."""


@dataclass
class Networks:
    """What is trained. All that sampling needs (text encoder, vocabulary) is inside the generator.

    Conditions come second: `generator(latents_NZ, label_N)`, `discriminator(images_NCHW, label_N)`.
    """

    generator: nn.Module
    discriminator: nn.Module | None


@dataclass(frozen=True)
class Plan:
    """How many updates of each network one step makes; each D update shows a fresh global batch of reals."""

    d_updates: int
    g_updates: int


@dataclass(frozen=True)
class Step:
    """Where training stands, for one micro-batch of one update."""

    images_seen: int
    """Real images shown to D before this update's batch (examples consumed, without a D)."""
    update_index: int
    """Number of steps (D and G phases together) completed before this one."""
    global_batch: int
    micro_batch: int
    rng: StepRng


@dataclass
class Loss:
    """What a phase returns. Tensors stay on the device; nobody calls `.item()` in a recipe."""

    total: Tensor
    """Scalar to minimise."""
    logs: dict[str, Tensor] = field(default_factory=dict)
    """Detached scalars for the log, by term: `adversarial`, `gradient_penalty`, `logits_real`, ..."""
    stats: dict[str, Tensor] = field(default_factory=dict)
    """Detached scalars whose means over all ranks come back through `observe`."""

    def add(self, name: str, term: Tensor, weight: float = 1.0) -> None:
        """Add `weight` times a term to the total, and log the term itself."""
        self.total = self.total + weight * term
        self.logs[name] = term.detach()


@dataclass(frozen=True)
class Request:
    """What to sample. `latents` replace drawn ones; conditions that the recipe needs and misses are drawn."""

    rng: SampleRng
    n: int
    latents: Tensor | None = None
    sources: Tensor | None = None
    """Images to translate, float (n, C, H, W) in [-1, 1]."""
    direction: Direction = "AtoB"
    """Which way, where a recipe knows both."""
    label: Tensor | None = None
    caption: tuple[str, ...] | None = None
    truncation: float = 1.0
    """Drawn latents are scaled about their mean by it: below 1 samples are more typical, and less varied."""

    def labels(self, class_count: int) -> Tensor:
        """Class numbers int64 (n,): those asked for, or drawn ones, each class as likely as any other."""
        return self.rng.integers("label", self.n, 0, class_count) if self.label is None else self.label

    def captions(self, examples: Sequence[str]) -> tuple[str, ...]:
        """The n texts asked for, or some drawn from the examples, each as likely as any other."""
        if self.caption is not None:
            return self.caption
        return tuple(examples[row] for row in self.rng.integers("caption", self.n, 0, len(examples)).tolist())


Samples = Tensor
"""What `GAN.sample` returns: images float NCHW in [-1, 1], points float ND, tokens int64 NL."""


class GAN(ABC):
    """One way to train a generator: networks, losses, the order of the updates, and how to sample."""

    Config: ClassVar[type[GanConfig]]
    LEAST_BATCH: ClassVar[int] = 2
    """Images in a forward pass, with fewer of which what mixes examples has nothing to mix."""

    def __init__(self, config: Any):
        self.config = config

    @abstractmethod
    def columns(self, available: Collection[str]) -> frozenset[str]:
        """What a batch must hold of the data's columns: {"image"}, {"image", "label"}, {"image", "caption"}, the last
        with WRONG_CAPTION or without, {"source", "target"}, {"a", "b"}, {"tokens"} or {"point"}.

        Raises InputError, naming the field, when the configured networks do not go with such data.
        """

    @abstractmethod
    def output(self, available: Collection[str]) -> OutputKind:
        """What is made of data with such columns: picks sampler, evaluator, logger and serving schema."""

    def check_resolution(self, resolution: int) -> None:
        """Raises InputError, naming the field, when the configured networks make no images of so many pixels."""

    def check_text(self, text: str) -> None:
        """Raises InputError when this is no text that a generator of captions can be asked for."""

    def padded(self, pixels: int, spec: DataSpec) -> int:
        """The least height or width from `pixels` on that images to translate may have, for such data."""
        return pixels

    def noisy(self) -> bool:
        """Whether what is made of one request differs from seed to seed."""
        return True

    def requirements(self) -> frozenset[str]:
        """Packages that its generator needs to be loaded, beside those that all recipes do."""
        return frozenset()

    @abstractmethod
    def optimizers(self) -> OptimizersConfig:
        """The recipe's defaults; `train.optimizers` may override any field."""

    @abstractmethod
    def build_networks(self, spec: DataSpec) -> Networks:
        """New networks for such data, initialised from torch's global generator. Raises InputError when none fit."""

    def plan(self, step: int) -> Plan:
        """Updates of step number `step`; pure in it."""
        return Plan(d_updates=1, g_updates=1)

    @abstractmethod
    def discriminator_loss(self, nets: Networks, batch: Batch, step: Step) -> Loss:
        """Loss of a D update. Reaches every parameter of D; G is frozen."""

    @abstractmethod
    def generator_loss(self, nets: Networks, batch: Batch, step: Step) -> Loss:
        """Loss of a G update. Reaches every parameter of G; D is frozen."""

    def absolute_logits(self) -> bool:
        """Whether the sign of a logit says real or generated by itself, as with no Wasserstein or relativistic GAN.

        D's `Loss.stats` then hold `sign_real`, the mean sign of the real ones: a controller of `train.augment.p` steers
        by it.
        """
        return False

    def constrain(self, discriminator: nn.Module) -> None:
        """Called after each D update, for hard constraints on the weights."""

    def observe(self, means: Mapping[str, Tensor], step: Step) -> None:
        """Called after each update with the means of `Loss.stats` over micro-batches and ranks."""

    @abstractmethod
    def sample(self, generator: nn.Module, request: Request) -> Samples:
        """`request.n` samples; row i depends on row i of the request alone. Called without gradients, in eval mode.

        A condition that the request lacks is drawn: classes by `request.labels`, texts by `request.captions`.
        """

    def between(
        self, generator: nn.Module, request: Request, ends: tuple[SampleRng, SampleRng], way_N: Tensor
    ) -> Samples:
        """Samples on the way from the latents that one stream draws to those of the other, row i at the share way_N[i].

        All else is as the request says, and does not change on the way: conditions, and what its own stream draws.
        Raises InputError when the recipe has no latents.
        """
        raise InputError(f"the recipe {self.config.name} draws no latents that samples could lie between")

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        """Recipe state that affects the next step: {"shared": equal on all ranks, "rank": this rank's own}."""
        return {"shared": {}, "rank": {}}

    def load_state_dict(self, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Inverse of `state_dict`."""


def refuse_translations(recipe: str, available: Collection[str]) -> None:
    """Raise InputError when the columns are of images to translate, which a recipe that draws images has no use for."""
    for sources, held, other in (("source", "pairs of images", "pix2pix"), ("a", "two sets of images", "cyclegan")):
        if sources in available:
            raise InputError(
                f"gan.name {recipe} draws images, and the data holds {held}, of which one is translated to the other; "
                f"set gan.name to {other}, or change prepare.source and prepare.derive"
            )


def conditioned(
    made: OutputKind, condition: Literal["label", "caption"], available: Collection[str], field: str
) -> frozenset[str]:
    """The columns of a recipe that makes `made` under a condition.

    Raises InputError, naming the `field` that asks for the condition, when the data has none.
    """
    if condition not in available:
        raise InputError(f"{field} needs {condition}s, and the data has none: {MENDED[condition]}, or change {field}")
    return frozenset({made, condition})


def judged(adversarial: Tensor, real_logits_N: Tensor, fake_logits_N: Tensor) -> Loss:
    """A discriminator's loss so far: the adversarial term, logged with the mean logits of both sides."""
    logs = {"adversarial": adversarial, "logits_real": real_logits_N.mean(), "logits_fake": fake_logits_N.mean()}
    return Loss(adversarial, {name: value.detach() for name, value in logs.items()})


def freeze(module: nn.Module, frozen: bool) -> None:
    """Stop (or restart) gradients from being computed for a network's parameters; gradients still flow through it."""
    for parameter in module.parameters():
        parameter.requires_grad_(not frozen)


def parameter_count(module: nn.Module) -> int:
    """Number of trainable scalars."""
    return sum(parameter.numel() for parameter in module.parameters())
