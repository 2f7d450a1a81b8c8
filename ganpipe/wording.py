"""Which captions stand beside an image in training: right ones, and wrong ones.

Where captions' meaning is known, any caption of the same meaning is right, so that no image is known by its wording;
and a wrong one is wrong by its meaning. Else an image has its own, and others are wrong. A function of the position in
training alone, like all of a batch: the same on any number of ranks and after any resume.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable

import numpy as np
import torch

from .errors import InputError
from .prepare.manifest import SPLITS, Dataset
from .rng import generator_for

UNSAID = -1
"""Of an attribute that a caption does not speak of."""


class Wording:
    """For the rows of a split, the rows whose captions they are shown with."""

    def __init__(self, dataset: Dataset, split: str, seed: int):
        """Of the table `main`."""
        self.seed = seed
        self.known = "meaning" in dataset.spec()
        if self.known:
            said_NA = np.array(dataset.column("meaning", split))
            self.kinds, kind_N = np.unique(said_NA, axis=0, return_inverse=True)
            self.near, self.far = _contradictions(self.kinds)
        else:
            said = [plain(text) for text in dataset.texts("caption", split)]
            self.kinds, kind_N = np.unique(said, return_inverse=True)
        self.kind_N = kind_N.reshape(-1)
        self.order = np.argsort(self.kind_N, kind="stable")
        self.counts = np.bincount(self.kind_N)
        self.starts = np.cumsum(self.counts) - self.counts

    def require_wrong(self) -> None:
        """Raises InputError when there is an image that no caption is wrong for."""
        if len(self.kinds) < 2 or (self.known and not all(map(len, self.far))):
            raise InputError(
                "gan.wrong_text needs captions that are wrong for an image, and the data has images for which none is: "
                "all captions say the same; set gan.wrong_text to 0, or give other captions"
            )

    def right(self, position: int, global_batch: int, rows: slice, indices: np.ndarray) -> np.ndarray:
        """For rows `indices` of the split, which are rows `rows` of the global batch at `position`: one row each."""
        if not self.known:
            return indices
        draws_N1 = self._draws("right", position, global_batch, rows, 1)
        return np.array([self._of(self.kind_N[row], draw) for row, (draw,) in zip(indices, draws_N1, strict=True)])

    def wrong(self, position: int, global_batch: int, rows: slice, indices: np.ndarray) -> np.ndarray:
        """Likewise. By meaning, half of them differ in what one attribute says alone, where there are such."""
        draws_N3 = self._draws("wrong", position, global_batch, rows, 3)
        return np.array([self._wrong(int(row), *draws) for row, draws in zip(indices, draws_N3, strict=True)])

    def _draws(self, name: str, position: int, global_batch: int, rows: slice, count: int) -> list[list[float]]:
        generator = generator_for("cpu", "wording", name, self.seed, position)
        draws_NK = torch.rand(global_batch, count, generator=generator, dtype=torch.float64)
        drawn: list[list[float]] = draws_NK[rows].tolist()
        return drawn

    def _wrong(self, row: int, nearness: float, which: float, whose: float) -> int:
        kind = self.kind_N[row]
        if self.known:
            near = self.near[kind]
            others = near if len(near) and nearness < 0.5 else self.far[kind]
            return self._of(others[int(which * len(others))], whose)
        place = int(which * (len(self.kind_N) - self.counts[kind]))
        return int(self.order[place if place < self.starts[kind] else place + self.counts[kind]])

    def _of(self, kind: int, draw: float) -> int:
        """Some row of the kind."""
        return int(self.order[self.starts[kind] + int(draw * self.counts[kind])])


def _contradictions(kinds_KA: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """For each meaning: those that differ from it in what one attribute says alone, and all that contradict it."""
    near, far = [], []
    for kind_A in kinds_KA:
        unlike_KA = kinds_KA != kind_A
        contrary_KA = unlike_KA & (kinds_KA != UNSAID) & (kind_A != UNSAID)
        near.append(np.flatnonzero((unlike_KA.sum(1) == 1) & (contrary_KA.sum(1) == 1)))
        far.append(np.flatnonzero(contrary_KA.any(1)))
    return near, far


def check_captions(dataset: Dataset, check: Callable[[str], None]) -> None:
    """Raises InputError when `check` does for some caption, of whatever split: all are asked for in the end."""
    for text in dict.fromkeys(text for split in SPLITS for text in dataset.texts("caption", split)):
        try:
            check(text)
        except InputError as error:
            raise InputError(f"a caption of the data cannot be trained on: {error}") from error


def plain(text: str) -> str:
    """One spelling of texts that say the same: case, composed accents, spaces and closing stops do not count."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split()).rstrip(".!")
