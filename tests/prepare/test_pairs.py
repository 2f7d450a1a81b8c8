"""Pairs of images: side by side, in two folders, in two columns, derived; and what is refused of them."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from ganpipe import prepare
from ganpipe.config import RunConfig, config_to_json, load_config
from ganpipe.errors import InputError
from ganpipe.prepare.derived import HIDDEN
from ganpipe.prepare.images import read_image
from ganpipe.prepare.manifest import SPLITS, Dataset
from ganpipe.settings import Settings
from ganpipe.spec import ways
from ganpipe.storage import open_store

Refused = Callable[[RunConfig], str]
SIDE = 20


def configured(source: dict[str, Any], **fields: Any) -> RunConfig:
    return load_config(
        {
            "name": "test",
            "prepare": {
                "source": source,
                "resolution": 16,
                "test_fraction": 0.4,
                "extractor_fraction": 0,
                **fields,
            },
            "gan": {"name": "pix2pix", "patch_layers": 1},
            "train": {"batch": 4, "stop": {"kimg": 1}},
            "evaluate": {"extractor": "inception", "allow_few": True},
            "register": {"model": "test"},
        }
    )


def prepared(source: dict[str, Any], settings: Settings, **fields: Any) -> Dataset:
    ref = prepare.run(configured(source, **fields), settings)
    return Dataset.open(open_store(settings.store), ref.digest)


def noise(seed: int, width: int = SIDE, height: int = SIDE) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def inverted(pixels: np.ndarray) -> np.ndarray:
    """The known answer: what belongs to an image."""
    return 255 - pixels


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def facades(tmp_path: Path) -> Path:
    """The published layout: A left and B right, in train/, val/ and test/."""
    root = tmp_path / "facades"
    for number in range(24):
        folder = "train" if number < 14 else "val" if number < 18 else "test"
        pixels = noise(number)
        save(root / folder / f"{number}.png", np.concatenate([pixels, inverted(pixels)], axis=1))
    return root


@pytest.fixture
def two_folders(tmp_path: Path) -> tuple[Path, Path]:
    """Sources as PNG and targets as BMP, in sub-folders."""
    for number in range(20):
        pixels, stem = noise(number), f"street {number % 2}/{number}"
        save(tmp_path / "maps" / f"{stem}.png", pixels)
        save(tmp_path / "photos" / f"{stem}.bmp", inverted(pixels))
    return tmp_path / "maps", tmp_path / "photos"


def sources_of(two: tuple[Path, Path]) -> dict[str, Any]:
    return {"name": "paired", "source": str(two[0]), "target": str(two[1])}


def require_partners(dataset: Dataset, split: str) -> None:
    """Inversion and resizing go together, but for the rounding."""
    source, target = (np.array(dataset.column(name, split), int) for name in ("source", "target"))
    assert len(source)
    assert abs(source + target - 255).max() <= 1


@pytest.mark.parametrize("direction", ["AtoB", "BtoA"])
def test_side_by_side_in_published_folders(facades: Path, settings: Settings, direction: str) -> None:
    dataset = prepared({"name": "paired_folder", "path": str(facades), "direction": direction}, settings)
    assert dataset.manifest.ref.rows == {"test": 6, "extractor": 0, "train": 14}
    assert {name: column.shape for name, column in dataset.spec().items()} == dict.fromkeys(
        ("source", "target"), (3, 16, 16)
    )
    assert list(ways(dataset.spec())) == [direction]
    for split in ("train", "test"):
        require_partners(dataset, split)
    buffer = (facades / "test" / "20.png").read_bytes()
    whole = Image.open(facades / "test" / "20.png")
    left = 0 if direction == "AtoB" else SIDE
    whole.crop((left, 0, left + SIDE, SIDE)).save(facades.parent / "half.png")
    expected = read_image((facades.parent / "half.png").read_bytes(), 16)
    assert (np.array(dataset.column("source", "test")) == expected).all((1, 2, 3)).any()
    assert buffer == (facades / "test" / "20.png").read_bytes()


def test_val_is_tested_on_where_there_is_no_test(facades: Path, settings: Settings) -> None:
    shutil.rmtree(facades / "test")
    rows = prepared({"name": "paired_folder", "path": str(facades)}, settings).manifest.ref.rows
    assert rows == {"test": 4, "extractor": 0, "train": 14}


def test_the_rest_of_published_training_images_may_train_the_extractor(facades: Path, settings: Settings) -> None:
    rows = prepared({"name": "paired_folder", "path": str(facades)}, settings, extractor_fraction=0.3).manifest.ref.rows
    assert rows["test"] == 6
    assert 0 < rows["extractor"] < rows["train"]
    assert rows["extractor"] + rows["train"] == 14


def test_a_test_image_is_never_trained_on(facades: Path, settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    shutil.copy(facades / "test" / "20.png", facades / "train" / "again.png")
    with caplog.at_level(logging.WARNING):
        dataset = prepared({"name": "paired_folder", "path": str(facades)}, settings)
    assert "left out 1 training images that are test images" in caplog.text
    assert dataset.manifest.ref.rows == {"test": 6, "extractor": 0, "train": 14}


def test_moving_an_image_to_test_is_another_data_set(facades: Path, settings: Settings) -> None:
    source = {"name": "paired_folder", "path": str(facades)}
    before = prepared(source, settings).digest
    assert prepared(source, settings).digest == before
    (facades / "train" / "3.png").rename(facades / "test" / "3.png")
    after = prepared(source, settings)
    assert after.digest != before
    assert after.manifest.ref.rows == {"test": 7, "extractor": 0, "train": 13}


def test_files_beside_published_folders_are_named(facades: Path, refused: Refused) -> None:
    save(facades / "stray.png", noise(0, 2 * SIDE))
    assert "stray.png" in refused(configured({"name": "paired_folder", "path": str(facades)}))


@pytest.mark.parametrize(("train", "test"), [("Train", "test"), ("train", "Test"), ("train", "testing")])
def test_folders_that_are_almost_the_published_ones(facades: Path, refused: Refused, train: str, test: str) -> None:
    """Otherwise published test images would be trained on."""
    shutil.rmtree(facades / "val")
    (facades / "train").rename(facades / train)
    (facades / "test").rename(facades / test)
    message = refused(configured({"name": "paired_folder", "path": str(facades)}))
    assert all(f"{name}/" in message for name in (train, test)) and "rename them" in message


def test_two_folders_by_equal_names(two_folders: tuple[Path, Path], settings: Settings) -> None:
    dataset = prepared(sources_of(two_folders), settings)
    rows = dataset.manifest.ref.rows
    assert rows["train"] + rows["test"] == 20
    for split in ("train", "test"):
        require_partners(dataset, split)


def test_duplicates_of_a_pair_share_a_split(two_folders: tuple[Path, Path], settings: Settings) -> None:
    for folder, suffix in zip(two_folders, ("png", "bmp"), strict=True):
        for number in range(20):
            file = folder / f"street {number % 2}" / f"{number}.{suffix}"
            shutil.copy(file, file.with_name(f"again {number}.{suffix}"))
    dataset = prepared(sources_of(two_folders), settings)
    seen = {split: {row.tobytes() for row in dataset.column("target", split)} for split in ("train", "test")}
    assert not seen["train"] & seen["test"]
    assert len(seen["train"]) + len(seen["test"]) == 20
    assert sum(dataset.manifest.ref.rows.values()) == 40


def test_two_columns_of_a_table(tmp_path: Path, settings: Settings) -> None:
    columns: dict[str, list[Any]] = {"sketch": [], "photo": [], "kind": []}
    for number in range(20):
        for name, pixels in (("sketch", noise(number)), ("photo", inverted(noise(number)))):
            save(tmp_path / "one.png", pixels)
            columns[name].append((tmp_path / "one.png").read_bytes())
        columns["kind"].append(f"kind {number % 2}")
    pq.write_table(pa.table(columns), tmp_path / "pairs.parquet")
    source = {
        "name": "parquet",
        "path": str(tmp_path / "pairs.parquet"),
        "image_column": "sketch",
        "target_column": "photo",
        "label_column": "kind",
    }
    dataset = prepared(source, settings)
    require_partners(dataset, "train")
    assert dataset.spec()["label"].vocabulary == ("kind 0", "kind 1")
    with pytest.raises(InputError, match=r"prepare\.source\.target_column: .* has no column `drawing`"):
        prepared({**source, "target_column": "drawing"}, settings)


def test_only_new_pairs_are_read_again(
    two_folders: tuple[Path, Path], settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    prepared(sources_of(two_folders), settings)
    save(two_folders[0] / "new.png", noise(99))
    save(two_folders[1] / "new.png", inverted(noise(99)))
    with caplog.at_level(logging.INFO):
        require_partners(prepared(sources_of(two_folders), settings), "train")
    assert "1 images decoded, 20 taken from there" in caplog.text


# --- derived -----------------------------------------------------------------------------------------------------


def digit_pairs(settings: Settings, derive: str, **fields: Any) -> tuple[Dataset, np.ndarray, np.ndarray]:
    dataset = prepared({"name": "digits"}, settings, derive=derive, **{"channels": 1, **fields})
    return dataset, *(np.array(dataset.column(name, "test"), int) for name in ("source", "target"))


def test_digits_with_their_lower_half_hidden(settings: Settings) -> None:
    dataset, source, target = digit_pairs(settings, "mask", extractor_fraction=0.2)
    assert set(dataset.spec()) == {"source", "target", "label"}
    assert all(dataset.manifest.ref.rows[split] > 300 for split in SPLITS)
    np.testing.assert_array_equal(source[:, :, :8], target[:, :, :8])
    assert (source[:, :, 8:] == HIDDEN).all()
    assert len(np.unique(target[:, :, 8:].reshape(len(target), -1), axis=0)) > 0.9 * len(target)


def test_edges_of_digits_are_lines_where_they_are_steep(settings: Settings) -> None:
    _, source, target = digit_pairs(settings, "edges", resolution=32)
    assert set(np.unique(source)) == {0, 255}
    assert 0.05 < (source > 0).mean() < 0.2
    across, down = (np.gradient(target.astype(float), axis=axis) for axis in (3, 2))
    steep = np.hypot(across, down)
    assert steep[source > 0].mean() > 2.5 * steep[source == 0].mean()


def test_grey_and_small_versions_of_photographs(two_folders: tuple[Path, Path], settings: Settings) -> None:
    folder = {"name": "folder", "path": str(two_folders[0]), "labels": "none"}
    grey = prepared(folder, settings, derive="grey")
    source, target = (np.array(grey.column(name, "train"), float) for name in ("source", "target"))
    assert (source == source[:, :1]).all()
    luma = np.tensordot(target, (0.299, 0.587, 0.114), (1, 0))
    assert abs(source[:, 0] - luma).max() <= 0.5
    small = prepared(folder, settings, derive="downscale")
    source, target = (np.array(small.column(name, "train"), float) for name in ("source", "target"))
    assert abs(source.mean((2, 3)) - target.mean((2, 3))).max() < 8
    assert np.diff(source, axis=3).std() < 0.3 * np.diff(target, axis=3).std()


@pytest.mark.parametrize(
    ("source", "fields", "said"),
    [
        ({"name": "paired_folder", "path": "x"}, {"derive": "mask"}, "prepare.derive .* is of pairs already"),
        ({"name": "digits"}, {"derive": "grey", "channels": 1}, "set prepare.channels to 3"),
        ({"name": "digits"}, {"derive": "depth"}, "prepare.derive"),
        ({"name": "digits"}, {}, "the data has no source and no target"),
    ],
)
def test_what_makes_no_pairs(source: dict[str, Any], fields: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        configured(source, **fields)


# --- bad input: named, before training, and nothing is published ----------------------------------------------------


def test_an_odd_width_is_no_two_images(facades: Path, refused: Refused) -> None:
    save(facades / "train" / "odd.png", noise(0, 2 * SIDE + 1))
    message = refused(configured({"name": "paired_folder", "path": str(facades)}))
    assert "1 of 21 images" in message
    assert f"{facades / 'train' / 'odd.png'}: its width, 41 pixels, is odd" in message


def test_images_smaller_than_what_is_prepared(facades: Path, refused: Refused) -> None:
    message = refused(configured({"name": "paired_folder", "path": str(facades)}, resolution=32))
    assert f"{facades / 'test' / '20.png'}: 20 x 20 pixels are fewer than the 32 of prepare.resolution" in message


def test_pairs_are_not_derived_from_images_that_are_smaller(two_folders: tuple[Path, Path], refused: Refused) -> None:
    """Enlarged, source and target of `downscale` would hardly differ."""
    folder = {"name": "folder", "path": str(two_folders[0]), "labels": "none"}
    message = refused(configured(folder, derive="downscale", resolution=32))
    assert "4.png: 20 x 20 pixels are fewer than the 32 of prepare.resolution" in message


def test_more_translations_than_test_images_are_refused_before_training(facades: Path, refused: Refused) -> None:
    config = configured({"name": "paired_folder", "path": str(facades)})
    for evaluate, said in (
        ({"extractor": "inception", "num_samples": 7}, "is 7, and"),
        ({"protocol": "fid50k-train"}, "fid50k-train fixes"),
    ):
        changed = load_config({**config_to_json(config), "evaluate": {**evaluate, "allow_few": True}})
        message = refused(changed)
        assert "evaluate.num_samples" in message and said in message and "there are 6 test images" in message


def test_a_name_on_one_side_only(two_folders: tuple[Path, Path], refused: Refused) -> None:
    (two_folders[1] / "street 1" / "7.bmp").unlink()
    message = refused(configured(sources_of(two_folders)))
    assert f"1 images of {two_folders[0]} have none of the same name in {two_folders[1]}: street 1/7.png" in message
    save(two_folders[1] / "other.png", noise(7))
    (two_folders[0] / "street 1" / "7.png").unlink()
    assert "other.png" in refused(configured(sources_of(two_folders)))


def test_two_files_of_one_name(two_folders: tuple[Path, Path], refused: Refused) -> None:
    save(two_folders[0] / "street 0" / "4.bmp", noise(4))
    message = refused(configured(sources_of(two_folders)))
    assert "street 0/4.bmp" in message
    assert "street 0/4.png" in message


def test_pairs_of_unlike_size(two_folders: tuple[Path, Path], refused: Refused) -> None:
    save(two_folders[1] / "street 0" / "4.bmp", noise(4, SIDE + 2))
    message = refused(configured(sources_of(two_folders)))
    assert str(two_folders[1] / "street 0" / "4.bmp") in message
    assert "the source has 20 x 20 pixels and the target 22 x 20" in message


@pytest.mark.parametrize("with_alpha", [False, True])
def test_grey_beside_colour(
    two_folders: tuple[Path, Path], settings: Settings, refused: Refused, with_alpha: bool
) -> None:
    save(two_folders[0] / "street 0" / "4.png", noise(4)[:, :, :2] if with_alpha else noise(4)[:, :, 0])
    message = refused(configured(sources_of(two_folders)))
    assert f"{two_folders[0] / 'street 0' / '4.png'} and " in message
    assert "the source is grey and the target in colour" in message
    assert prepared(sources_of(two_folders), settings, channels=1).manifest.ref.rows["train"]


def test_a_damaged_partner(two_folders: tuple[Path, Path], settings: Settings, refused: Refused) -> None:
    (two_folders[1] / "street 0" / "4.bmp").write_bytes(b"?")
    assert "the target: no image in any of the formats" in refused(configured(sources_of(two_folders)))
    rows = prepared(sources_of(two_folders), settings, on_corrupt="skip").manifest.ref.rows
    assert sum(rows.values()) == 19


def test_an_empty_folder(two_folders: tuple[Path, Path], refused: Refused) -> None:
    shutil.rmtree(two_folders[1])
    two_folders[1].mkdir()
    message = refused(configured(sources_of(two_folders)))
    assert f"prepare.source.target: no images in {two_folders[1]}" in message
    two_folders[1].rmdir()
    assert "prepare.source.target: " in refused(configured(sources_of(two_folders)))
