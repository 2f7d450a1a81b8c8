"""Building blocks of the configuration that recipes share with it: sections, optimizers."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from .schedule import Schedule, within

Rate = Annotated[Schedule, AfterValidator(lambda schedule: within(schedule, 0))]
"""At least 0."""
Decay = Annotated[Schedule, AfterValidator(lambda schedule: within(schedule, 0, 1, open_end=True))]
"""At least 0 and less than 1."""


class Section(BaseModel):
    """Base of every part of a run's configuration: frozen, unknown keys refused, every field documented."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


class GanConfig(Section):
    """Base of every recipe's configuration. `name` picks the recipe from `GANS`."""

    name: str


class Adam(Section):
    """Adam (arXiv:1412.6980), fused where the device has it."""

    name: Literal["adam"] = "adam"
    lr: Rate = Schedule(2e-4)
    """Step size."""
    beta1: Decay = Schedule(0.5)
    """Decay of the mean of the gradient, per update."""
    beta2: Decay = Schedule(0.999)
    """Decay of the mean of its square, per update."""
    eps: float = Field(1e-8, gt=0)
    """Added to the root of the mean square."""


class RMSProp(Section):
    """RMSProp, the optimizer of WGAN (arXiv:1701.07875, Alg. 1)."""

    name: Literal["rmsprop"] = "rmsprop"
    lr: Rate = Schedule(5e-5)
    """Step size."""
    alpha: float = Field(0.99, ge=0, lt=1)
    """Decay of the mean square of the gradient, per update."""
    eps: float = Field(1e-8, gt=0)
    """Added to the root of the mean square."""


class SGD(Section):
    """Stochastic gradient descent."""

    name: Literal["sgd"] = "sgd"
    lr: Rate = Schedule(1e-2)
    """Step size."""
    momentum: Decay = Schedule(0.0)
    """Decay of the running sum of gradients, per update."""


OptimizerConfig = Annotated[Adam | RMSProp | SGD, Field(discriminator="name")]


class OptimizersConfig(Section):
    """One optimizer for each network."""

    generator: OptimizerConfig
    """Optimizer of the generator."""
    discriminator: OptimizerConfig | None = None
    """Optimizer of the discriminator; null for recipes without one."""
