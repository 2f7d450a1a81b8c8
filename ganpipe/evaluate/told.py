"""Whether images show what a sentence asked for: of digits, whose every attribute is read off the image again.

Each combination of attributes is asked for by one of the phrasings that training never saw. The digit is read by the
`domain` classifier, which no training saw; weight and slant by the measure that real digits were captioned by, beside
the median of the digit asked for. Combinations that the data leaves out are told apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
import torch
from torch import Tensor
from torch_fidelity import FeatureExtractorBase

from ..launch import StopSignal
from ..prepare.captioned import ink_and_lean, read_sides
from ..prepare.captions import UNSAID, held_out_caption
from ..prepare.manifest import Dataset
from ..ranks import Ranks
from ..sample import CHUNK, LoadedGenerator, draw, to_uint8
from ..seeds import derive_seed
from ..spec import Meanings
from .fidelity import Features, NotFinite, extract

LEAST = 4
"""Real images of a combination that its variety is compared with, at least."""


def can_be_told(dataset: Dataset) -> bool:
    """Whether the captions of the data mean something that is read off images."""
    return "meaning" in dataset.spec()


def meanings_of(dataset: Dataset) -> Meanings:
    """What the captions of such data speak of."""
    meanings = dataset.spec()["meaning"].meanings
    assert meanings is not None
    return meanings


def text_scores(
    loaded: LoadedGenerator,
    dataset: Dataset,
    extractor: FeatureExtractorBase,
    classes: Sequence[str],
    ranks: Ranks,
    seed: int,
    stop: StopSignal | None = None,
) -> dict[str, float]:
    """Base name of each of `protocol.TEXT_METRICS` -> score: of CHUNK samples of one caption of every combination.

    `classes` are what the extractor's logits stand for. `text_diversity` is the mean distance of two samples of one
    caption over that of two real images of which the caption is true, both summed over combinations.
    Raises NotFinite, on every rank, when the generator makes NaN or infinite pixels; Interrupted.
    """
    meanings = meanings_of(dataset)
    asked = list(product(*(range(len(values)) for values in meanings.values)))
    found: dict[int, tuple[np.ndarray, float]] = {}

    def images(rows: slice) -> Tensor:
        number = rows.start // CHUNK
        text = held_out_caption(asked[number], derive_seed("held-out caption", seed, number))
        indices, texts = range(CHUNK), [text] * CHUNK
        (part,) = draw(loaded.gan, loaded.module, seed, indices, ranks.device, chunk=CHUNK, caption=texts)
        if not part.isfinite().all():
            raise NotFinite
        made = to_uint8(part).cpu()
        found[number] = ink_and_lean(made.numpy()), mean_distance(made)
        return made

    features = extract(extractor, len(asked) * CHUNK, images, ranks, "captions", stop)
    dealt = {number: read for part in ranks.gather(found) for number, read in part.items()}
    measured_N2 = np.concatenate([dealt[number][0] for number in range(len(asked))])
    said_N3 = np.repeat(np.array(asked), CHUNK, axis=0)
    left_out_N = np.repeat([combination in meanings.left_out for combination in asked], CHUNK)
    right_N3 = _right(features, measured_N2, said_N3, dataset, classes)
    scores = _shares(right_N3[~left_out_N])
    if left_out_N.any():
        scores |= {f"{name}_unseen": share for name, share in _shares(right_N3[left_out_N]).items()}
    real = {combination: distance for combination, distance in _real_distances(dataset).items() if combination in asked}
    made = sum(dealt[number][1] for number, combination in enumerate(asked) if combination in real)
    return scores | ({"text_diversity": made / sum(real.values())} if real else {})


def scores_of_real(real: Features, dataset: Dataset, split: str, classes: Sequence[str]) -> dict[str, float]:
    """The same of real images of a split and their own captions, of what these say: how well attributes are read."""
    n = len(real)
    images, said_N3 = dataset.column("image", split)[:n], np.array(dataset.column("meaning", split)[:n])
    right_N3 = _right(real, ink_and_lean(np.array(images)), said_N3, dataset, classes)
    names = [f"text_{name}" for name in meanings_of(dataset).names]
    shares = {}
    for number, name in enumerate(names):
        shares[name] = float(right_N3[said_N3[:, number] != UNSAID, number].mean())
    return shares | {"text_all": float(right_N3[(said_N3 != UNSAID).all(1)].all(1).mean())}


def _right(
    features: Features, measured_N2: np.ndarray, said_N3: np.ndarray, dataset: Dataset, classes: Sequence[str]
) -> np.ndarray:
    """bool (N, 3): whether digit, weight and slant are read as they were said."""
    names = dataset.spec()["label"].vocabulary
    assert names is not None
    digit_N = np.array([names.index(name) for name in classes])[features.logits_NK.argmax(1).numpy()]
    sides_N2 = read_sides(measured_N2, said_N3[:, 0], meanings_of(dataset))
    return np.column_stack([digit_N, sides_N2]) == said_N3


def _shares(right_N3: np.ndarray) -> dict[str, float]:
    digit, weight, slant = (float(share) for share in right_N3.mean(0))
    every = float(right_N3.all(1).mean())
    return {"text_digit": digit, "text_weight": weight, "text_slant": slant, "text_all": every}


def _real_distances(dataset: Dataset) -> dict[tuple[int, ...], float]:
    """Combination -> mean distance of two training images of it, where there are enough."""
    said_N3, images = np.array(dataset.column("meaning", "train")), dataset.column("image", "train")
    found = {}
    for combination in np.unique(said_N3[(said_N3 != UNSAID).all(1)], axis=0):
        rows = np.flatnonzero((said_N3 == combination).all(1))
        if len(rows) >= LEAST:
            found[tuple(combination.tolist())] = mean_distance(torch.from_numpy(np.array(images[rows])))
    return found


def mean_distance(images_NCHW: Tensor) -> float:
    """Mean Euclidean distance of two of the uint8 images, N at least 2."""
    return float(torch.pdist(images_NCHW.flatten(1).double()).mean())
