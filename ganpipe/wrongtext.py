"""Texts that are wrong for an image: wrong by their meaning where it is known, else merely other texts.

A function of the position in training alone, like all of a batch: the same on any number of ranks and after any resume.
"""

from __future__ import annotations

import unicodedata

import numpy as np
import torch

from .errors import InputError
from .prepare.manifest import Dataset
from .rng import generator_for

UNSAID = -1


class WrongTexts:
    """For every row of a split the rows whose captions are wrong for it."""

    def __init__(self, dataset: Dataset, split: str, seed: int):
        """Of the table `main`. Raises InputError when no caption is wrong for some image."""
        self.seed = seed
        texts = dataset.ragged("caption", split)
        if "meaning" in dataset.spec():
            meanings_NA = np.array(dataset.column("meaning", split))
            kinds_KA, self.kind_N = np.unique(meanings_NA, axis=0, return_inverse=True)
            self.kind_N = self.kind_N.reshape(-1)
            self.near, self.far = _contradictions(kinds_KA)
        else:
            said = [plain(texts[row].tobytes().decode()) for row in range(len(texts))]
            kinds, self.kind_N = np.unique(said, return_inverse=True)
            self.near, self.far = [np.empty(0, np.int64)] * len(kinds), []
        self.order = np.argsort(self.kind_N, kind="stable")
        self.counts = np.bincount(self.kind_N)
        self.starts = np.cumsum(self.counts) - self.counts
        if len(self.counts) < 2 or (self.far and not all(map(len, self.far))):
            raise InputError(
                "gan.wrong_text needs captions that are wrong for an image, and the captions of the data all say the "
                "same; set gan.wrong_text to 0, or give other captions"
            )

    def rows(self, position: int, global_batch: int, rows: slice, indices: np.ndarray) -> np.ndarray:
        """For rows `indices` of the split, which are rows `rows` of the global batch at `position`: one row each."""
        generator = generator_for("cpu", "wrong text", self.seed, position)
        draws_N3 = torch.rand(global_batch, 3, generator=generator, dtype=torch.float64)[rows]
        return np.array([self._row(int(row), *draw) for row, draw in zip(indices, draws_N3.tolist(), strict=True)])

    def _row(self, row: int, nearness: float, which: float, whose: float) -> int:
        kind = self.kind_N[row]
        if not self.far:  # any row of another kind, each as likely as any other
            place = int(which * (len(self.kind_N) - self.counts[kind]))
            return int(self.order[place if place < self.starts[kind] else place + self.counts[kind]])
        near = self.near[kind]
        others = near if len(near) and nearness < 0.5 else self.far[kind]
        other = others[int(which * len(others))]
        return int(self.order[self.starts[other] + int(whose * self.counts[other])])


def _contradictions(kinds_KA: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """For each meaning: those that differ from it in what one attribute says alone, and all that contradict it."""
    near, far = [], []
    for kind_A in kinds_KA:
        unlike_KA = kinds_KA != kind_A
        contrary_KA = unlike_KA & (kinds_KA != UNSAID) & (kind_A != UNSAID)
        near.append(np.flatnonzero((unlike_KA.sum(1) == 1) & (contrary_KA.sum(1) == 1)))
        far.append(np.flatnonzero(contrary_KA.any(1)))
    return near, far


def plain(text: str) -> str:
    """One spelling of texts that say the same: case, composed accents, spaces and closing stops do not count."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split()).rstrip(".!")
