"""What a report shows besides numbers: samples, real rows, nearest neighbours, interpolations, classes, the latents.

Made of the best snapshot by the main process, from features that were extracted for its scores.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..gans.base import Request
from ..grids import grid
from ..prepare.manifest import Dataset
from ..refs import ClassShare
from ..rng import SampleRng
from ..sample import LoadedGenerator, draw, to_uint8
from ..spec import Mixture, sampled
from .fidelity import Features
from .neighbours import nearest
from .protocol import Protocol
from .scores import Reference

GRID = 64
"""Images in a grid."""
POINTS = 1000
"""Points in a picture, of either kind."""
SEARCHED = 1024
"""Most samples whose nearest training images are looked for."""
PAIRS = 8
"""Samples in each row of pairs."""
ROWS, OF_A_CLASS = 20, 10
"""Most classes, or captions, that samples are shown of, and how many of each."""
PATHS, STEPS = 6, 10
"""Interpolations, and samples on each; all in one chunk."""
GAP_GREY = 112
"""Of the lines between images."""
SIDE = 64
"""Largest side of an image on a page, pixels."""
BROWSED = 36
"""Samples in a frame of the latent browser."""
SEEDS = tuple(range(8))
TRUNCATIONS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25)
BUDGET = 2_200_000
"""Bytes of all frames of a latent browser; as data URIs they are a third more."""


@dataclass(frozen=True)
class Picture:
    """An encoded image, of images side by side."""

    data: bytes
    kind: str
    """`png` or `webp`."""
    width: int
    height: int

    @classmethod
    def of(cls, images_NCHW: np.ndarray, columns: int | None = None, kind: str = "png") -> Picture:
        """Of uint8 images."""
        picture, buffer = grid(images_NCHW, columns), io.BytesIO()
        options = {"optimize": True} if kind == "png" else {"quality": 80}
        picture.save(buffer, kind, **options)
        return cls(buffer.getvalue(), kind, picture.width, picture.height)

    @property
    def uri(self) -> str:
        """The image itself as an address."""
        return f"data:image/{self.kind};base64,{base64.b64encode(self.data).decode()}"


@dataclass(frozen=True)
class Pair:
    """A sample, and the training image nearest to it in the extractor's features."""

    number: int
    """Of the sample, within its seed."""
    sample: Picture
    nearest: Picture
    distance: float


@dataclass(frozen=True)
class Points:
    """Points in the plane, float32 (N, 2)."""

    generated: np.ndarray
    real: np.ndarray
    paths: np.ndarray
    """(PATHS, STEPS, 2)"""
    mixture: Mixture | None


@dataclass(frozen=True)
class Frames:
    """Samples by seed and truncation."""

    seeds: Sequence[int]
    truncations: Sequence[float]
    count: int
    """Samples in a frame: 0, ..., count - 1 of the seed."""
    pictures: list[list[Picture]]
    """One row per seed, one column per truncation."""


@dataclass(frozen=True)
class Exhibits:
    """What there is to show of one snapshot; what does not apply to its data is empty."""

    seed: int
    """Of the samples: the first scoring seed."""
    samples: Picture | None = None
    real: Picture | None = None
    """Held-out images."""
    closest: list[Pair] = field(default_factory=list)
    """Samples that are nearest to any training image, of those that were searched."""
    first: list[Pair] = field(default_factory=list)
    """Samples 0, 1, ..."""
    searched: int = 0
    usual_distance: float = math.nan
    """Median distance of a training image to the nearest other one."""
    paths: Picture | None = None
    """One interpolation per row."""
    of_classes: list[tuple[str, Picture]] = field(default_factory=list)
    """Class asked for, and samples of it; the k-th ones of all classes share their latents."""
    of_captions: list[tuple[str, Picture, Picture]] = field(default_factory=list)
    """Caption of a held-out image, that image, and samples that it was asked for; the k-th ones share their latents."""
    translations: Sequence[tuple[str, Picture]] = ()
    """Direction, and test images: a row of sources, of their translations, and of their known targets."""
    modes: list[ClassShare] = field(default_factory=list)
    """Of points; classes of images are counted by their alarm."""
    points: Points | None = None
    frames: Frames | None = None


def make_exhibits(
    loaded: LoadedGenerator, generated: Features, reference: Reference, dataset: Dataset, protocol: Protocol, seed: int
) -> Exhibits:
    """Everything to show of a generator; `generated` has the features of the seed's samples 0, 1, ..."""
    device = next(loaded.module.parameters()).device
    if loaded.output == "point":
        made = torch.cat(list(draw(loaded.gan, loaded.module, seed, range(POINTS), device))).cpu().numpy()
        real = np.array(dataset.column("point", "test")[:POINTS])
        on_paths = interpolations(loaded, seed, device).cpu().numpy().reshape(PATHS, STEPS, 2)
        points = Points(made, real, on_paths, sampled(dataset.spec()).mixture)
        return Exhibits(seed, modes=mode_shares(generated, reference), points=points)
    train = dataset.column("image", "train")
    known_ND, _ = reference.trained_on(protocol)
    distance_N, index_N = nearest(generated.features_ND[:SEARCHED], known_ND)

    def pairs(numbers: Sequence[int]) -> list[Pair]:
        samples = images_of(loaded, seed, numbers, device, **_asked(generated, numbers))
        found = [np.array(train[int(index_N[number])])[None] for number in numbers]
        return [
            Pair(number, pictured(sample[None]), pictured(real), float(distance_N[number]))
            for number, sample, real in zip(numbers, samples, found, strict=True)
        ]

    usual_N, _ = nearest(known_ND[:SEARCHED], known_ND, same=True)
    count = min(GRID, len(generated))
    return Exhibits(
        seed=seed,
        samples=pictured(images_of(loaded, seed, range(count), device, **_asked(generated, range(count)))),
        real=pictured(np.array(dataset.column("image", "test")[:count])),
        closest=pairs(distance_N.argsort(stable=True)[:PAIRS].tolist()),
        first=pairs(range(min(PAIRS, len(distance_N)))),
        searched=len(distance_N),
        usual_distance=float(usual_N.median()),
        paths=pictured(to_uint8(interpolations(loaded, seed, device)).cpu().numpy(), STEPS),
        of_classes=by_class(loaded, seed, device),
        of_captions=by_caption(loaded, seed, device, dataset),
        frames=browsed(loaded, device),
    )


def images_of(
    loaded: LoadedGenerator,
    seed: int,
    numbers: Sequence[int],
    device: torch.device,
    truncation: float = 1.0,
    classes: Sequence[str] | None = None,
    captions: Sequence[str] | None = None,
) -> np.ndarray:
    """Samples of a seed by number, uint8 (N, C, H, W); `classes` or `captions` are what they are to show, if anybody
    asks."""
    label = None if classes is None else loaded.class_numbers(classes)
    parts = draw(loaded.gan, loaded.module, seed, numbers, device, label, truncation=truncation, caption=captions)
    return torch.cat([to_uint8(part).cpu() for part in parts]).numpy()


def by_class(loaded: LoadedGenerator, seed: int, device: torch.device) -> list[tuple[str, Picture]]:
    """OF_A_CLASS samples of each of the first ROWS classes; nothing of a generator without classes."""
    names = loaded.classes[:ROWS]
    if not names:
        return []
    numbers, asked = list(range(OF_A_CLASS)) * len(names), [name for name in names for _ in range(OF_A_CLASS)]
    images = images_of(loaded, seed, numbers, device, classes=asked)
    return [(name, pictured(row, OF_A_CLASS)) for name, row in zip(names, np.split(images, len(names)), strict=True)]


def by_caption(
    loaded: LoadedGenerator, seed: int, device: torch.device, dataset: Dataset
) -> list[tuple[str, Picture, Picture]]:
    """OF_A_CLASS samples of each of the first ROWS captions of the test split; nothing where nobody asks for one."""
    if not loaded.takes_text or "caption" not in dataset.spec():
        return []
    texts, real = dataset.texts("caption", "test", ROWS), dataset.column("image", "test")
    numbers, asked = list(range(OF_A_CLASS)) * len(texts), [text for text in texts for _ in range(OF_A_CLASS)]
    images = images_of(loaded, seed, numbers, device, captions=asked)
    rows = enumerate(np.split(images, len(texts)))
    return [(texts[at], pictured(np.array(real[at])[None]), pictured(row, OF_A_CLASS)) for at, row in rows]


def _asked(generated: Features, numbers: Sequence[int]) -> dict[str, Any]:
    """What some of the samples were asked for."""
    asked = {"classes": generated.classes, "captions": generated.captions}
    return {name: None if given is None else [given[number] for number in numbers] for name, given in asked.items()}


def mode_shares(generated: Features, reference: Reference) -> list[ClassShare]:
    """How many of generated and of real points are nearest to each mode."""
    ours, theirs = (
        torch.bincount(distances_NM.argmin(1), minlength=distances_NM.shape[1]).double() / len(distances_NM)
        for distances_NM in (generated.logits_NK, reference.logits_NK)
    )
    return [
        ClassShare(name=f"mode {number}", real=float(real), generated=float(made))
        for number, (real, made) in enumerate(zip(theirs, ours, strict=True), 1)
    ]


# --- through the latents -----------------------------------------------------------------------------------------


@torch.no_grad()
def interpolations(loaded: LoadedGenerator, seed: int, device: torch.device) -> Tensor:
    """STEPS samples on the way from sample 2 i to sample 2 i + 1 of the seed, for each of PATHS: as the recipe makes
    them, (PATHS * STEPS, ...)."""
    rows = [(2 * path, 2 * path + 1, step / (STEPS - 1)) for path in range(PATHS) for step in range(STEPS)]
    starts, ends, way = (list(values) for values in zip(*rows, strict=True))
    here, there = (SampleRng(seed, numbers, device) for numbers in (starts, ends))
    request = Request(here, len(rows))
    return loaded.gan.between(loaded.module, request, (here, there), torch.tensor(way, device=device)).float()


def browsed(loaded: LoadedGenerator, device: torch.device) -> Frames:
    """The latent browser's frames: PNG where they fit the budget, else WebP, and smaller."""
    images = [
        [images_of(loaded, seed, range(BROWSED), device, truncation) for truncation in TRUNCATIONS] for seed in SEEDS
    ]
    pictures: list[list[Picture]] = []
    for side, kind in ((SIDE, "png"), (SIDE, "webp"), (SIDE // 2, "webp")):
        pictures = [[pictured(frame, kind=kind, side=side) for frame in row] for row in images]
        if sum(len(picture.data) for row in pictures for picture in row) <= BUDGET:
            break
    return Frames(SEEDS, TRUNCATIONS, BROWSED, pictures)


def pictured(images_NCHW: np.ndarray, columns: int | None = None, kind: str = "png", side: int = SIDE) -> Picture:
    """Of images of at most `side` pixels, with a line between them."""
    largest = max(images_NCHW.shape[2:])
    if largest > side:
        height, width = (max(1, round(size * side / largest)) for size in images_NCHW.shape[2:])
        small = F.interpolate(torch.from_numpy(images_NCHW).float(), (height, width), mode="area")
        images_NCHW = small.round().to(torch.uint8).numpy()
    if len(images_NCHW) > 1:
        images_NCHW = np.pad(images_NCHW, ((0, 0), (0, 0), (0, 1), (0, 1)), constant_values=GAP_GREY)
    return Picture.of(images_NCHW, columns, kind)
