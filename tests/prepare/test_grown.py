"""A source that has grown since: what is new is decoded, what is known is taken from the earlier data set."""

from __future__ import annotations

import logging
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image

from ganpipe import prepare
from ganpipe.config import RunConfig
from ganpipe.settings import Settings
from ganpipe.storage import open_store

Configure = Callable[..., RunConfig]
SaveImages = Callable[..., list[Path]]

_opened: list[str] | None = None


def _note(event: str, arguments: tuple[object, ...]) -> None:
    if _opened is not None and event == "open" and str(arguments[0]).endswith(".png"):
        _opened.append(str(arguments[0]))


sys.addaudithook(_note)  # the interpreter's own account of every file that is opened


@contextmanager
def opened_images() -> Iterator[list[str]]:
    global _opened
    _opened = noted = []
    try:
        yield noted
    finally:
        _opened = None


def from_scratch(config: RunConfig, tmp_path: Path) -> str:
    home = tmp_path / "fresh-home"
    return prepare.run(config, Settings(home=home, store=f"file://{home}/store", tracking_uri="off")).digest


def test_only_new_images_are_opened(
    configure: Configure,
    settings: Settings,
    images: Path,
    save_images: SaveImages,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    config = configure(images, extractor_fraction=0.2)
    with opened_images() as files:
        before = prepare.run(config, settings)
    assert len(files) == 40
    gone = sorted(images.rglob("*.png"))[:4]
    for path in gone:
        path.unlink()
    added = [*save_images(images / "cat" / "new", 7, seed=1, classes=()), *save_images(images / "owl", 2, 2, ())]
    with opened_images() as files, caplog.at_level(logging.INFO):
        after = prepare.run(config, settings)
    assert sorted(files) == sorted(map(str, added))
    assert f"+9 -4 against data set {before.digest}; 9 images decoded, 36 taken from there" in caplog.text
    assert after.digest == from_scratch(config, tmp_path) != before.digest


def test_an_archive_made_anew(
    configure: Configure,
    settings: Settings,
    images: Path,
    save_images: SaveImages,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    archive = Path(shutil.make_archive(str(tmp_path / "packed"), "gztar", images))
    config = configure({"name": "archive", "path": str(archive)})
    prepare.run(config, settings)
    save_images(images, 12, seed=3)  # over the first twelve
    save_images(images / "dog" / "more", 5, seed=4, classes=())
    shutil.make_archive(str(tmp_path / "packed"), "gztar", images)
    with caplog.at_level(logging.INFO):
        after = prepare.run(config, settings)
    assert "+17 -12 against" in caplog.text
    assert "17 images decoded, 28 taken from there" in caplog.text
    assert after.digest == from_scratch(config, tmp_path)


def test_moved_labels_are_the_new_ones(
    configure: Configure, settings: Settings, images: Path, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    prepare.run(configure(images), settings)
    for path in sorted((images / "cat").glob("*.png"))[:6]:
        path.rename(images / "dog" / path.name)
    with caplog.at_level(logging.INFO):
        after = prepare.run(configure(images), settings)
    assert "+0 -0 against" in caplog.text
    assert after.digest == from_scratch(configure(images), tmp_path)


def test_several_shards_and_duplicates(
    configure: Configure,
    settings: Settings,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("ganpipe.prepare.shards.SHARD_BYTES", 1000)
    for path in sorted((images / "cat").glob("*.png"))[:9]:
        shutil.copy2(path, path.with_stem(f"{path.stem}-copy"))
    prepare.run(configure(images), settings)
    Image.new("RGB", (9, 9), "teal").save(images / "dog" / "new.png")
    with caplog.at_level(logging.INFO):
        after = prepare.run(configure(images), settings)
    assert "+1 -0 against" in caplog.text
    assert "1 images decoded, 49 taken" in caplog.text
    assert after.digest == from_scratch(configure(images), tmp_path)


@pytest.mark.parametrize("damage", ["rows", "data set gone", "data set damaged", "other decoder"])
def test_without_a_sound_earlier_data_set_all_are_decoded(
    configure: Configure,
    settings: Settings,
    images: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    damage: str,
) -> None:
    before = prepare.run(configure(images), settings)
    store = open_store(settings.store)
    (rows,) = (settings.home / "index").glob("*.npy")
    (entry,) = (settings.home / "index").glob("*.json")
    if damage == "rows":
        rows.write_bytes(rows.read_bytes()[:100])
    elif damage == "data set gone":
        store.remove(f"datasets/{before.digest}")
    elif damage == "data set damaged":
        key = f"datasets/{before.digest}/main.image-00000.npy"
        store.write_bytes(key, store.read_bytes(key)[:-9] + b"overwritten"[:9])
    else:
        entry.write_text(entry.read_text().replace("Pillow", "Willow"))
    Image.new("RGB", (9, 9), "teal").save(images / "dog" / "new.png")
    with caplog.at_level(logging.INFO):
        after = prepare.run(configure(images), settings)
    assert "taken from there" not in caplog.text
    assert after.digest == from_scratch(configure(images), tmp_path)
