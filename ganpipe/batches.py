"""From shards to batches: infinite, deterministic, and resumable in O(1): a batch is a function of its position."""

from __future__ import annotations

import os
from collections.abc import Iterable

import numpy as np
import torch
import torch.nn.functional as F
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
        jitter: int | None = None,
    ):
        """`mirror` turns every image left to right with probability 1/2, all images of a row together; `jitter`
        enlarges them to so many pixels and crops their size out at random, all images of a row at one place.

        Captions are those that `Wording` chooses, WRONG_CAPTION among them. Raises InputError when the data set lacks a
        column, or rows.
        """
        self.seed = seed
        self.device = device
        self.mirror = mirror
        self.jitter = jitter
        self.columns: dict[str, Column] = {}
        self.tables: dict[str, str] = {}
        columns = set(columns)
        self.data: dict[str, Tensor | np.ndarray | Ragged] = {}
        self.orders: dict[tuple[str, int], np.ndarray] = {}
        spec = dataset.spec()
        for name, (table, column) in dataset.manifest.places().items():
            if name in columns:
                self.tables[name], self.columns[name] = table, spec[name]
                self.data[name] = (
                    dataset.ragged(column, split, table)
                    if spec[name].ragged
                    else _place(dataset.column(column, split, table), device)
                )
        if missing := columns - set(self.columns) - {WRONG_CAPTION}:
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
        draws = {table: self._draws(table, position, global_batch, rows) for table in self.sizes}
        for name, table in self.tables.items():
            if self.columns[name].kind == "image":
                flips_N, corners_N2 = draws[table]
                if self.jitter is not None:
                    batch[name] = jittered(batch[name], self.jitter, corners_N2)
                if self.mirror:
                    batch[name] = torch.where(flips_N[:, None, None, None], batch[name].flip(-1), batch[name])
        return batch

    def _draws(self, table: str, position: int, global_batch: int, rows: slice) -> tuple[Tensor, Tensor]:
        """Of some rows of a global batch: which are mirrored, bool, and where they are cropped, on [0, 1)."""
        flips_N = torch.rand(global_batch, generator=generator_for("cpu", "mirror", self.seed, table, position)) < 0.5
        corners_N2 = torch.rand(global_batch, 2, generator=generator_for("cpu", "crop", self.seed, table, position))
        return flips_N[rows].to(self.device), corners_N2[rows].to(self.device)

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


def jittered(images_NCHW: Tensor, side: int, corners_N2: Tensor) -> Tensor:
    """Enlarged to `side` pixels by bicubic interpolation, within [-1, 1], and cropped to the size they had: the corner,
    down and across, is this share of the way to the last one."""
    n, _, height, _ = images_NCHW.shape
    enlarged = F.interpolate(images_NCHW, (side, side), mode="bicubic", align_corners=False).clamp(-1, 1)
    first_N2 = (corners_N2 * (side - height + 1)).long()
    pixels = torch.arange(height, device=images_NCHW.device)
    rows_NH, columns_NW = first_N2[:, :1] + pixels, first_N2[:, 1:] + pixels
    # Indexing puts the indexed dimensions first: channels come last, as they lie in memory.
    number_N11 = torch.arange(n, device=images_NCHW.device)[:, None, None]
    return enlarged[number_N11, :, rows_NH[:, :, None], columns_NW[:, None, :]].permute(0, 3, 1, 2)


def _place(data: np.ndarray, device: torch.device) -> Tensor | np.ndarray:
    """On the device as it is (images stay uint8) when it fits there, else memory-mapped."""
    if data.nbytes <= RESIDENT_SHARE * _free_bytes(device):
        return torch.from_numpy(np.array(data)).to(device)
    return data


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
