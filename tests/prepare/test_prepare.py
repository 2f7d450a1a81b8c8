"""The stage on real files: what comes out, and what its digest depends on."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ganpipe import prepare
from ganpipe.config import RunConfig
from ganpipe.prepare.decode import decode
from ganpipe.prepare.manifest import SPLITS, Dataset
from ganpipe.prepare.shards import write_shards
from ganpipe.prepare.sources import find
from ganpipe.refs import DatasetRef
from ganpipe.settings import Settings
from ganpipe.storage import open_store

Configure = Callable[..., RunConfig]
SaveImages = Callable[..., list[Path]]


def opened(ref: DatasetRef, settings: Settings) -> Dataset:
    return Dataset.open(open_store(settings.store), ref.digest)


def row_hashes(dataset: Dataset, split: str) -> list[str]:
    return [hashlib.sha256(row.tobytes()).hexdigest() for row in dataset.column("image", split)]


# --- what comes out ----------------------------------------------------------------------------------------------


def test_digits(configure: Configure, settings: Settings) -> None:
    config = configure(None, resolution=32, channels=1, evaluate={}, test_fraction=0.2, extractor_fraction=0.15)
    ref = prepare.run(config, settings)
    assert sum(ref.rows.values()) == 1797
    assert abs(ref.rows["test"] / 1797 - 0.2) < 0.03
    assert abs(ref.rows["extractor"] / 1797 - 0.15) < 0.03
    dataset = opened(ref, settings)
    assert dataset.manifest.ref == ref
    columns = dataset.spec()
    assert columns["image"].shape == (1, 32, 32)
    assert columns["label"].vocabulary == tuple("0123456789")
    labels = np.concatenate([dataset.column("label", split) for split in SPLITS])
    assert np.bincount(labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    image = dataset.column("image", "train")
    assert image.dtype == np.uint8
    assert image.min() == 0
    assert image.max() == 255


def test_rows_carry_the_label_of_their_folder(configure: Configure, settings: Settings, images: Path) -> None:
    dataset = opened(prepare.run(configure(images, resolution=16), settings), settings)
    assert dataset.spec()["label"].vocabulary == ("cat", "dog")
    by_hash = {}
    for path in images.rglob("*.png"):
        square = Image.open(path).crop((0, 1, 10, 11)).resize((16, 16), Image.Resampling.LANCZOS)
        pixels = np.ascontiguousarray(np.asarray(square).transpose(2, 0, 1))
        by_hash[hashlib.sha256(pixels.tobytes()).hexdigest()] = path.parent.name
    found = {}
    for split in SPLITS:
        labels = [("cat", "dog")[label] for label in dataset.column("label", split)]
        found |= dict(zip(row_hashes(dataset, split), labels, strict=True))
    assert found == by_hash


def test_rows_are_sorted_by_hash_and_split_by_it(configure: Configure, settings: Settings, images: Path) -> None:
    ref = prepare.run(configure(images, extractor_fraction=0.2), settings)
    dataset = opened(ref, settings)
    hashes = {split: row_hashes(dataset, split) for split in SPLITS}
    assert [*hashes["test"], *hashes["extractor"], *hashes["train"]] == sorted(
        text for rows in hashes.values() for text in rows
    )
    share = {split: [int(text, 16) / 16**64 for text in hashes[split]] for split in SPLITS}
    assert max(share["test"]) < 0.4 <= min(share["extractor"])
    assert max(share["extractor"]) < 0.6 <= min(share["train"])
    assert {split: len(rows) for split, rows in hashes.items()} == ref.rows


@pytest.mark.parametrize(
    ("setting", "top", "expected"),
    [("auto", False, True), ("auto", True, False), ("none", False, False), ("subfolders", False, True)],
)
def test_labels_setting(
    configure: Configure, settings: Settings, images: Path, setting: str, top: bool, expected: bool
) -> None:
    if top:
        shutil.copy(next(images.rglob("*.png")), images / "at-top.png")
    dataset = opened(prepare.run(configure(images, labels=setting), settings), settings)
    assert ("label" in dataset.spec()) == expected


def test_several_shards_read_as_one(configure: Configure, settings: Settings, images: Path, tmp_path: Path) -> None:
    config = configure(images)
    whole = opened(prepare.run(config, settings), settings)
    rows = decode(find(config.prepare.source).load(tmp_path), config.prepare, tmp_path / "pixels")
    manifest = write_shards({"main": rows}, config.prepare, tmp_path, shard_bytes=7 * 3 * 8 * 8)
    parts = Dataset(manifest, {path.name: path for path in tmp_path.glob("*.npy")})
    assert manifest.digest == whole.digest
    assert parts.spec()["image"].shards == tuple(f"main.image-{number:05d}.npy" for number in range(6))
    for split in SPLITS:
        for column in ("image", "label"):
            np.testing.assert_array_equal(parts.column(column, split), whole.column(column, split))


def test_one_pixel_and_names_in_any_script(configure: Configure, settings: Settings, images: Path) -> None:
    (images / "猫 & ñandú").mkdir()
    for number, colour in enumerate(("red", "blue")):
        Image.new("RGB", (1, 1), colour).save(images / "猫 & ñandú" / f"画像 {number} é.png")
    dataset = opened(prepare.run(configure(images), settings), settings)
    assert dataset.spec()["label"].vocabulary == ("cat", "dog", "猫 & ñandú")
    assert dataset.manifest.tables["main"].rows == 42
    rows = np.concatenate([dataset.column("image", split) for split in SPLITS])
    for colour in ((255, 0, 0), (0, 0, 255)):
        assert (rows == np.array(colour)[:, None, None]).all((1, 2, 3)).sum() == 1


# --- identity ----------------------------------------------------------------------------------------------------


def test_path_order_and_date_do_not_change_the_digest(
    configure: Configure, settings: Settings, images: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "elsewhere" / "copy"
    paths = sorted(images.rglob("*.png"), reverse=True)
    for number, path in enumerate(paths):
        target = copy / path.parent.name / "deeper" / f"{number}.PNG"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
        os.utime(target, (number, number))
    assert prepare.run(configure(images), settings) == prepare.run(configure(copy), settings)
    assert len(list(open_store(settings.store).published("datasets"))) == 1


@pytest.mark.parametrize(
    "changed",
    [
        {"resolution": 16},
        {"channels": 1},
        {"crop": "none"},
        {"background": (0, 0, 0)},
        {"test_fraction": 0.3},
        {"extractor_fraction": 0.1},
        {"labels": "none"},
    ],
)
def test_another_preparation_has_another_digest(
    configure: Configure, settings: Settings, images: Path, changed: dict[str, object]
) -> None:
    assert prepare.run(configure(images), settings).digest != prepare.run(configure(images, **changed), settings).digest


def test_a_renamed_class_changes_the_digest(configure: Configure, settings: Settings, images: Path) -> None:
    before = prepare.run(configure(images), settings)
    (images / "dog").rename(images / "wolf")
    assert prepare.run(configure(images), settings).digest != before.digest


def test_added_images_move_none(
    configure: Configure, settings: Settings, images: Path, save_images: SaveImages
) -> None:
    before = opened(prepare.run(configure(images, extractor_fraction=0.2), settings), settings)
    save_images(images / "cat" / "more", 30, seed=1, classes=())
    after = opened(prepare.run(configure(images, extractor_fraction=0.2), settings), settings)
    assert after.manifest.tables["main"].rows == 70
    for split in SPLITS:
        assert set(row_hashes(before, split)) < set(row_hashes(after, split))


def test_duplicates_are_kept_in_one_split_and_ordered_by_label(
    configure: Configure, settings: Settings, images: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number, path in enumerate(sorted((images / "cat").glob("*.png"))):
        shutil.copy(path, images / ("cat" if number % 2 else "dog") / f"copy-{path.name}")
    with caplog.at_level(logging.INFO):
        dataset = opened(prepare.run(configure(images), settings), settings)
    assert dataset.manifest.tables["main"].rows == 60
    assert "20 of them exact duplicates" in caplog.text
    hashes = {split: row_hashes(dataset, split) for split in SPLITS}
    assert not set(hashes["test"]) & set(hashes["train"])
    for split, rows in hashes.items():
        labelled = list(zip(rows, dataset.column("label", split).tolist(), strict=True))
        assert labelled == sorted(labelled)
