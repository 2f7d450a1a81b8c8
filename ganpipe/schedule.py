"""Hyperparameters that change while training: pure functions of images_seen, no state to save."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, RootModel, field_validator


class Segment(BaseModel):
    """One stretch of a schedule, `over_kimg` thousand images long."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    start: float
    """Value at the first image of the segment."""
    end: float
    """Value at its end; the last segment's end is held for ever."""
    over_kimg: float = Field(gt=0)
    """Length of the segment in thousands of images."""
    shape: Literal["linear", "cosine", "constant"] = "linear"
    """`constant` holds `start` and jumps to `end` when the segment is over."""

    def at(self, fraction: float) -> float:
        """Value at `fraction` in [0, 1] of the way through."""
        match self.shape:
            case "linear":
                weight = fraction
            case "cosine":
                weight = (1 - math.cos(math.pi * fraction)) / 2
            case "constant":
                weight = float(fraction >= 1)
        return self.start + (self.end - self.start) * weight


class Schedule(RootModel[float | tuple[Segment, ...]]):
    """A number, or segments of {start, end, over_kimg, shape} that follow one another."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    @field_validator("root")
    @classmethod
    def _not_empty(cls, root: float | tuple[Segment, ...]) -> float | tuple[Segment, ...]:
        if root == ():
            raise ValueError("a schedule is a number or a list of at least one segment {start, end, over_kimg, shape}")
        return root

    def at(self, images_seen: int) -> float:
        """Value once `images_seen` real images were shown."""
        if not isinstance(self.root, tuple):
            return self.root
        kimg = images_seen / 1000
        for segment in self.root:
            if kimg < segment.over_kimg:
                return segment.at(kimg / segment.over_kimg)
            kimg -= segment.over_kimg
        return self.root[-1].end

    def values(self) -> tuple[float, ...]:
        """Every number that stands in the schedule: what a range check has to look at."""
        if not isinstance(self.root, tuple):
            return (self.root,)
        return tuple(value for segment in self.root for value in (segment.start, segment.end))


def within(schedule: Schedule, low: float, high: float = math.inf, open_end: bool = False) -> Schedule:
    """The schedule itself. Raises ValueError when a number in it lies outside of low, ..., high (without high)."""
    if not all(low <= value <= high and not (open_end and value == high) for value in schedule.values()):
        bound = f"at least {low:g}" if high == math.inf else f"{low:g} to {'just below ' if open_end else ''}{high:g}"
        raise ValueError(f"every number of this schedule has to be {bound}")
    return schedule
