"""The `domain` feature extractor: a small classifier of the data itself, for data and places without Inception.

It is trained once per data set, on the `extractor` split, which no GAN is trained on and no score is measured on.
With labels it tells classes apart, without them which of four rotations an image was turned by (arXiv:1803.07728). Of
images to translate it sees those that are translated to: each side of unpaired data has its own, to which images of the
other one are strange.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import Tensor, nn
from tqdm import trange

from ..errors import InputError
from ..prepare.manifest import Dataset
from ..sample import to_float
from ..seeds import derive_seed
from ..storage import Store
from . import kept, known

log = logging.getLogger(__name__)

FORMAT = 1
FEATURES = 32
MAX_SIDE = 32
MIN_IMAGES = 32
"""Fewer images than this cannot train a classifier worth measuring with."""
MAX_IMAGES = 20_000
MAX_CLASSES = 1000
IMAGES_PER_CLASS = 4
"""On average; labels that are rarer are not learnt, and rotations take their place."""
STEPS = 300
BATCH = 64
LEARNING_RATE = 3e-3
SHIFT = 1 / 16
"""Largest augmenting shift in either direction, as a share of the image's side."""


class DomainNetwork(nn.Module):
    """float images in [-1, 1], (N, C, side, side) -> features (N, 32), logits (N, classes).

    Features leave through a batch normalisation without scale: over real images each has mean 0 and variance 1.
    """

    def __init__(self, channels: int, side: int, classes: int):
        super().__init__()
        widths = (channels, 16, 32, 64, 64)
        layers: list[nn.Module] = []
        for inputs, outputs, stride in zip(widths, widths[1:], (2, 2, 2, 1), strict=False):
            layers += [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
        self.body = nn.Sequential(*layers, nn.Flatten(), nn.Linear(widths[-1] * (side // 8) ** 2, FEATURES))
        self.norm = nn.BatchNorm1d(FEATURES, affine=False)
        self.head = nn.Linear(FEATURES, classes)

    def forward(self, images_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        features = self.norm(self.body(images_NCHW))
        return features, self.head(features.relu())


def pooled(images_NCHW: Tensor) -> Tensor:
    """uint8 images -> float32 in [-1, 1] with at most 32 pixels a side, by averaging whole blocks."""
    images = to_float(images_NCHW)
    factor = max(1, images.shape[-1] // MAX_SIDE)
    return F.avg_pool2d(images, factor) if factor > 1 else images


def get_or_train(dataset: Dataset, store: Store) -> tuple[Path, str]:
    """Local file and sha256 of the data set's classifier; see `kept.get_or_train`."""
    return kept.get_or_train(known.DOMAIN, dataset, store, train)


# --- training ----------------------------------------------------------------------------------------------------


def train(dataset: Dataset) -> tuple[bytes, dict[str, Any]]:
    """A trained classifier as safetensors, and facts about it: task, classes, images, accuracy on the test split.

    The same data set gives the same bytes, whatever the process and its number of threads.
    Raises InputError when the data has too few images in its extractor split.
    """
    images = _images(dataset, "extractor")
    if len(images) < MIN_IMAGES:
        raise InputError(
            f"the extractor split of data set {dataset.digest[:12]} has {len(images)} images, the domain extractor "
            f"needs {MIN_IMAGES}; raise prepare.extractor_fraction, add images, or set evaluate.extractor=inception"
        )
    count = len(images)
    labels, classes = _labels(dataset)
    task = "rotation" if labels is None else "labels"
    if labels is None:
        images, labels = _rotated(images)
    _, channels, side, _ = images.shape
    with one_thread(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed("domain-extractor"))
        network = DomainNetwork(channels, side, len(classes))
        fit(network, images, labels, STEPS, torch.Generator().manual_seed(derive_seed("domain-extractor", "batches")))
        accuracy = _test_accuracy(network, dataset, task, classes)
    facts = {"task": task, "classes": len(classes), "images": count, "test_accuracy": accuracy}
    log.info("trained the domain extractor: %s", ", ".join(f"{name} {value}" for name, value in facts.items()))
    # One key: the order of several is not fixed in the file, and the file is known by its hash.
    metadata = {
        "format": FORMAT,
        "kind": "domain-extractor",
        "channels": channels,
        "side": side,
        "classes": len(classes),
    }
    return save(network.state_dict(), {"ganpipe": json.dumps(metadata)}), facts


@contextmanager
def one_thread() -> Iterator[None]:
    """Sums in one order: with more threads, the last bits of a gradient depend on their number."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def fit(network: DomainNetwork, images: Tensor, labels: Tensor, steps: int, draws: torch.Generator) -> None:
    """Minimise cross-entropy over random shifts of the images; leaves the network in eval mode."""
    optimizer = torch.optim.AdamW(network.parameters(), LEARNING_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    network.train()
    for _ in trange(steps, desc="domain extractor", unit="step", leave=False, disable=None):
        rows = torch.randint(len(images), (BATCH,), generator=draws)
        loss = F.cross_entropy(network(_shifted(images[rows], draws))[1], labels[rows], label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    network.eval()


def _shifted(images_NCHW: Tensor, draws: torch.Generator) -> Tensor:
    """Each image moved by a few pixels of its own; the border is repeated."""
    n, _, side, _ = images_NCHW.shape
    reach = max(1, round(SHIFT * side))
    padded = F.pad(images_NCHW, (reach,) * 4, mode="replicate")
    corner = torch.randint(2 * reach + 1, (2, n, 1), generator=draws)
    rows, columns = corner + torch.arange(side)
    return (
        padded[torch.arange(n)[:, None, None], :, rows[:, :, None], columns[:, None, :]]
        .permute(0, 3, 1, 2)
        .contiguous()
    )


def _rotated(images_NCHW: Tensor) -> tuple[Tensor, Tensor]:
    """All four quarter turns of every image, and the number of turns."""
    turned = torch.cat([images_NCHW.rot90(turns, (2, 3)) for turns in range(4)])
    return turned, torch.arange(4).repeat_interleave(len(images_NCHW))


def _images(dataset: Dataset, split: str) -> Tensor:
    """Pooled images of a split; the first when there are many, which is a random choice: they lie by their hash."""
    parts = []
    for images in (dataset, *dataset.also):
        rows = images.column("image", split)[:MAX_IMAGES]
        parts += [pooled(torch.from_numpy(np.array(rows[start : start + 256]))) for start in range(0, len(rows), 256)]
    return torch.cat(parts) if parts else torch.empty(0)


def _labels(dataset: Dataset) -> tuple[Tensor | None, np.ndarray]:
    """Class numbers of the extractor split, and the labels they stand for; None when labels cannot be learnt."""
    turns = np.arange(4)
    if "label" not in dataset.spec():
        return None, turns
    labels = _numbers(dataset, "extractor")
    classes, numbers = np.unique(labels, return_inverse=True)
    if not 2 <= len(classes) <= min(MAX_CLASSES, len(labels) // IMAGES_PER_CLASS):
        log.warning(
            "%d classes in %d labelled images: the domain extractor learns rotations instead", len(classes), len(labels)
        )
        return None, turns
    return torch.from_numpy(numbers.astype(np.int64)), classes


def class_names(dataset: Dataset) -> tuple[str, ...]:
    """What the classifier's logits stand for; empty when it has learnt rotations."""
    labels, classes = _labels(dataset)
    if labels is None:
        return ()
    names = dataset.spec()["label"].vocabulary
    return tuple(names[value] if names else str(value) for value in classes.tolist())


def _numbers(dataset: Dataset, split: str) -> np.ndarray:
    """Class numbers of the images of a split, as `_images` takes them."""
    return np.concatenate([images.column("label", split)[:MAX_IMAGES] for images in (dataset, *dataset.also)])


def labels_of(dataset: Dataset, split: str) -> tuple[str, ...]:
    """Names of the classes of a split's images."""
    names = dataset.spec()["label"].vocabulary
    return tuple(names[value] if names else str(value) for value in dataset.column("label", split).tolist())


@torch.no_grad()
def _test_accuracy(network: DomainNetwork, dataset: Dataset, task: str, classes: np.ndarray) -> float | None:
    """Share of the test split that is told right; classes that the extractor split lacks are left out."""
    images = _images(dataset, "test")
    if task == "rotation":
        images, labels = _rotated(images)
    else:
        given = _numbers(dataset, "test")
        known = np.isin(given, classes)
        images, labels = images[torch.from_numpy(known)], torch.from_numpy(np.searchsorted(classes, given[known]))
    if not len(images):
        return None
    right = [
        network(part)[1].argmax(1) == truth for part, truth in zip(images.split(256), labels.split(256), strict=True)
    ]
    return round(torch.cat(right).float().mean().item(), 4)
