"""Batches: mirrored images and captions, the same on any number of ranks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import tiny_raw

from ganpipe import prepare
from ganpipe.batches import Batches
from ganpipe.config import RunConfig, load_config
from ganpipe.gans.base import Batch
from ganpipe.prepare.manifest import Dataset
from ganpipe.sample import to_uint8
from ganpipe.settings import Settings
from ganpipe.storage import Store, open_store
from ganpipe.train.trainer import Trainer

N = 60


@pytest.fixture
def captioned(tmp_path: Path, settings: Settings, store: Store) -> Dataset:
    """Images whose captions name the brightness of their left and right half."""
    folder = tmp_path / "halves"
    folder.mkdir()
    lines = []
    for number in range(N):
        halves = np.zeros((8, 8), np.uint8)
        halves[:, :4], halves[:, 4:] = 2 * number, 2 * number + 1
        Image.fromarray(halves).save(folder / f"{number}.png")
        lines.append({"file_name": f"{number}.png", "text": f"{2 * number}→{2 * number + 1}"})
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    raw = tiny_raw()
    raw["prepare"]["source"] = {"name": "folder", "path": str(folder), "caption_column": "text"}
    raw["prepare"] |= {"extractor_fraction": 0}
    raw["evaluate"] = {"extractor": "inception", "allow_few": True}
    return Dataset.open(store, prepare.run(load_config(raw), settings).digest)


def batches(dataset: Dataset, mirror: bool = False, columns: tuple[str, ...] = ("image", "caption")) -> Batches:
    return Batches(dataset, columns, "train", seed=3, device=torch.device("cpu"), mirror=mirror)


def halves(batch: Batch) -> list[tuple[int, int]]:
    """Left and right brightness of each image."""
    images = to_uint8(batch["image"])
    return [(int(image[0, 0, 0]), int(image[0, 0, -1])) for image in images]


def captions(batch: Batch) -> list[str]:
    return [bytes(row.numpy()).rstrip(b"\0").decode() for row in batch["caption"]]


def test_captions_come_with_their_images(captioned: Dataset) -> None:
    batch = batches(captioned).at(0, 24, slice(0, 24))
    assert batch["caption"].dtype == torch.uint8
    assert batch["caption"].shape == (24, len("118→119".encode()))
    assert captions(batch) == [f"{left}→{right}" for left, right in halves(batch)]


def test_half_of_the_images_are_mirrored_afresh_each_time(captioned: Dataset) -> None:
    plain, mirrored = batches(captioned), batches(captioned, mirror=True)
    flips = []
    for position in range(0, 1600, 16):
        before, after = (halves(some.at(position, 16, slice(0, 16))) for some in (plain, mirrored))
        for (left, right), shown in zip(before, after, strict=True):
            assert shown in ((left, right), (right, left))
            flips.append(shown != (left, right))
    assert abs(np.mean(flips) - 0.5) < 0.05  # four standard deviations
    train = len(captioned.column("image", "train"))
    assert flips[:train] != flips[train : 2 * train]


def test_what_is_mirrored_depends_on_neither_ranks_nor_resumes(captioned: Dataset) -> None:
    whole = halves(batches(captioned, mirror=True).at(48, 16, slice(0, 16)))
    parts = (halves(batches(captioned, mirror=True).at(48, 16, slice(start, start + 4))) for start in (0, 4, 8, 12))
    assert [image for part in parts for image in part] == whole


def test_training_shows_mirrored_images_only_when_asked(digits: Dataset, tiny: RunConfig, settings: Settings) -> None:
    def first_batch(mirror: bool) -> torch.Tensor:
        config = tiny.model_copy(update={"train": tiny.train.model_copy(update={"mirror": mirror})})
        trainer = Trainer(config, digits, "tiny-1", open_store(settings.store), settings.local_folder("work"))
        return trainer.batches.at(0, 16, slice(0, 16))["image"]

    assert not tiny.train.mirror
    plain, mirrored = first_batch(False), first_batch(True)
    same = [torch.equal(*pair) for pair in zip(plain, mirrored, strict=True)]
    flipped = [torch.equal(*pair) for pair in zip(plain, mirrored.flip(-1), strict=True)]
    assert all(one or other for one, other in zip(same, flipped, strict=True))
    assert any(same)
    assert not all(same)
