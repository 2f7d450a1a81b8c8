"""The data set that the same source and preparation led to before: what has changed since, and what has not."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..errors import GanpipeError
from ..prepareconfig import PrepareConfig
from ..storage import Store
from . import index
from .manifest import Dataset


class Earlier:
    """Rows of an earlier data set, by the key of the picture that each was decoded from."""

    def __init__(self, dataset: Dataset, keys: Sequence[bytes], hashes: Sequence[bytes]):
        """`keys` and `hashes` (sha256 of the pixels) of its rows, in any order."""
        self.digest = dataset.digest
        self.hashes = hashes
        columns = [name for name in ("image", "source", "target") if name in dataset.spec()]
        self.shards = list(zip(*(dataset.shards(name) for name in columns), strict=True))
        self.starts = np.cumsum([0, *(len(of_columns[0]) for of_columns in self.shards)])
        in_order = sorted(range(len(hashes)), key=hashes.__getitem__)
        self.rows = {keys[number]: (row, hashes[number]) for row, number in enumerate(in_order)}

    @classmethod
    def find(cls, folder: Path, store: Store, config: PrepareConfig) -> Earlier | None:
        """The newest one that the index in `folder` knows; None when there is none, or its data is gone."""
        if (recorded := index.rows(folder, config)) is None:
            return None
        digest, keys, hashes = recorded
        try:
            return cls(Dataset.open(store, digest), keys, hashes)
        except GanpipeError:
            return None

    def pixels(self, key: bytes) -> bytes | None:
        """The pixels that a picture of this key was decoded to, of a pair both; verified. None when there are none."""
        row, expected = self.rows.get(key, (-1, b""))
        if not 0 <= row < self.starts[-1]:
            return None
        shard = int(np.searchsorted(self.starts, row, side="right")) - 1
        pixels = b"".join(column[row - self.starts[shard]].tobytes() for column in self.shards[shard])
        return pixels if hashlib.sha256(pixels).digest() == expected else None

    def difference(self, hashes: Sequence[bytes]) -> tuple[int, int]:
        """Images that were added and removed since, by their pixels."""
        before, after = Counter(self.hashes), Counter(hashes)
        return (after - before).total(), (before - after).total()
