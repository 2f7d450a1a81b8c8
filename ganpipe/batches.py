"""From shards to batches: infinite, deterministic, and resumable in O(1): a batch is a function of its position."""

from __future__ import annotations

import os
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from .errors import InputError
from .gans.base import WRONG_CAPTION, Batch
from .prepare.manifest import Dataset, Ragged
from .rng import generator_for
from .sample import to_float
from .spec import Column
from .wording import Wording

RESIDENT_SHARE = 0.25
"""Data is kept on the device when it takes at most this share of the memory that is free there."""


class Batches:
    """Rows of one split in a new random order every epoch; each table (`a`, `b`) walks in an order of its own."""

    def __init__(
        self,
        dataset: Dataset,
        columns: Iterable[str],
        split: str,
        seed: int,
        device: torch.device,
        mirror: bool = False,
    ):
        """`mirror` turns every image left to right with probability 1/2, all images of a row together.

        Captions are those that `Wording` chooses, WRONG_CAPTION among them. Raises InputError when the data set lacks a
        column, or rows.
        """
        self.seed = seed
        self.device = device
        self.mirror = mirror
        self.columns: dict[str, Column] = {}
        self.tables: dict[str, str] = {}
        self.data: dict[str, Tensor | np.ndarray | Ragged] = {}
        self.orders: dict[tuple[str, int], np.ndarray] = {}
        for table, described in dataset.manifest.tables.items():
            for name in sorted(set(columns) & set(described.columns)):
                self.tables[name], self.columns[name] = table, described.columns[name]
                self.data[name] = (
                    dataset.ragged(name, split, table)
                    if described.columns[name].ragged
                    else _place(dataset.column(name, split, table), device)
                )
        if missing := set(columns) - set(self.columns) - {WRONG_CAPTION}:
            raise InputError(
                f"the recipe needs the columns {sorted(missing)}, the data set has {sorted(dataset.spec())}"
            )
        self.sizes = {table: len(self.data[name]) for name, table in self.tables.items()}
        if not all(self.sizes.values()):
            raise InputError(f"data set {dataset.digest} has no rows in its {split} split")
        self.wording = Wording(dataset, split, seed) if "caption" in self.columns else None
        self.with_wrong = WRONG_CAPTION in columns
        if self.wording is not None and self.with_wrong:
            self.wording.require_wrong()

    def at(self, position: int, global_batch: int, rows: slice) -> Batch:
        """Rows `rows` of the global batch that begins `position` rows after the very first: tensors on the device."""
        indices = {table: self._indices(table, position + rows.start, rows.stop - rows.start) for table in self.sizes}
        assert rows.stop <= global_batch
        batch = {name: self._gather(name, indices[table]) for name, table in self.tables.items() if name != "caption"}
        if self.wording is not None:
            place = position, global_batch, rows, indices[self.tables["caption"]]
            batch["caption"] = self._gather("caption", self.wording.right(*place))
            if self.with_wrong:
                batch[WRONG_CAPTION] = self._gather("caption", self.wording.wrong(*place))
        if self.mirror:
            flips = {table: self._flips(table, position, global_batch)[rows] for table in self.sizes}
            for name, table in self.tables.items():
                if self.columns[name].kind == "image":
                    batch[name] = torch.where(flips[table][:, None, None, None], batch[name].flip(-1), batch[name])
        return batch

    def _flips(self, table: str, position: int, global_batch: int) -> Tensor:
        """Which rows of a global batch are mirrored, bool."""
        generator = generator_for("cpu", "mirror", self.seed, table, position)
        return (torch.rand(global_batch, generator=generator) < 0.5).to(self.device)

    def _indices(self, table: str, position: int, n: int) -> np.ndarray:
        size = self.sizes[table]
        parts = []
        while n:
            epoch, offset = divmod(position, size)
            part = self._order(table, epoch)[offset : offset + n]
            parts.append(part)
            position += len(part)
            n -= len(part)
        return np.concatenate(parts)

    def _order(self, table: str, epoch: int) -> np.ndarray:
        if (table, epoch) not in self.orders:
            self.orders = {key: order for key, order in self.orders.items() if key[1] == epoch or key[0] != table}
            generator = generator_for("cpu", "order", self.seed, table, epoch)
            self.orders[table, epoch] = torch.randperm(self.sizes[table], generator=generator).numpy()
        return self.orders[table, epoch]

    def _gather(self, name: str, indices: np.ndarray) -> Tensor:
        data = self.data[name]
        if isinstance(data, Tensor):
            rows = data[torch.from_numpy(indices).to(self.device, non_blocking=True)]
        elif isinstance(data, Ragged):
            rows = torch.from_numpy(data.padded(indices)).to(self.device, non_blocking=True)
        else:
            ascending = np.argsort(indices, kind="stable")
            gathered = np.empty((len(indices), *data.shape[1:]), data.dtype)
            gathered[ascending] = data[indices[ascending]]
            rows = torch.from_numpy(gathered).to(self.device, non_blocking=True)
        if self.columns[name].kind == "image":
            return to_float(rows).contiguous(memory_format=torch.channels_last)
        return rows


def _place(data: np.ndarray, device: torch.device) -> Tensor | np.ndarray:
    """On the device as it is (images stay uint8) when it fits there, else memory-mapped."""
    if data.nbytes <= RESIDENT_SHARE * _free_bytes(device):
        return torch.from_numpy(np.array(data)).to(device)
    return data


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
