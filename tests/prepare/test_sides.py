"""Two sides of images that are no pairs: published folders, any two sources, digits in two styles."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny import sides_raw

from ganpipe import prepare
from ganpipe.config import RunConfig, load_config
from ganpipe.errors import InputError
from ganpipe.prepare.derived import restyle
from ganpipe.prepare.manifest import SPLITS, Dataset
from ganpipe.settings import Settings
from ganpipe.storage import open_store

Refused = Callable[[RunConfig], str]
SaveImages = Callable[..., list[Path]]


def configured(source: dict[str, Any], **fields: Any) -> RunConfig:
    raw = sides_raw(batch=4)
    raw["prepare"] = {"source": source, "resolution": 8, "test_fraction": 0.4, "extractor_fraction": 0, **fields}
    raw["evaluate"] = {"extractor": "inception", "allow_few": True}
    return load_config(raw)


def prepared(config: RunConfig, settings: Settings) -> Dataset:
    return Dataset.open(open_store(settings.store), prepare.run(config, settings).digest)


def rows(dataset: Dataset) -> dict[str, dict[str, int]]:
    return {
        name: {split: stop - start for split, (start, stop) in table.splits.items()}
        for name, table in dataset.manifest.tables.items()
    }


@pytest.fixture
def zebras(tmp_path: Path, save_images: SaveImages) -> Path:
    """The published layout, of unequal numbers."""
    root = tmp_path / "horse2zebra"
    for seed, (name, count) in enumerate({"trainA": 12, "trainB": 17, "testA": 5, "testB": 4}.items()):
        save_images(root / name, count, seed=seed, classes=())
    return root


def test_published_folders_keep_their_test_images(zebras: Path, settings: Settings) -> None:
    config = configured({"name": "unpaired_folder", "path": str(zebras)})
    dataset = prepared(config, settings)
    assert rows(dataset) == {
        "a": {"test": 5, "extractor": 0, "train": 12},
        "b": {"test": 4, "extractor": 0, "train": 17},
    }
    assert dataset.manifest.ref.rows == {"test": 4, "extractor": 0, "train": 12}
    assert {name: column.shape for name, column in dataset.spec().items()} == {"a": (3, 8, 8), "b": (3, 8, 8)}
    before = dataset.digest
    (zebras / "testA" / "000.png").rename(zebras / "trainA" / "moved.png")
    assert prepared(config, settings).digest != before


def test_without_test_folders_each_side_is_split_by_content(zebras: Path, settings: Settings) -> None:
    for name in ("testA", "testB"):
        shutil.rmtree(zebras / name)
    found = rows(prepared(configured({"name": "unpaired_folder", "path": str(zebras)}), settings))
    assert [sum(found[side].values()) for side in "ab"] == [12, 17]
    assert all(found[side]["test"] for side in "ab")


def test_a_side_with_too_few_test_images_is_named(zebras: Path, refused: Refused) -> None:
    for number in range(1, 5):
        (zebras / "testA" / f"{number:03d}.png").unlink()
    message = refused(configured({"name": "unpaired_folder", "path": str(zebras)}))
    assert "1 of 13 images of side a are left to test on" in message


def test_two_sources_of_unequal_size(zebras: Path, settings: Settings, tmp_path: Path) -> None:
    shutil.make_archive(str(tmp_path / "zebras"), "zip", zebras / "trainB")
    source = {
        "name": "unpaired",
        "a": {"name": "folder", "path": str(zebras / "trainA"), "labels": "none"},
        "b": {"name": "archive", "path": str(tmp_path / "zebras.zip"), "labels": "none"},
    }
    found = rows(prepared(configured(source), settings))
    assert [sum(found[side].values()) for side in "ab"] == [12, 17]
    with pytest.raises(InputError, match=r"prepare\.source\.b\.path: .*nowhere\.zip does not exist"):
        prepared(configured({**source, "b": {"name": "archive", "path": str(tmp_path / "nowhere.zip")}}), settings)


def test_prepared_already_is_found_again(
    zebras: Path, settings: Settings, save_images: SaveImages, caplog: pytest.LogCaptureFixture
) -> None:
    config = configured({"name": "unpaired_folder", "path": str(zebras)})
    first = prepared(config, settings).digest
    with caplog.at_level("INFO"):
        assert prepared(config, settings).digest == first
    assert "already prepared" in caplog.text
    save_images(zebras / "trainB", 18, seed=1, classes=())
    assert prepared(config, settings).digest != first


def test_restyled_digits_are_disjoint_and_know_their_partners(settings: Settings) -> None:
    dataset = prepared(load_config(sides_raw()), settings)
    assert {name: column.shape for name, column in dataset.spec().items()} == {"a": (1, 16, 16), "b": (1, 16, 16)}
    plain: dict[str, set[bytes]] = {"a": set(), "b": set()}
    total = 0
    for split in SPLITS:
        for side, (origin, made) in {"a": ("image", "partner"), "b": ("partner", "image")}.items():
            originals = np.array(dataset.column(origin, split, side))
            assert len(originals) > 100
            for original, restyled in zip(originals, dataset.column(made, split, side), strict=True):
                np.testing.assert_array_equal(restyle(original), restyled)
            plain[side] |= {original.tobytes() for original in originals}
            total += len(originals)
            assert len(np.unique(dataset.column("label", split, side))) == 10
    assert total == 1797
    assert not plain["a"] & plain["b"]


def test_restyled_images_are_dark_outlines_on_white() -> None:
    square = np.zeros((1, 16, 16), np.uint8)
    square[:, 4:12, 4:12] = 200
    expected = np.full((16, 16), 255, np.uint8)
    expected[3:13, 3:13] = 55
    expected[5:11, 5:11] = 255
    np.testing.assert_array_equal(restyle(square)[0], expected)


# --- bad input ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["trainA", "trainB", "testA", "testB"])
def test_an_empty_or_missing_side(zebras: Path, refused: Refused, name: str) -> None:
    shutil.rmtree(zebras / name)
    config = configured({"name": "unpaired_folder", "path": str(zebras)})
    assert f"{zebras / name} does not exist" in refused(config)
    (zebras / name).mkdir()
    assert f"no images in {zebras / name}" in refused(config)


def test_no_folder(tmp_path: Path, refused: Refused) -> None:
    assert "trainA and trainB" in refused(configured({"name": "unpaired_folder", "path": str(tmp_path / "none")}))


def test_a_grey_side_beside_one_in_colour(zebras: Path, settings: Settings, refused: Refused) -> None:
    for split in ("train", "test"):
        for file in (zebras / f"{split}B").glob("*.png"):
            Image.open(file).convert("L").save(file)
    source = {"name": "unpaired_folder", "path": str(zebras)}
    message = refused(configured(source))
    assert f"all images of side b are grey ({zebras / 'trainB' / '000.png'}, ...)" in message
    assert str(zebras / "trainA") in message
    assert prepared(configured(source, channels=1), settings).manifest.ref.rows["train"] == 12


def test_a_grey_photograph_among_others_is_none_of_that(zebras: Path, settings: Settings) -> None:
    file = zebras / "trainB" / "003.png"
    Image.open(file).convert("L").save(file)
    assert prepared(configured({"name": "unpaired_folder", "path": str(zebras)}), settings).manifest.ref.rows["train"]


def test_images_smaller_than_what_is_prepared(zebras: Path, refused: Refused) -> None:
    message = refused(configured({"name": "unpaired_folder", "path": str(zebras)}, resolution=16))
    assert f"{zebras / 'trainA' / '000.png'}: 10 x 12 pixels are fewer than the 16 of prepare.resolution" in message


def test_too_few_on_one_side(zebras: Path, refused: Refused) -> None:
    for number in range(3, 17):
        (zebras / "trainB" / f"{number:03d}.png").unlink()
    assert "only 3 of" in refused(configured({"name": "unpaired_folder", "path": str(zebras)}))


def test_recipes_for_other_data_say_which_one_it_is_for() -> None:
    raw = sides_raw()
    raw["gan"] = {"name": "classic"}
    with pytest.raises(InputError, match=r"two sets of images.*set gan\.name to cyclegan"):
        load_config(raw)
    raw["prepare"] = {"source": {"name": "digits"}, "derive": "mask", "resolution": 16}
    with pytest.raises(InputError, match=r"pairs of images.*set gan\.name to pix2pix"):
        load_config(raw)
    raw["gan"] = {"name": "cyclegan"}
    with pytest.raises(InputError, match="the data has no a and no b"):
        load_config(raw)
