"""The `prepare` section for points in the plane: mixtures of Gaussians that GANs are tried on."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from .options import Section


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
        from .config import PrepareConfig

        fields = PrepareConfig.model_fields.keys() - cls.model_fields.keys()
        if isinstance(value, dict) and (wrong := sorted(fields & value.keys())):
            named = ", ".join(f"prepare.{name}" for name in wrong)
            raise ValueError(f"{named}: for images only, and prepare.source is {value['source']['name']}; leave it out")
        return value

    @property
    def kind(self) -> Literal["point"]:
        """The kind of column that is prepared."""
        return "point"

    def described(self) -> str:
        """For people: what the rows look like."""
        return "points in the plane"


def holds_points(prepare: Any) -> bool:
    """Whether a `prepare` section, validated or as it was read, is one of points."""
    source = prepare.get("source") if isinstance(prepare, dict) else getattr(prepare, "source", None)
    name = source.get("name") if isinstance(source, dict) else getattr(source, "name", None)
    return name in POINT_SOURCES
