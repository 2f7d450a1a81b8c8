"""Data to translate, seen one direction at a time: from what to what, and the answers where they are known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .prepare.manifest import Dataset, Table
from .spec import Direction, ways

Place = tuple[str, str]
"""Table and column."""


@dataclass(frozen=True)
class Way:
    """One direction of a data set."""

    dataset: Dataset
    direction: Direction
    sources: Place
    targets: Place
    partners: Place | None
    """The target of each source; None where nobody knows it."""

    def images(self, place: Place, split: str) -> np.ndarray:
        """uint8 (N, C, H, W) of a split."""
        table, column = place
        return self.dataset.column(column, split, table)

    def view(self, place: Place | None = None) -> Dataset:
        """A data set of single images: those that are translated to, or the others; with their labels, if any."""
        table, column = place or self.targets
        described = self.dataset.manifest.tables[table]
        kept = {"image": described.columns[column]}
        if "label" in described.columns:
            kept["label"] = described.columns["label"]
        tables = {"main": Table(rows=described.rows, splits=described.splits, columns=kept)}
        return Dataset(self.dataset.manifest.model_copy(update={"tables": tables}), self.dataset.files)

    def labels(self, split: str) -> tuple[str, ...] | None:
        """Names of the classes of what is translated; None without labels."""
        label = self.dataset.manifest.tables[self.sources[0]].columns.get("label")
        if label is None or label.vocabulary is None:
            return None
        numbers = self.dataset.column("label", split, self.sources[0])
        return tuple(label.vocabulary[number] for number in numbers.tolist())


def ways_of(dataset: Dataset) -> tuple[Way, ...]:
    """Both, one, or none when the data are no images to translate."""
    found = []
    places, tables = dataset.manifest.places(), dataset.manifest.tables
    for direction, (source, target) in ways(dataset.spec()).items():
        sources, targets = places[source], places[target]
        partners = targets if targets[0] == sources[0] else (sources[0], "partner")
        known = partners[1] in tables[partners[0]].columns
        found.append(Way(dataset, direction, sources, targets, partners if known else None))
    return tuple(found)


def single_images(dataset: Dataset) -> tuple[Dataset, ...]:
    """Data sets of all images like those that are made of this one: itself, unless there are ways.

    Where images of one side have partners, these are among the images of the other one.
    """
    found = ways_of(dataset)
    if not found:
        return (dataset,)
    places = dict.fromkeys(place for way in found for place in (way.targets, way.partners) if place is not None)
    return tuple(found[0].view(place) for place in places)
