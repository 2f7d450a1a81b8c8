"""Which classes or captions a generator is asked for when it is scored."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ..errors import InputError
from ..prepare.manifest import Dataset
from ..rng import SampleRng
from ..sample import LoadedGenerator


def classes_asked(
    loaded: LoadedGenerator, dataset: Dataset, seed: int, indices: Sequence[int]
) -> tuple[str, ...] | None:
    """Name of the class that each of these samples of the seed is to show; None when nobody asks.

    Sample i shows what a training image is that is drawn by (seed, i), so that classes are as frequent as in training
    whatever the number of processes; those that the generator does not know are left out. Nobody asks a generator of no
    classes, or for data without labels: there it draws its own.
    Raises InputError when the generator knows none of the data's classes.
    """
    if not loaded.classes or "label" not in dataset.spec():
        return None
    given_N = np.asarray(dataset.column("label", "train"))
    names = dataset.spec()["label"].vocabulary or tuple(map(str, range(given_N.max(initial=0) + 1)))
    known_N = given_N[np.isin(given_N, [number for number, name in enumerate(names) if name in loaded.classes])]
    if not len(known_N):
        raise InputError(
            f"the generator knows the classes {', '.join(loaded.classes)}, and data set {dataset.digest[:12]} has "
            f"{', '.join(names)}: it cannot be scored on other classes than it was trained on"
        )
    draws = SampleRng(seed, indices, torch.device("cpu"))
    rows = draws.integers("class asked for", len(indices), 0, len(known_N))
    return tuple(names[number] for number in known_N[rows.numpy()].tolist())


def captions_asked(
    loaded: LoadedGenerator, dataset: Dataset, seed: int, indices: Sequence[int]
) -> tuple[str, ...] | None:
    """Text that each of these samples of the seed is asked for; None when nobody asks.

    Sample i gets the caption of a test image that is drawn by (seed, i): what training has not read, as often as it is
    said. Of data without captions a generator draws one of its own.
    Raises InputError when a caption is longer than the generator reads.
    """
    if not loaded.takes_text or "caption" not in dataset.spec():
        return None
    texts = dataset.texts("caption", "test")
    draws = SampleRng(seed, indices, torch.device("cpu"))
    rows = draws.integers("caption asked for", len(indices), 0, len(texts))
    return loaded.texts([texts[row] for row in rows.tolist()])
