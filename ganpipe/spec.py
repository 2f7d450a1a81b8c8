"""What a column of data looks like: all that a network has to know about the data it is built for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer

from .errors import InputError


class Part(BaseModel):
    """Base of the manifest's parts: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


Direction = Literal["AtoB", "BtoA"]
"""From what to what is translated."""
WHITE = (255, 255, 255)


class Mixture(Part):
    """The Gaussians that points were drawn from, each mode as often as any other."""

    centres: tuple[tuple[float, float], ...]
    """Mean of each mode."""
    deviation: float
    """Standard deviation of each mode, the same in all directions."""


class Meanings(Part):
    """Attributes that captions of digits speak of, and what an image is measured beside to read them back."""

    names: tuple[str, ...]
    """Of the attributes: digit, weight, slant."""
    values: tuple[tuple[str, ...], ...]
    """Of each attribute, by number; -1 stands where a caption does not speak of it."""
    medians: tuple[tuple[float, float], ...]
    """Of ink and lean over all images of a digit, by digit: above them it is bold, and leans to the right."""
    left_out: tuple[tuple[int, ...], ...] = ()
    """Combinations of values that no image of the data has."""


class Column(Part):
    """One column of a table: numpy shards that follow one another.

    `ragged` columns (tokens, captions) are one flat shard plus `<table>.<column>-00000.offsets.npy` of N + 1 int64.
    """

    kind: Literal["image", "label", "caption", "meaning", "tokens", "point"]
    dtype: str
    """numpy name: uint8 for images and captions (UTF-8), int64 for labels, meanings and tokens, float32 for points."""
    shape: tuple[int, ...]
    """Of one row: (C, H, W) for images, () for labels, (2,) for points, (attributes,) for meanings; the longest row for
    ragged columns."""
    range: tuple[float, float] | None = None
    """Smallest and largest value that the column may hold; images: (0, 255)."""
    vocabulary: tuple[str, ...] | None = None
    """Names of the classes, or the tokens, by number."""
    ragged: bool = False
    shards: tuple[str, ...]
    """File names, in order: `<table>.<column>-00000.npy`."""
    mixture: Mixture | None = None
    """Of points: where they come from."""
    meanings: Meanings | None = None
    """Of meanings: what their numbers stand for."""
    direction: Direction | None = None
    """Of pairs that were published side by side: from which half to which. None is AtoB, and for other data."""
    background: tuple[int, int, int] | None = None
    """Of images: RGB, 0 to 255, that shows through transparent pixels. None is WHITE."""
    examples: tuple[str, ...] | None = None
    """Of captions: some of those that are trained on, which a generator draws from when it is told nothing. They stand
    in no manifest: whoever opens the data adds them."""

    @model_serializer(mode="wrap")
    def _as_before(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """What a column has not is left out, as it was before there was any: digests hang on it."""
        written: dict[str, Any] = handler(self)
        for name in ("mixture", "meanings", "direction", "background", "examples"):
            if getattr(self, name) is None:
                written.pop(name, None)
        return written


DataSpec = Mapping[str, Column]
"""Columns by name."""
MODES_OF_TRIPLES = tuple(f"{mode:03d}" for mode in range(1000))
"""Classes of stacked digits: the digits of the red, green and blue channel."""


def image_shape(spec: DataSpec, column: str = "image") -> tuple[int, int, int]:
    """(channels, height, width) of an image column. Raises InputError when the data has no such column."""
    if column not in spec or spec[column].kind != "image":
        raise InputError(f"the data has no image column {column!r}; it has {sorted(spec)}")
    channels, height, width = spec[column].shape
    return channels, height, width


def ways(spec: DataSpec) -> dict[Direction, tuple[str, str]]:
    """Direction -> column of what is translated, and of what it is translated to. Nothing for other data."""
    if {"source", "target"} <= spec.keys():
        return {spec["source"].direction or "AtoB": ("source", "target")}
    return {"AtoB": ("a", "b"), "BtoA": ("b", "a")} if {"a", "b"} <= spec.keys() else {}


def sampled(spec: DataSpec, direction: Direction | None = None) -> Column:
    """The column that a generator makes rows of, in the first direction unless told otherwise.

    Raises InputError when the data has neither images nor points.
    """
    if found := ways(spec):
        _, target = next(iter(found.values())) if direction is None else found[direction]
        return spec[target]
    for column in spec.values():
        if column.kind in ("image", "point"):
            return column
    raise InputError(f"the data has neither images nor points; it has {sorted(spec)}")


def class_count(spec: DataSpec) -> int:
    """How many classes the labels are of. Raises InputError when the data has no labels."""
    if "label" not in spec or spec["label"].vocabulary is None:
        raise InputError(f"the data has no column of labels; it has {sorted(spec)}")
    return len(spec["label"].vocabulary)


def holds_triples(spec: DataSpec) -> bool:
    """Whether the data are stacked digits: a digit in each of three channels, named by the labels."""
    return (
        "label" in spec
        and spec["label"].vocabulary == MODES_OF_TRIPLES
        and "image" in spec
        and spec["image"].shape[0] == 3
    )


def spec_to_json(spec: DataSpec) -> dict[str, object]:
    """JSON form, without the shards: what travels inside a weights file."""
    return {name: column.model_dump(mode="json", exclude={"shards"}) for name, column in spec.items()}


def spec_from_json(data: Mapping[str, Mapping[str, object]]) -> dict[str, Column]:
    """Inverse of `spec_to_json`."""
    return {name: Column.model_validate({**column, "shards": ()}) for name, column in data.items()}
