"""What is refused, by which words, and that nothing is published then."""

from __future__ import annotations

import logging
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from ganpipe import prepare
from ganpipe.config import RunConfig
from ganpipe.errors import InputError
from ganpipe.prepare.manifest import Dataset
from ganpipe.settings import Settings
from ganpipe.storage import open_store

Configure = Callable[..., RunConfig]
Refused = Callable[[RunConfig], str]


def test_unreadable_files_are_all_named_with_reasons(configure: Configure, refused: Refused, images: Path) -> None:
    truncated, empty, text = images / "cat" / "cut.png", images / "dog" / "empty.jpg", images / "dog" / "text.webp"
    good = next(images.rglob("*.png")).read_bytes()
    truncated.write_bytes(good[: len(good) // 2])
    empty.write_bytes(b"")
    text.write_bytes(b"no image at all")
    message = refused(configure(images))
    assert "3 of 43 images" in message
    assert "prepare.on_corrupt" in message
    lines = {line.split(": ", 1)[0].strip(): line for line in message.splitlines()}
    assert "truncated" in lines[str(truncated)].lower()
    assert "empty" in lines[str(empty)]
    assert "no image" in lines[str(text)]


def test_only_so_many_are_printed(configure: Configure, refused: Refused, images: Path) -> None:
    for number in range(33):
        (images / "cat" / f"bad-{number:02d}.png").write_bytes(b"?")
    message = refused(configure(images))
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


def test_nothing_left_after_skipping(configure: Configure, refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.png").write_bytes(b"?")
    assert "none of its images can be read" in refused(configure(tmp_path / "bad", on_corrupt="skip"))


@pytest.mark.parametrize("content", [(), ("notes.txt", "table.csv", ".hidden.png")])
def test_no_images(configure: Configure, refused: Refused, tmp_path: Path, content: tuple[str, ...]) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    for name in content:
        (folder / name).write_bytes(b"x")
    message = refused(configure(folder))
    assert str(folder) in message
    assert ".jpg" in message
    assert (".txt: 1" in message) == bool(content)


def test_missing_folder_or_a_file_instead(configure: Configure, refused: Refused, tmp_path: Path) -> None:
    missing = refused(configure(tmp_path / "missing"))
    assert "prepare.source.path" in missing
    assert "does not exist" in missing
    (tmp_path / "file").write_bytes(b"")
    assert "is not a folder" in refused(configure(tmp_path / "file"))


def test_subfolders_demanded_names_the_file_at_the_top(configure: Configure, refused: Refused, images: Path) -> None:
    shutil.copy(next(images.rglob("*.png")), images / "at-top.png")
    message = refused(configure(images, labels="subfolders"))
    assert str(images / "at-top.png") in message
    assert "prepare.source.labels" in message


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
        ({"test_fraction": 0.001}, "prepare.test_fraction (0.001)"),
    ],
)
def test_too_few(configure: Configure, refused: Refused, images: Path, fields: dict[str, object], named: str) -> None:
    assert named in refused(configure(images, **fields))


def test_both_sides_of_a_score_need_enough_images(
    configure: Configure, settings: Settings, refused: Refused, images: Path
) -> None:
    many = {"extractor": "inception", "num_samples": 2049}
    assert "the number of training images is" in refused(configure(images, evaluate=many))
    prepare.run(configure(images, evaluate={**many, "allow_few": True}), settings)


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


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_decompression_bomb_is_named_not_decoded(configure: Configure, refused: Refused, images: Path) -> None:
    bomb = images / "cat" / "bomb.png"
    write_bilevel_png(bomb, 10_000)
    assert bomb.stat().st_size < 20_000
    message = refused(configure(images))
    assert f"{bomb}: 10000 x 10000 pixels are more than" in message


def test_a_file_too_large_to_be_an_image_is_not_read(configure: Configure, refused: Refused, images: Path) -> None:
    with (images / "cat" / "huge.png").open("wb") as stream:
        stream.truncate(1 << 40)
    assert f"{images / 'cat' / 'huge.png'}: the file has more than 1 GiB" in refused(configure(images))


def write_bilevel_png(path: Path, side: int) -> None:
    """A black PNG of one bit per pixel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(bytes(side * (1 + side // 8)), 9))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + data + chunk(b"IEND", b""))
