"""The stage on real files: identity, splits, labels, what is refused, and what is not done twice."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ganpipe import prepare
from ganpipe.config import RunConfig
from ganpipe.errors import InputError
from ganpipe.prepare.decode import decode
from ganpipe.prepare.manifest import SPLITS, Dataset
from ganpipe.prepare.shards import write_shards
from ganpipe.prepare.sources import find
from ganpipe.refs import DatasetRef
from ganpipe.settings import Settings
from ganpipe.storage import open_store

Configure = Callable[..., RunConfig]
SaveImages = Callable[..., list[Path]]


def published(settings: Settings) -> list[str]:
    return [item.key for item in open_store(settings.store).list()]


def opened(ref: DatasetRef, settings: Settings) -> Dataset:
    return Dataset.open(open_store(settings.store), ref.digest)


def row_hashes(dataset: Dataset, split: str) -> list[str]:
    return [hashlib.sha256(row.tobytes()).hexdigest() for row in dataset.column("image", split)]


def refused(config: RunConfig, settings: Settings) -> str:
    """The message of the InputError, after which nothing is published and no work is left behind."""
    with pytest.raises(InputError) as error:
        prepare.run(config, settings)
    assert error.value.exit_code == 2
    assert published(settings) == []
    assert not list((settings.home / "work").glob("*"))
    return str(error.value)


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


def test_subfolders_demanded_names_the_file_at_the_top(configure: Configure, settings: Settings, images: Path) -> None:
    shutil.copy(next(images.rglob("*.png")), images / "at-top.png")
    message = refused(configure(images, labels="subfolders"), settings)
    assert str(images / "at-top.png") in message
    assert "prepare.source.labels" in message


def test_several_shards_read_as_one(configure: Configure, settings: Settings, images: Path, tmp_path: Path) -> None:
    config = configure(images)
    whole = opened(prepare.run(config, settings), settings)
    rows = decode(find(config.prepare.source).load(), config.prepare, tmp_path / "pixels")
    manifest = write_shards(rows, config.prepare, tmp_path, shard_bytes=7 * 3 * 8 * 8)
    parts = Dataset(manifest, {path.name: path for path in tmp_path.glob("*.npy")})
    assert manifest.digest == whole.digest
    assert parts.spec()["image"].shards == tuple(f"main.image-{number:05d}.npy" for number in range(6))
    for split in SPLITS:
        for column in ("image", "label"):
            np.testing.assert_array_equal(parts.column(column, split), whole.column(column, split))


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


# --- prepared already --------------------------------------------------------------------------------------------


def modification_times(settings: Settings) -> dict[str, int]:
    root = open_store(settings.store).root  # type: ignore[attr-defined]
    return {item: (root / item).stat().st_mtime_ns for item in published(settings)}


def test_prepared_already_takes_no_second_and_loads_no_library(
    configure: Configure, settings: Settings, images: Path
) -> None:
    ref = prepare.run(configure(images), settings)
    before = modification_times(settings)
    program = """
import sys, time
from ganpipe import prepare
from ganpipe.config import EvaluateConfig, PrepareConfig, RunConfig, TrainConfig
from ganpipe.settings import Settings
config = RunConfig.model_construct(
    prepare=PrepareConfig.model_validate_json(sys.argv[1]),
    train=TrainConfig(batch=4, stop={"kimg": 1}),
    evaluate=EvaluateConfig(extractor="inception", allow_few=True),
)
start = time.perf_counter()
print(prepare.run(config, Settings.model_validate_json(sys.argv[2])).digest)
assert time.perf_counter() - start < 1
assert not {"torch", "datasets", "PIL", "sklearn"} & set(sys.modules)
"""
    arguments = [configure(images).prepare.model_dump_json(), settings.model_dump_json()]
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ref.digest
    assert modification_times(settings) == before


def test_two_thousand_files_are_recognised_in_a_moment(
    configure: Configure, settings: Settings, tmp_path: Path
) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    image = tmp_path / "one.png"
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(image)
    for number in range(2000):
        shutil.copyfile(image, folder / f"{number}.png")
    for number in range(40):  # one image alone would fall into one split
        Image.fromarray(np.full((8, 8), number, np.uint8)).save(folder / f"grey-{number}.png")
    ref = prepare.run(configure(folder), settings)
    start = time.perf_counter()
    assert prepare.run(configure(folder), settings) == ref
    assert time.perf_counter() - start < 0.5


def test_changed_bytes_at_equal_size_and_date_are_noticed(
    configure: Configure, settings: Settings, images: Path
) -> None:
    before = prepare.run(configure(images), settings)
    path = next(images.rglob("*.png"))
    stat = path.stat()
    rng = np.random.default_rng(9)
    while True:  # another image that compresses to just the same size
        path.unlink()
        Image.fromarray(rng.integers(0, 256, (12, 10, 3), dtype=np.uint8)).save(path)
        if path.stat().st_size == stat.st_size:
            break
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert path.stat().st_mtime_ns == stat.st_mtime_ns
    assert prepare.run(configure(images), settings).digest != before.digest


def test_a_file_overwritten_in_place_right_afterwards_is_noticed(
    configure: Configure, settings: Settings, images: Path
) -> None:
    path = next(images.rglob("*.png"))
    with Image.open(path) as image:
        pixels = np.asarray(image)
    path = path.with_suffix(".bmp")
    Image.fromarray(pixels).save(path)
    before = prepare.run(configure(images), settings)
    stat = path.stat()
    with path.open("r+b") as stream:
        stream.seek(-40, os.SEEK_END)
        stream.write(bytes(40))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert prepare.run(configure(images), settings).digest != before.digest


def test_without_the_data_in_the_store_it_is_prepared_again(
    configure: Configure, settings: Settings, images: Path
) -> None:
    ref = prepare.run(configure(images), settings)
    open_store(settings.store).remove(f"datasets/{ref.digest}")
    assert prepare.run(configure(images), settings) == ref
    assert opened(ref, settings).digest == ref.digest


def test_a_damaged_index_is_ignored(configure: Configure, settings: Settings, images: Path) -> None:
    ref = prepare.run(configure(images), settings)
    (entry,) = (settings.home / "index").iterdir()
    for damaged in (b"", b"{", b'{"format": 2}', b"\xff\xfe"):
        entry.write_bytes(damaged)
        assert prepare.run(configure(images), settings) == ref
    assert b"stats_sha256" in entry.read_bytes()


def test_prepared_data_is_still_checked_against_the_run(configure: Configure, settings: Settings, images: Path) -> None:
    prepare.run(configure(images), settings)
    with pytest.raises(InputError, match=r"train\.batch is 64"):
        prepare.run(configure(images, batch=64), settings)


# --- what is refused ---------------------------------------------------------------------------------------------


def test_unreadable_files_are_all_named_with_reasons(configure: Configure, settings: Settings, images: Path) -> None:
    truncated, empty, text = images / "cat" / "cut.png", images / "dog" / "empty.jpg", images / "dog" / "text.webp"
    good = next(images.rglob("*.png")).read_bytes()
    truncated.write_bytes(good[: len(good) // 2])
    empty.write_bytes(b"")
    text.write_bytes(b"no image at all")
    message = refused(configure(images), settings)
    assert "3 of 43 images" in message
    assert "prepare.on_corrupt" in message
    lines = {line.split(": ", 1)[0].strip(): line for line in message.splitlines()}
    assert "truncated" in lines[str(truncated)].lower()
    assert "empty" in lines[str(empty)]
    assert "no image" in lines[str(text)]


def test_only_so_many_are_printed(configure: Configure, settings: Settings, images: Path) -> None:
    for number in range(33):
        (images / "cat" / f"bad-{number:02d}.png").write_bytes(b"?")
    message = refused(configure(images), settings)
    assert "bad-19.png" in message
    assert "bad-20.png" not in message
    assert "... and 13 more" in message


def test_skipped_files_are_counted_and_change_nothing(
    configure: Configure, settings: Settings, images: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clean = prepare.run(configure(images), settings)
    (images / "cat" / "bad.png").write_bytes(b"?")
    with caplog.at_level(logging.INFO):
        assert prepare.run(configure(images, on_corrupt="skip"), settings) == clean
    assert "left out 1 unreadable" in caplog.text
    assert str(images / "cat" / "bad.png") in caplog.text
    caplog.clear()
    with caplog.at_level(logging.INFO):
        assert prepare.run(configure(images, on_corrupt="skip"), settings) == clean
    assert "already prepared" in caplog.text
    assert "1 unreadable ones left out" in caplog.text
    with pytest.raises(InputError, match=r"bad\.png"):
        prepare.run(configure(images), settings)


def test_nothing_left_after_skipping(configure: Configure, settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.png").write_bytes(b"?")
    assert "none of its images can be read" in refused(configure(tmp_path / "bad", on_corrupt="skip"), settings)


@pytest.mark.parametrize("content", [(), ("notes.txt", "table.csv", ".hidden.png")])
def test_no_images(configure: Configure, settings: Settings, tmp_path: Path, content: tuple[str, ...]) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    for name in content:
        (folder / name).write_bytes(b"x")
    message = refused(configure(folder), settings)
    assert str(folder) in message
    assert ".jpg" in message
    assert (".txt: 1" in message) == bool(content)


def test_missing_folder_or_a_file_instead(configure: Configure, settings: Settings, tmp_path: Path) -> None:
    missing = refused(configure(tmp_path / "missing"), settings)
    assert "prepare.source.path" in missing
    assert "does not exist" in missing
    (tmp_path / "file").write_bytes(b"")
    assert "is not a folder" in refused(configure(tmp_path / "file"), settings)


def test_other_files_hidden_ones_and_links_out_are_left_out(
    configure: Configure, settings: Settings, images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clean = prepare.run(configure(images), settings)
    some = next(images.rglob("*.png"))
    outside = tmp_path / "outside"
    outside.mkdir()
    shutil.copy(some, outside / "out.png")
    (images / "cat" / "link.png").symlink_to(outside / "out.png")
    (images / "cat" / "dangling.png").symlink_to(outside / "nowhere.png")
    (images / "linked-folder").symlink_to(outside)
    (images / "loop").symlink_to(images)
    (images / "README.md").write_text("text")
    (images / "cat" / "._hidden.png").write_bytes(b"?")
    (images / ".cache").mkdir()
    (images / ".cache" / "thumb.png").write_bytes(b"?")
    with caplog.at_level(logging.INFO):
        assert prepare.run(configure(images), settings) == clean
    assert ".md: 1" in caplog.text
    assert "links to elsewhere" in caplog.text
    (images / "cat" / "inside.png").symlink_to(some)
    assert sum(prepare.run(configure(images), settings).rows.values()) == 41


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"batch": 39}, "train.batch is 39"),
        ({"evaluate": {"extractor": "inception"}}, "evaluate.num_samples"),
        ({"evaluate": {"extractor": "inception", "num_samples": 2048}}, "evaluate.num_samples is 2,048"),
        ({"evaluate": {"extractor": "domain", "allow_few": True}}, "prepare.extractor_fraction 0.0"),
        ({"evaluate": {"allow_few": True}, "extractor_fraction": 0.4}, "64 are needed"),
        ({"test_fraction": 0.001}, "prepare.test_fraction 0.001"),
    ],
)
def test_too_few(configure: Configure, settings: Settings, images: Path, fields: dict[str, object], named: str) -> None:
    assert named in refused(configure(images, **fields), settings)


def test_enough_generated_samples_are_enough(configure: Configure, settings: Settings, images: Path) -> None:
    prepare.run(configure(images, evaluate={"extractor": "inception", "num_samples": 2049}), settings)


def test_home_that_cannot_be_written(configure: Configure, settings: Settings, images: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError, match="GANPIPE_HOME"):
        prepare.run(configure(images), settings.model_copy(update={"home": tmp_path / "file" / "home"}))


def test_a_later_format_of_data_is_refused(configure: Configure, settings: Settings, images: Path) -> None:
    ref = prepare.run(configure(images), settings)
    store = open_store(settings.store)
    key = f"datasets/{ref.digest}/manifest.json"
    store.write_bytes(key, store.read_bytes(key).replace(b'"format": 1', b'"format": 2'))
    with pytest.raises(InputError, match="has format 2; this version reads format 1"):
        Dataset.open(store, ref.digest)
    with pytest.raises(InputError, match="ganpipe prepare"):
        Dataset.open(store, "0" * 32)


def test_importing_the_stage_is_cheap() -> None:
    program = "import sys, ganpipe.prepare; assert not {'torch', 'datasets', 'PIL', 'sklearn'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)
