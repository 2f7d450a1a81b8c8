"""The `register` section: which product a run competes for, and what the gate asks."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from .options import Section


class Requirement(Section):
    """A bound that a candidate must hold whatever the champion scores."""

    at_most: float | None = None
    """Largest value allowed."""
    at_least: float | None = None
    """Smallest value allowed."""
    times: Literal["real", "pca_gaussian", "resampled_train", "identity", "constant_mean", "inversion"] | None = None
    """When set, the bounds are multiples of this control's score of the same metric."""

    @model_validator(mode="after")
    def _some_bound(self) -> Requirement:
        if self.at_most is None and self.at_least is None:
            raise ValueError("give at_most or at_least")
        return self


class KeepConfig(Section):
    """How many checkpoints of a run outlive its night. Those that are or were in production stay for ever."""

    last: int = Field(1, ge=1)
    """The newest ones: what `--resume` and a warm start continue from."""
    best: int = Field(1, ge=1)
    """The best ones, by the metric that snapshots are compared by."""


class RegisterConfig(Section):
    """Stage 4: from the best checkpoint to a registered model, and the gate to production."""

    model: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    """Product that the run competes for: the registered model's name."""
    metric: str | None = None
    """What candidate and champion are compared by; null: the Frechet distance in the run's extractor, and for points
    `mode_overlap`."""
    require: dict[str, Requirement] = {}
    """metric -> bound. Always asked besides: finite scores, and a better default metric than the PCA-Gaussian's, or, of
    translations, than that of the sources themselves and of the mean target."""
    min_improvement: float = Field(0.02, ge=0, lt=1)
    """Share of the champion's score by which a candidate must be better."""
    keep: KeepConfig | None = None
    """Which checkpoints are kept once the gate has decided, like {last: 2, best: 3}; null: all of them."""
