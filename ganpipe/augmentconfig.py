"""The `train.augment` section: what happens to images, real and generated alike, before the discriminator sees them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag, model_validator

from .options import Section
from .schedule import Schedule, within


class ColorConfig(Section):
    """DiffAugment's colour, on the scale of images in [-1, 1]."""

    brightness: float = Field(0.5, ge=0, le=2)
    """Largest amount that is added to all of an image, or taken away."""
    saturation: float = Field(1, ge=0, le=1)
    """Largest change of the factor 1 by which each pixel's distance from its own grey is multiplied."""
    contrast: float = Field(0.5, ge=0, le=1)
    """Largest change of the factor 1 by which distances from the image's mean are multiplied."""


Share = Annotated[float, Field(ge=0, le=1)]
"""Of p: how often a transform is applied."""


class AdaConfig(Section):
    """ADA's transforms (arXiv:2006.06676, App. B), of the strengths and in the order of the paper. Those that are not
    named are off; `ada: true` has all of them at 1, the paper's choice "bgc" (Sec. 4)."""

    x_flip: Share = 0
    """Every second image that it is applied to is mirrored left to right; the number is its share of p."""
    rotate90: Share = 0
    """A turn by 0, 90, 180 or 270 degrees; the number is its share of p."""
    integer_translation: Share = 0
    """A shift by whole pixels, at most an eighth of the side; the number is its share of p."""
    isotropic_scaling: Share = 0
    """Enlarged by 2^(0.2 n), n normal; the number is its share of p."""
    rotation: Share = 0
    """Any angle, before anisotropic scaling or after it or both; the number is its share of p."""
    anisotropic_scaling: Share = 0
    """Wider by 2^(0.2 n) and lower by as much; the number is its share of p."""
    fractional_translation: Share = 0
    """A shift by n / 8 of the side; the number is its share of p."""
    brightness: Share = 0
    """0.2 n is added to all of an image; the number is its share of p."""
    contrast: Share = 0
    """Everything is multiplied by 2^(0.5 n); the number is its share of p."""
    luma_flip: Share = 0
    """Every second image that it is applied to has light and dark swapped, and keeps its colours; the number is its
    share of p."""
    hue: Share = 0
    """Colours turn by any angle about the grey axis; the number is its share of p."""
    saturation: Share = 0
    """Distances from the grey axis are multiplied by 2^n; the number is its share of p."""


class ControllerConfig(Section):
    """p follows how far the discriminator overfits (arXiv:2006.06676, Sec. 3): it rises where E[sign(D(real))] is above
    the target, and falls where it is below."""

    target: float = Field(0.6, gt=-1, lt=1)
    """E[sign(D(real))] to be held: 1 when D takes every real image for one, 0 when it cannot tell."""
    over_kimg: float = Field(500, gt=0)
    """Thousands of images in which p gets from 0 to 1, or back, at the fastest."""
    every: int = Field(4, ge=1)
    """Updates of the discriminator from one change of p to the next."""
    start: Share = 0
    """p at the start of the training."""


Probability = Annotated[
    Annotated[Schedule, AfterValidator(lambda schedule: within(schedule, 0, 1)), Tag("schedule")]
    | Annotated[ControllerConfig, Tag("controller")],
    Discriminator(lambda value: "controller" if isinstance(value, Mapping | ControllerConfig) else "schedule"),
]


def _switch(paper: Any, off: Any) -> BeforeValidator:
    """`true` stands for what the paper takes, `false` for nothing."""
    return BeforeValidator(lambda value: paper if value is True else off if value is False else value)


class AugmentConfig(Section):
    """What is on is applied to each image with probability p, each on its own. With p at 1 `color`, `translation` and
    `cutout` are DiffAugment (arXiv:2006.10738); `ada` wants p below 0.8, or generated images are augmented, too."""

    color: Annotated[ColorConfig | None, _switch({}, None)] = None
    """Random brightness, saturation and contrast; `true` for the paper's strengths."""
    translation: Annotated[float, Field(ge=0, le=0.5), _switch(0.125, 0)] = 0
    """Largest shift in either direction, as a share of the image's side; what moves in is 0, mid-grey. `true` for the
    paper's 0.125."""
    cutout: Annotated[float, Field(ge=0, le=1), _switch(0.5, 0)] = 0
    """Side of a square that is set to 0, anywhere, as a share of the image's side; `true` for the papers' 0.5."""
    ada: Annotated[AdaConfig | None, _switch(dict.fromkeys(AdaConfig.model_fields, 1), None)] = None
    """Flips, turns, shifts, scaling and colour; `true` for all of them, or {rotate90: 1, hue: 0.5, ...}."""
    p: Probability = Schedule(1.0)
    """Probability that an image is augmented: a schedule, or a controller like {target: 0.6}."""

    @model_validator(mode="after")
    def _something_to_steer(self) -> AugmentConfig:
        if isinstance(self.p, ControllerConfig) and not self.transforms():
            raise ValueError("p has a controller, and no augmentation is on; add `ada: true`, or leave p out")
        return self

    def transforms(self) -> list[str]:
        """Names of the fields that are on."""
        return [name for name in ("color", "translation", "cutout", "ada") if getattr(self, name)]
