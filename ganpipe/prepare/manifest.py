"""The data manifest: what a prepared data set is, for every kind of column, and how to read it back."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from ..errors import InputError
from ..refs import DatasetRef
from ..spec import Column, DataSpec, Part
from ..storage import Store

FORMAT: Final = 1
SPLITS: tuple[Literal["test", "extractor", "train"], ...] = ("test", "extractor", "train")
EXAMPLES = 256
"""Captions that travel with the weights of a generator, at most."""


class Table(Part):
    """Splits are stretches of rows, in the order of SPLITS; in each of them rows are sorted by content hash.

    A row's split depends on its own content alone: the hash read as a fraction of 1 is below the test fraction, or
    below the test plus extractor fraction, or above both. Duplicates share a split, and added rows move none. Where a
    source's folders say what is tested on, what is equal to a test row is left out of the others.
    """

    rows: int
    splits: dict[Literal["test", "extractor", "train"], tuple[int, int]]
    """split -> (first row, row after the last)."""
    columns: dict[str, Column]


class DataManifest(Part):
    """`datasets/<digest>/manifest.json`, next to the store's own `files` entry."""

    format: Literal[1] = FORMAT
    kind: Literal["dataset"] = "dataset"
    digest: str
    tables: dict[str, Table]
    """One `main`, or `a` and `b` for unpaired data."""
    preparation: dict[str, Any]
    """The resolved `prepare` section without its location, as far as it shaped the bytes."""

    @classmethod
    def read(cls, store: Store, digest: str) -> DataManifest | None:
        """The manifest of a prepared data set; None when the store has none. Raises InputError on a later format."""
        prefix = f"datasets/{digest}"
        try:
            raw = store.manifest(prefix)
        except FileNotFoundError:
            return None
        if raw.get("format") != FORMAT:
            raise InputError(f"{store.uri}/{prefix} has format {raw.get('format')}; this version reads format {FORMAT}")
        raw.pop("files")
        return cls.model_validate(raw)

    @property
    def ref(self) -> DatasetRef:
        rows = {
            split: min(stop - start for start, stop in (table.splits[split] for table in self.tables.values()))
            for split in SPLITS
        }
        return DatasetRef(digest=self.digest, rows=rows)

    def places(self) -> dict[str, tuple[str, str]]:
        """What a batch may hold -> the table and the column that it is of. Of unpaired data, each table's images."""
        if "main" not in self.tables:
            return {table: (table, "image") for table in self.tables}
        return {name: ("main", name) for name in self.tables["main"].columns}

    def columns(self) -> dict[str, Column]:
        """What a batch may hold, by name."""
        return {name: self.tables[table].columns[column] for name, (table, column) in self.places().items()}


class Ragged:
    """Rows of unlike length: UTF-8 captions, tokens."""

    def __init__(self, values: np.ndarray, offsets: np.ndarray, width: int):
        """Row i is `values[offsets[i]:offsets[i + 1]]`; `width` is the length of the longest."""
        self.values, self.offsets, self.width = values, offsets, width

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> np.ndarray:
        return self.values[self.offsets[row] : self.offsets[row + 1]]

    def padded(self, rows: np.ndarray) -> np.ndarray:
        """Some rows, (N, width), filled up with zeros."""
        filled = np.zeros((len(rows), self.width), self.values.dtype)
        for target, row in zip(filled, rows, strict=True):
            values = self[row]
            target[: len(values)] = values
        return filled


def offsets_name(shard: str) -> str:
    """The file with the offsets of a ragged column's shard."""
    return f"{shard.removesuffix('.npy')}.offsets.npy"


class Dataset:
    """A prepared data set: memory-mapped columns by table, name and split."""

    def __init__(self, manifest: DataManifest, files: dict[str, Path], side: str = "", also: tuple[Dataset, ...] = ()):
        """`side` tells views of one data set apart; `also` are more rows like these, for feature extractors alone."""
        self.manifest = manifest
        self.files = files
        self.side = side
        self.also = also

    @classmethod
    def open(cls, store: Store, digest: str) -> Dataset:
        """The verified data set. Raises InputError when it is not in the store or of a later format."""
        manifest = DataManifest.read(store, digest)
        if manifest is None:
            raise InputError(f"data set {digest} is not in {store.uri}; run `ganpipe prepare CONFIG` first")
        return cls(manifest, store.fetch(f"datasets/{digest}"))

    @property
    def digest(self) -> str:
        return self.manifest.digest

    def spec(self) -> DataSpec:
        """What batches may hold, by name: what networks are built for. Captions come with some of training's."""
        columns = self.manifest.columns()
        if "caption" in columns:
            examples = tuple(self.texts("caption", "train", EXAMPLES))
            columns["caption"] = columns["caption"].model_copy(update={"examples": examples})
        return columns

    def column(self, name: str, split: str, table: str = "main") -> np.ndarray:
        """Rows of one split, (N, *shape), memory-mapped when the column is one shard. Not for ragged columns."""
        described = self.manifest.tables[table]
        start, stop = described.splits[split]  # type: ignore[index]
        column = described.columns[name]
        if column.ragged:
            raise InputError(f"column {name!r} is ragged: read it with `ragged`")
        parts, first = [], 0
        for shard in self.shards(name, table):
            low, high = max(start - first, 0), min(stop - first, len(shard))
            if low < high:
                parts.append(shard[low:high])
            first += len(shard)
        if not parts:
            return np.empty((0, *column.shape), column.dtype)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def ragged(self, name: str, split: str, table: str = "main") -> Ragged:
        """Rows of one split of a ragged column, memory-mapped."""
        described = self.manifest.tables[table]
        start, stop = described.splits[split]  # type: ignore[index]
        (shard,) = described.columns[name].shards
        (values,) = self.shards(name, table)
        offsets = np.load(self.files[offsets_name(shard)], allow_pickle=False)
        return Ragged(values, offsets[start : stop + 1], described.columns[name].shape[0])

    def texts(self, name: str, split: str, most: int | None = None) -> list[str]:
        """The first rows of one split of a column of captions."""
        rows = self.ragged(name, split)
        return [rows[row].tobytes().decode() for row in range(len(rows) if most is None else min(most, len(rows)))]

    def shards(self, name: str, table: str = "main") -> list[np.ndarray]:
        """All rows of a column as they are stored, memory-mapped."""
        column = self.manifest.tables[table].columns[name]
        return [np.load(self.files[shard], mmap_mode="r", allow_pickle=False) for shard in column.shards]
