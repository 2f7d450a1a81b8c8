"""The `prepare` section: of images from a source, or of points in the plane from a mixture that GANs are tried on."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from .options import Section
from .sourceconfig import CaptionedDigitsSource, DigitsSource, StackedDigitsSource
from .spec import WHITE
from .translationconfig import SOURCE_NAMES, UNPAIRED, AnySource, RestyledDigitsSource, UnpairedSource, in_pairs


class PrepareConfig(Section):
    """Stage 1: from a source of images to content-addressed shards."""

    source: AnySource
    """Where the data comes from."""
    derive: Literal["edges", "mask", "grey", "downscale"] | None = None
    """Makes pairs of single images, each the target of what is left of it: its `edges` (Canny), the image with a `mask`
    over its lower half, in `grey`, or `downscale`d to a quarter of its height and width. null: nothing is made."""
    resolution: int = Field(ge=8, le=1024)
    """Height and width of the prepared images, pixels; a power of two."""
    channels: Literal[1, 3] = 3
    """1 for grey (ITU-R 601 luma), 3 for RGB."""
    crop: Literal["center", "none"] = "center"
    """`center`: the largest centred square; `none`: the whole image is stretched to a square."""
    background: tuple[int, int, int] = WHITE
    """RGB, 0 to 255: what shows through transparent pixels."""
    test_fraction: float = Field(0.2, gt=0, lt=0.5)
    """Share of the images that is never trained on: the floor of every score. Of no account where folders named after
    splits say what is tested on."""
    extractor_fraction: float = Field(0.15, ge=0, lt=0.5)
    """Share of the images that only the `domain` feature extractor is trained on; 0 when another extractor is used."""
    on_corrupt: Literal["fail", "skip"] = "fail"
    """Unreadable image files: stop and name them all, or leave them out and count them."""

    @field_validator("source", mode="before")
    @classmethod
    def _known(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("name") not in SOURCE_NAMES:
            raise ValueError(f"name is {value.get('name')!r}; there is {', '.join([*SOURCE_NAMES, *POINT_SOURCES])}")
        return value

    @field_validator("resolution")
    @classmethod
    def _power_of_two(cls, value: int) -> int:
        if value & (value - 1):
            raise ValueError(f"{value} is not a power of two; take 8, 16, 32, 64, 128, 256, 512 or 1024")
        return value

    @field_validator("background")
    @classmethod
    def _bytes(cls, value: tuple[int, int, int]) -> tuple[int, int, int]:
        if not all(0 <= part <= 255 for part in value):
            raise ValueError("each of the three numbers lies between 0 and 255")
        return value

    @model_validator(mode="after")
    def _one_digit_a_channel(self) -> PrepareConfig:
        if isinstance(self.source, StackedDigitsSource) and self.channels != 3:
            raise ValueError(
                f"prepare.channels is {self.channels}, and prepare.source stacked_digits makes a digit of each of "
                "three; leave it out"
            )
        return self

    @model_validator(mode="after")
    def _derived_from_single_images(self) -> PrepareConfig:
        if self.derive is None:
            return self
        if in_pairs(self.source) or isinstance(self.source, (StackedDigitsSource, *UNPAIRED)):
            raise ValueError(
                f"prepare.derive makes pairs of single images, and prepare.source {self.source.name} "
                f"{'is of pairs already' if in_pairs(self.source) else 'has none'}; leave it out"
            )
        if self.derive == "grey" and self.channels == 1:
            raise ValueError(
                "prepare.derive is grey, and so are all images that prepare.channels 1 makes: every source would be "
                "its own target; set prepare.channels to 3"
            )
        return self

    @property
    def kind(self) -> Literal["image"]:
        """The kind of column that is prepared."""
        return "image"

    @property
    def paired(self) -> bool:
        """Whether each row is a source and its target."""
        return self.derive is not None or in_pairs(self.source)

    @property
    def enlarges(self) -> bool:
        """Whether smaller images may be enlarged to `resolution`: what is derived from an image must have more to lose
        than that leaves, but of the digits."""
        return self.derive is None or isinstance(self.source, DigitsSource | CaptionedDigitsSource)

    @property
    def columns(self) -> frozenset[str]:
        """What a recipe may find in the data, as far as it can be told before any is read."""
        if isinstance(self.source, UNPAIRED):
            return frozenset({"a", "b"})
        return frozenset({"source", "target"} if self.paired else {"image"}) | self.source.columns()

    @property
    def labelled(self) -> bool:
        """Whether the images may have labels."""
        if isinstance(self.source, UnpairedSource):
            return all("label" in side.columns() for side in (self.source.a, self.source.b))
        return isinstance(self.source, RestyledDigitsSource) or "label" in self.columns

    @property
    def knows_partners(self) -> bool:
        """Whether it is known what an image is to be translated to."""
        return self.paired or isinstance(self.source, RestyledDigitsSource)

    def described(self) -> str:
        """For people: what the rows look like."""
        return f"{self.resolution} px and {self.channels} channel{'s' if self.channels > 1 else ''}"


class MixtureSource(Section):
    """Base of the mixtures: so many points, each from a mode drawn at random."""

    samples: int = Field(12_500, ge=1000, le=1_000_000)
    """Points that are drawn; with the default `test_fraction` about 2,500 of them are held out (arXiv:1705.07761)."""
    seed: int = Field(0, ge=0)
    """Of the draw: other seeds give other points of the same distribution."""


class Ring8Source(MixtureSource):
    """Eight Gaussians of standard deviation 0.02 on a circle of radius 2 (arXiv:1611.02163, App. A)."""

    name: Literal["ring8"] = "ring8"


class Grid25Source(MixtureSource):
    """Twenty-five Gaussians of standard deviation 0.05 on a grid from -4 to 4 (arXiv:1712.04086, Sec. 4.1)."""

    name: Literal["grid25"] = "grid25"


PointSource = Annotated[Ring8Source | Grid25Source, Field(discriminator="name")]
POINT_SOURCES = ("ring8", "grid25")


class PointsConfig(Section):
    """Stage 1 for points: from a mixture to content-addressed shards."""

    source: PointSource
    """Which mixture."""
    test_fraction: float = Field(0.2, gt=0, lt=0.5)
    """Share of the points that is never trained on: the floor of every score."""

    @model_validator(mode="before")
    @classmethod
    def _nothing_of_images(cls, value: Any) -> Any:
        fields = PrepareConfig.model_fields.keys() - cls.model_fields.keys()
        if isinstance(value, dict) and (wrong := sorted(fields & value.keys())):
            named = ", ".join(f"prepare.{name}" for name in wrong)
            raise ValueError(f"{named}: for images only, and prepare.source is {value['source']['name']}; leave it out")
        return value

    @property
    def kind(self) -> Literal["point"]:
        """The kind of column that is prepared."""
        return "point"

    @property
    def columns(self) -> frozenset[str]:
        """What a recipe finds in the data."""
        return frozenset({self.kind})

    def described(self) -> str:
        """For people: what the rows look like."""
        return "points in the plane"


def source_name(prepare: Any) -> Any:
    """`source.name` of a `prepare` section, validated or as it was read; None when it has none."""
    source = prepare.get("source") if isinstance(prepare, dict) else getattr(prepare, "source", None)
    return source.get("name") if isinstance(source, dict) else getattr(source, "name", None)


def holds_points(prepare: Any) -> bool:
    """Whether a `prepare` section, validated or as it was read, is one of points."""
    return source_name(prepare) in POINT_SOURCES


AnyPrepareConfig = Annotated[
    Annotated[PrepareConfig, Tag("image")] | Annotated[PointsConfig, Tag("point")],
    Discriminator(lambda value: "point" if holds_points(value) else "image"),
]
