"""Data to translate, seen one direction at a time: from what to what, and the answers where they are known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from .gans.base import GAN
from .grids import stacked
from .prepare.manifest import Dataset, Table
from .sample import to_uint8, translate
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

    def view(self) -> Dataset:
        """A data set of the images that are translated to, with their labels, if any.

        Sources whose answer is known, and no target, are more images of that kind.
        """
        others = self.partners if self.partners != self.targets else None
        also = () if others is None else (self._single(others),)
        side = "" if self.targets[0] == "main" else f"-{self.targets[0]}"
        view = self._single(self.targets)
        return Dataset(view.manifest, view.files, side, also)

    def _single(self, place: Place) -> Dataset:
        table, column = place
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


def translations(gan: GAN, generator: nn.Module, way: Way, seed: int, n: int, device: torch.device) -> np.ndarray:
    """uint8 (n, 2 or 3, C, H, W): the first n test images, their translations and known targets, all in colour when one
    is."""
    sources = np.array(way.images(way.sources, "test")[:n])
    made = translate(gan, generator, seed, range(len(sources)), torch.from_numpy(sources), way.direction, device)
    columns = [sources, to_uint8(made).cpu().numpy()]
    if way.partners is not None:
        columns.append(np.array(way.images(way.partners, "test")[:n]))
    return stacked(columns, axis=1)
