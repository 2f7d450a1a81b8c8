"""The `train` section: from shards to checkpoints."""

from __future__ import annotations

import re
from typing import Literal
from zoneinfo import ZoneInfo

from pydantic import Field, field_validator, model_validator

from .augmentconfig import AugmentConfig
from .options import OptimizersConfig, Section
from .schedule import Schedule, within


class StopConfig(Section):
    """When training ends: at whichever limit comes first."""

    kimg: float | None = Field(None, gt=0)
    """Thousands of real images shown to the discriminator."""
    hours: float | None = Field(None, gt=0)
    """Hours of training, counted over all resumes of the run."""
    at: str | None = None
    """Time of day, "HH:MM": training ends before the next such moment, `reserve_minutes` earlier."""
    timezone: str | None = None
    """Of `at`, by IANA's name, like Europe/Berlin; null: the machine's own, or that of a deployment's schedule."""
    reserve_minutes: float = Field(0, ge=0)
    """Minutes left before `at` for evaluation and promotion."""

    @field_validator("at")
    @classmethod
    def _time_of_day(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"([01]\d|2[0-3]):[0-5]\d", value):
            raise ValueError(f'{value!r} is not a time of day; write "06:30"')
        return value

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, value: str | None) -> str | None:
        try:
            return value and ZoneInfo(value).key
        except (KeyError, ValueError, OSError) as error:
            raise ValueError(
                f"{value!r} is no time zone that this machine knows; write one like Europe/Berlin"
            ) from error

    @model_validator(mode="after")
    def _any(self) -> StopConfig:
        if self.kimg is None and self.hours is None and self.at is None:
            raise ValueError("training would never end; set train.stop.kimg, train.stop.hours or train.stop.at")
        return self


class TrainConfig(Section):
    """Stage 2: from shards to checkpoints."""

    batch: int = Field(64, ge=1)
    """Real images in one D update, over all processes."""
    micro_batch: int | None = Field(None, ge=1)
    """Images in one forward pass: the unit in which anything that mixes examples works. null: the whole batch."""
    stop: StopConfig
    """When to end."""
    stop_on: tuple[Literal["duplicates"], ...] = ()
    """Alarms that end a training early when two snapshots in a row raise them: `duplicates`, samples that are nearly
    the same few images."""
    seed: int | Literal["auto"] = "auto"
    """Seed of initialisation, data order and noise; `auto` derives one from the run's start and records it."""
    start_from: str = "scratch"
    """Where weights come from: `scratch`, `champion` (of register.model), or a run's id. Optimizers start afresh."""
    optimizers: OptimizersConfig | None = None
    """Optimizers; what is left out is the recipe's default."""
    ema_half_life_kimg: Schedule = Schedule(5.0)
    """Half-life of the moving average of the generator's weights, thousands of images; 0 keeps the newest weights."""
    mirror: bool = False
    """Show a training image mirrored left to right every second time, at random. Scores are of images as they are."""
    jitter: int | None = None
    """Enlarge training images to so many pixels, and crop prepare.resolution out at random: for 256 px pix2pix and
    CycleGAN take 286 (arXiv:1611.07004, Sec. 6.2). Images of a pair are cropped alike. null: images as they are."""
    augment: AugmentConfig = AugmentConfig()
    """Augmentation at the discriminator's door."""
    precision: Literal["fp32", "bf16"] = "bf16"
    """Of forward and backward passes; penalties, weights and optimizers are always fp32. Where there are no
    instructions for bf16, fp32 takes its place, and the log says so."""
    log_every_kimg: float = Field(5, gt=0)
    """Thousands of images between two lines of metrics."""
    snapshot_kimg: float = Field(50, gt=0)
    """Thousands of images between two checkpoints, each with a grid of samples of the same noise."""

    @field_validator("ema_half_life_kimg")
    @classmethod
    def _not_negative(cls, value: Schedule) -> Schedule:
        return within(value, 0)

    @model_validator(mode="after")
    def _whole_micro_batches(self) -> TrainConfig:
        if self.micro_batch is not None and self.batch % self.micro_batch:
            raise ValueError(
                f"train.batch ({self.batch}) is not a multiple of train.micro_batch ({self.micro_batch}); "
                "change train.micro_batch"
            )
        return self

    def micro_batch_size(self) -> int:
        """Images in one forward pass."""
        return self.micro_batch or self.batch
