"""Labels and captions of image files from metadata.jsonl and metadata.csv, in folders and archives."""

from __future__ import annotations

import csv
import json
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ganpipe import prepare
from ganpipe.config import RunConfig, load_config
from ganpipe.errors import InputError
from ganpipe.prepare.manifest import SPLITS, Dataset
from ganpipe.refs import DatasetRef
from ganpipe.settings import Settings
from ganpipe.storage import open_store

Configure = Callable[..., RunConfig]
Refused = Callable[[RunConfig], str]
Lines = list[dict[str, Any]]


def source(path: Path, **fields: Any) -> dict[str, Any]:
    return {"name": "folder", "path": str(path), **fields}


def lines_of(images: Path) -> Lines:
    """`kind` is the class; `text` says its name, with a comma, quotes and a newline."""
    return [
        {
            "file_name": path.relative_to(images).as_posix(),
            "kind": path.parent.name,
            "number": len(path.parent.name) + number % 2,
            "text": f'{path.parent.name}, "{path.stem}"\nñ',
        }
        for number, path in enumerate(sorted(images.rglob("*.png")))
    ]


def write(images: Path, lines: Lines, suffix: str = "jsonl") -> None:
    path = images / f"metadata.{suffix}"
    if suffix == "jsonl":
        path.write_text("\n".join(json.dumps(line) for line in lines) + "\n\n", encoding="utf-8")
        return
    with path.open("w", encoding="utf-8-sig", newline="") as stream:
        writer = csv.DictWriter(stream, lines[0])
        writer.writeheader()
        writer.writerows(lines)


def opened(ref: DatasetRef, settings: Settings) -> Dataset:
    return Dataset.open(open_store(settings.store), ref.digest)


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_labels_and_captions(configure: Configure, settings: Settings, images: Path, suffix: str) -> None:
    by_folder = prepare.run(configure(images), settings)
    write(images, lines_of(images), suffix)
    assert prepare.run(configure(source(images, label_column="kind")), settings) == by_folder
    dataset = opened(
        prepare.run(configure(source(images, label_column="number", caption_column="text")), settings), settings
    )
    assert dataset.spec()["label"].vocabulary == ("3", "4")
    for split in SPLITS:
        captions = dataset.ragged("caption", split)
        assert len(captions) == len(dataset.column("image", split))
        assert all(bytes(captions[row]).decode().endswith('"\nñ') for row in range(len(captions)))


def test_metadata_in_an_archive(configure: Configure, settings: Settings, images: Path, tmp_path: Path) -> None:
    write(images, lines_of(images))
    fields = {"label_column": "kind", "caption_column": "text"}
    ref = prepare.run(configure(source(images, **fields)), settings)
    packed = shutil.make_archive(str(tmp_path / "packed"), "zip", images.parent, images.name)
    assert prepare.run(configure({**source(Path(packed), **fields), "name": "archive"}), settings) == ref


def test_changed_metadata_is_noticed(configure: Configure, settings: Settings, images: Path) -> None:
    lines = lines_of(images)
    write(images, lines)
    config = configure(source(images, caption_column="text"))
    before = prepare.run(config, settings)
    lines[0]["text"] = "another"
    write(images, lines)
    assert prepare.run(config, settings).digest != before.digest


def test_names_are_matched_however_accents_are_composed(configure: Configure, settings: Settings, images: Path) -> None:
    path = next(images.rglob("*.png"))
    path.rename(path.with_name(unicodedata.normalize("NFD", "é.png")))
    lines = lines_of(images)
    for line in lines:
        line["file_name"] = "./" + unicodedata.normalize("NFC", line["file_name"])
    write(images, lines)
    prepare.run(configure(source(images, caption_column="text")), settings)


def test_metadata_that_nobody_asked_for_is_left_alone(configure: Configure, settings: Settings, images: Path) -> None:
    clean = prepare.run(configure(images), settings)
    (images / "metadata.jsonl").write_text("not read")
    assert prepare.run(configure(images), settings) == clean


def without_last(lines: Lines) -> Lines:
    return lines[:-1]


def with_another(lines: Lines) -> Lines:
    return [*lines, {**lines[0], "file_name": "../../etc/passwd.png"}]


def twice(lines: Lines) -> Lines:
    return [*lines, lines[0]]


def unlabelled(lines: Lines) -> Lines:
    return [{**lines[0], "kind": None}, *lines[1:]]


def unnamed(lines: Lines) -> Lines:
    return [{**line, "file_name": None, "name": line["file_name"]} for line in lines]


def cut_in_half(lines: Lines) -> Lines:
    return [lines[0], {**lines[1], "text": "half \ud83d"}, *lines[2:]]


def filled_up(lines: Lines) -> Lines:
    return [*lines[:-1], {**lines[-1], "text": "a dog\0\0"}]


def odd_class(lines: Lines) -> Lines:
    return [lines[0], {**lines[1], "kind": "c\udce9t"}, *lines[2:]]


@pytest.mark.parametrize(
    ("change", "fields", "named"),
    [
        (without_last, {}, "no line for 1 of 40 images: dog/039.png"),
        (with_another, {}, "names 1 images that are not there: ../../etc/passwd.png"),
        (twice, {}, "'cat/000.png' stands there twice"),
        (unlabelled, {}, "cat/000.png; fill them in"),
        (unnamed, {}, "stands there twice"),
        (list, {"label_column": "species"}, "metadata.jsonl has no column `species`"),
        (list, {"classes": ["cat", "owl"]}, "dog/001.png has the label 'dog', which is none of the 2 classes"),
        (list, {"caption_column": "number"}, "not a text"),
        (cut_in_half, {"caption_column": "text"}, r"cat/002.png holds 'half \ud83d', with U+D83D"),
        (filled_up, {"caption_column": "text"}, r"dog/039.png holds 'a dog\x00\x00', with U+0000"),
        (odd_class, {}, r"cat/002.png holds 'c\udce9t', with U+DCE9"),
    ],
)
def test_metadata_that_does_not_fit(
    configure: Configure,
    refused: Refused,
    images: Path,
    change: Callable[[Lines], Lines],
    fields: dict[str, Any],
    named: str,
) -> None:
    write(images, change(lines_of(images)))
    message = refused(configure(source(images, **{"label_column": "kind", **fields})))
    assert named in message
    assert str(images) in message


@pytest.mark.parametrize(
    ("labels", "classes", "vocabulary"),
    [
        (["0", " 1"], None, ("0", "1")),
        (["10", "9"], None, ("9", "10")),
        (["0", "1"], ["cat", "dog"], ("cat", "dog")),
        (["7", "3"], ["7", "3"], ("7", "3")),
        (["3", "three"], None, ("3", "three")),
        (["1_0", "1_1"], None, ("1_0", "1_1")),
        (["nan", "pita"], None, ("nan", "pita")),
        (["1.5", "2.0"], ["1.5", "2.0"], ("1.5", "2.0")),
    ],
)
def test_labels_of_a_csv_are_numbers_or_names(
    configure: Configure,
    settings: Settings,
    images: Path,
    labels: list[str],
    classes: list[str] | None,
    vocabulary: tuple[str, ...],
) -> None:
    """Of either class, half of the images."""
    write(images, [{**line, "kind": labels[line["kind"] == "dog"]} for line in lines_of(images)], "csv")
    dataset = opened(prepare.run(configure(source(images, label_column="kind", classes=classes)), settings), settings)
    assert dataset.spec()["label"].vocabulary == vocabulary
    assert sorted(np.concatenate([dataset.column("label", split) for split in SPLITS])) == [0] * 20 + [1] * 20


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
@pytest.mark.parametrize(
    ("label", "classes", "named"),
    [
        (-1, None, "dog/001.png has the label -1, which is none of numbers that count from 0; 1 of 40 rows"),
        (-1, ["cat", "dog"], "dog/001.png has the label -1, which is none of the 2 classes (cat, dog); 1 of 40 rows"),
        (2, ["cat", "dog"], "dog/001.png has the label 2, which is none of the 2 classes (cat, dog); 1 of 40 rows"),
        (1.5, None, "dog/001.png holds 1.5; labels are names, or they are whole numbers"),
        (1.5, ["cat", "dog"], "dog/001.png holds 1.5; labels are names, or they are whole numbers"),
        (float("nan"), None, "dog/001.png holds nan; labels are names, or they are whole numbers"),
        ("horse", ["cat", "dog"], "cat/000.png holds 0 and {images}/dog/001.png holds 'horse'; labels are names"),
    ],
)
def test_a_label_that_is_no_whole_number_among_such(
    configure: Configure,
    refused: Refused,
    images: Path,
    label: Any,
    classes: list[str] | None,
    named: str,
    suffix: str,
) -> None:
    lines = [{**line, "kind": number % 2} for number, line in enumerate(lines_of(images))]
    odd = next(line for line in lines if line["file_name"] == "dog/001.png")
    odd["kind"] = label
    write(images, lines, suffix)
    message = refused(configure(source(images, label_column="kind", classes=classes)))
    assert named.format(images=images) in message


def test_a_csv_of_names_with_a_number_that_is_none(configure: Configure, refused: Refused, images: Path) -> None:
    lines = lines_of(images)
    lines[3]["kind"] = "5"
    write(images, lines, "csv")
    message = refused(configure(source(images, label_column="kind", classes=["cat", "dog"])))
    assert "cat/006.png has the label '5', which is none of the 2 classes (cat, dog); 1 of 40 rows" in message


def test_missing_double_and_broken_metadata(configure: Configure, refused: Refused, images: Path) -> None:
    config = configure(source(images, caption_column="text"))
    assert "no metadata.jsonl or metadata.csv" in refused(config)
    (images / "metadata.jsonl").write_text('{"file_name": "a.png"}\n{"file_name"')
    message = refused(config)
    assert "metadata.jsonl cannot be read: line 2 is no JSON" in message
    (images / "metadata.jsonl").write_bytes(b"\xff\xfe\xff")
    assert "metadata.jsonl cannot be read" in refused(config)
    (images / "metadata.csv").write_text("file_name,text\n")
    assert "both metadata.jsonl and metadata.csv" in refused(config)


def test_folders_outside_the_declared_classes(
    configure: Configure, settings: Settings, refused: Refused, images: Path
) -> None:
    message = refused(configure(source(images, classes=["cat", "owl"])))
    assert "prepare.source.labels" in message
    assert "'dog', which is none of the 2 classes (cat, owl); 20 of 40" in message
    ref = prepare.run(configure(source(images, classes=["owl", "dog", "cat"])), settings)
    dataset = opened(ref, settings)
    assert dataset.spec()["label"].vocabulary == ("owl", "dog", "cat")
    assert set(np.concatenate([dataset.column("label", split) for split in SPLITS])) == {1, 2}


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"label_column": "kind", "labels": "subfolders"}, "prepare.source.labels is `subfolders`"),
        ({"labels": "none", "classes": ["cat"]}, "prepare.source.classes is given, but no labels"),
        ({"classes": ["cat", "cat"]}, "'cat' stands there twice"),
        ({"classes": []}, "prepare.source.classes"),
    ],
)
def test_fields_that_contradict_each_other(
    configure: Configure, images: Path, fields: dict[str, Any], named: str
) -> None:
    with pytest.raises(InputError, match=named):
        load_config(configure(images), [f"prepare.source={json.dumps(source(images, **fields))}"])
