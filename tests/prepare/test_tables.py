"""Parquet files and data sets in the hub's layout: images, labels and captions by column, and what is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from ganpipe import prepare
from ganpipe.config import RunConfig
from ganpipe.prepare.manifest import SPLITS, Dataset
from ganpipe.settings import Settings
from ganpipe.storage import open_store

Configure = Callable[..., RunConfig]
Refused = Callable[[RunConfig], str]
CLASS_LABEL = {"names": ["cat", "dog"], "_type": "ClassLabel"}


def rows_of(images: Path) -> dict[str, list[Any]]:
    paths = sorted(images.rglob("*.png"))
    return {
        "image": [{"bytes": path.read_bytes(), "path": path.name} for path in paths],
        "label": [("cat", "dog").index(path.parent.name) for path in paths],
        "species": [path.parent.name for path in paths],
        "text": [f"a {path.parent.name} & числом {path.stem}" for path in paths],
    }


def write(path: Path, rows: dict[str, list[Any]], features: dict[str, Any] | None = None) -> Path:
    """A Parquet file; `features` as `datasets` writes them into the schema."""
    table = pa.table(rows)
    if features is not None:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(table, path, row_group_size=7)
    return path


def table_source(path: Path, **fields: Any) -> dict[str, Any]:
    return {"name": "parquet", "path": str(path), **fields}


def opened(config: RunConfig, settings: Settings) -> Dataset:
    return Dataset.open(open_store(settings.store), prepare.run(config, settings).digest)


def texts(dataset: Dataset, split: str) -> list[str]:
    captions = dataset.ragged("caption", split)
    return [bytes(captions[row]).decode() for row in range(len(captions))]


# --- Parquet -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("label", ["label", "species"])
@pytest.mark.parametrize("layout", ["struct", "binary", "two files"])
def test_parquet_is_prepared_as_the_folder_it_was_made_of(
    configure: Configure, settings: Settings, images: Path, tmp_path: Path, label: str, layout: str
) -> None:
    rows = rows_of(images)
    features = {"image": {"_type": "Image"}, "label": CLASS_LABEL}
    if layout == "two files":
        path = tmp_path / "parts"
        write(path / "a.parquet", {name: values[:17] for name, values in rows.items()}, features)
        write(path / "more" / "b.parquet", {name: values[17:] for name, values in rows.items()}, features)
    else:
        if layout == "binary":
            rows["image"] = [image["bytes"] for image in rows["image"]]
        path = write(tmp_path / "data.parquet", rows, features)
    ref = prepare.run(configure(table_source(path, label_column=label)), settings)
    assert ref == prepare.run(configure(images), settings)


def test_captions_stay_with_their_images(
    configure: Configure, settings: Settings, images: Path, tmp_path: Path
) -> None:
    path = write(tmp_path / "data.parquet", rows_of(images))
    plain = opened(configure(table_source(path, label_column="species")), settings)
    captioned = opened(configure(table_source(path, label_column="species", caption_column="text")), settings)
    assert captioned.digest != plain.digest
    column = captioned.spec()["caption"]
    assert (column.kind, column.dtype, column.ragged) == ("caption", "uint8", True)
    assert column.shape == (max(len(text.encode()) for text in rows_of(images)["text"]),)
    for split in SPLITS:
        np.testing.assert_array_equal(captioned.column("image", split), plain.column("image", split))
        species = [("cat", "dog")[label] for label in captioned.column("label", split)]
        assert [text.split()[1] for text in texts(captioned, split)] == species
    assert sorted(text for split in SPLITS for text in texts(captioned, split)) == sorted(rows_of(images)["text"])


def test_a_changed_caption_is_another_data_set(
    configure: Configure, settings: Settings, images: Path, tmp_path: Path
) -> None:
    rows = rows_of(images)
    config = configure(table_source(tmp_path / "data.parquet", caption_column="text"))
    digests = set()
    for text in ("one", "two"):
        rows["text"][3] = text
        write(tmp_path / "data.parquet", rows)
        digests.add(prepare.run(config, settings).digest)
    assert len(digests) == 2


@pytest.mark.parametrize(
    ("labels", "fields", "vocabulary"),
    [
        ([3, 10, 7, 3] * 10, {}, ("3", "7", "10")),
        ([0, 1] * 20, {"classes": ["cat", "dog", "owl"]}, ("cat", "dog", "owl")),
        (["dog", "cat"] * 20, {"classes": ["owl", "dog", "cat"]}, ("owl", "dog", "cat")),
    ],
)
def test_classes(
    configure: Configure,
    settings: Settings,
    images: Path,
    tmp_path: Path,
    labels: list[Any],
    fields: dict[str, Any],
    vocabulary: tuple[str, ...],
) -> None:
    path = write(tmp_path / "data.parquet", {**rows_of(images), "label": labels})
    dataset = opened(configure(table_source(path, label_column="label", **fields)), settings)
    assert dataset.spec()["label"].vocabulary == vocabulary
    counted = sorted(vocabulary[number] for split in SPLITS for number in dataset.column("label", split))
    expected = [fields["classes"][label] if fields and isinstance(label, int) else str(label) for label in labels]
    assert counted == sorted(expected)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"label_column": "kind"}, ["prepare.source.label_column", "no column `kind`", "image, label, species, text"]),
        ({"caption_column": "alt"}, ["prepare.source.caption_column", "no column `alt`"]),
        ({"image_column": "img"}, ["prepare.source.image_column", "no column `img`"]),
        ({"image_column": "text"}, ["prepare.source.image_column", "holds string"]),
        ({"caption_column": "label"}, ["prepare.source.caption_column `label`", "row 0 holds 0"]),
        ({"label_column": "image"}, ["prepare.source.label_column `image`", "names, or they are whole numbers"]),
        (
            {"label_column": "species", "classes": ["cat", "owl"]},
            ["row 20 has the label 'dog'", "20 of 40", "cat, owl", "prepare.source.classes"],
        ),
    ],
)
def test_columns_that_do_not_fit(
    configure: Configure, refused: Refused, images: Path, tmp_path: Path, fields: dict[str, Any], named: list[str]
) -> None:
    path = write(tmp_path / "data.parquet", rows_of(images))
    message = refused(configure(table_source(path, **fields)))
    for words in named:
        assert words in message
    assert str(path) in message


@pytest.mark.parametrize("label", [-1, 2])
def test_labels_outside_the_declared_classes(
    configure: Configure, refused: Refused, images: Path, tmp_path: Path, label: int
) -> None:
    rows = rows_of(images)
    rows["label"][5] = label
    path = write(tmp_path / "data.parquet", rows, {"label": CLASS_LABEL})
    message = refused(configure(table_source(path, label_column="label")))
    assert f"{path} row 5 has the label {label}, which is none of the 2 classes (cat, dog)" in message


@pytest.mark.parametrize("column", ["label", "text"])
def test_rows_without_a_value(
    configure: Configure, refused: Refused, images: Path, tmp_path: Path, column: str
) -> None:
    rows = rows_of(images)
    rows[column][7] = rows[column][9] = None
    path = write(tmp_path / "data.parquet", rows)
    message = refused(configure(table_source(path, label_column="label", caption_column="text")))
    assert f"`{column}`: 2 of 40 rows are without" in message
    assert f"{path} row 7" in message


def test_rows_without_an_image_are_named_like_unreadable_files(
    configure: Configure, refused: Refused, images: Path, tmp_path: Path
) -> None:
    rows = rows_of(images)
    rows["image"][3] = None
    rows["image"][4] = {"bytes": None, "path": str(next(images.rglob("*.png")))}
    path = write(tmp_path / "data.parquet", rows)
    message = refused(configure(table_source(path)))
    assert "2 of 40 images" in message
    assert f"{path} row 3: the file is empty" in message


def test_skipped_rows_keep_labels_and_captions_in_step(
    configure: Configure, settings: Settings, images: Path, tmp_path: Path
) -> None:
    rows = rows_of(images)
    rows["image"][0] = {"bytes": b"?", "path": None}
    path = write(tmp_path / "data.parquet", rows)
    source = table_source(path, label_column="species", caption_column="text")
    dataset = opened(configure(source, on_corrupt="skip"), settings)
    assert dataset.manifest.tables["main"].rows == 39
    for split in SPLITS:
        species = [("cat", "dog")[label] for label in dataset.column("label", split)]
        assert [text.split()[1] for text in texts(dataset, split)] == species


@pytest.mark.parametrize("share", [0, 0.3, 0.98])
def test_damaged_parquet(configure: Configure, refused: Refused, images: Path, tmp_path: Path, share: float) -> None:
    path = write(tmp_path / "data.parquet", rows_of(images))
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    assert f"{path} is cut off, damaged, or no Parquet" in refused(configure(table_source(path)))


def test_missing_parquet(configure: Configure, refused: Refused, images: Path, tmp_path: Path) -> None:
    assert "does not exist" in refused(configure(table_source(tmp_path / "data.parquet")))
    assert "no .parquet files" in refused(configure(table_source(images)))


# --- the hub's layout --------------------------------------------------------------------------------------------


@pytest.fixture
def repository(images: Path, tmp_path: Path) -> Path:
    """A data set laid out like one of the hub: a card with two subsets, Parquet parts by split."""
    root, rows = tmp_path / "animals", rows_of(images)
    features = {
        "image": {"_type": "Image"},
        "label": CLASS_LABEL,
        "species": {"dtype": "string", "_type": "Value"},
        "text": {"dtype": "string", "_type": "Value"},
    }
    for subset in ("small", "large"):
        for split, part in (("train", slice(0, 30)), ("test", slice(30, 40))):
            some = {name: values[part] for name, values in rows.items()}
            write(root / subset / f"{split}-00000-of-00001.parquet", some, features)
    (root / "README.md").write_text(
        "---\nconfigs:\n- config_name: small\n  data_files:\n  - {split: train, path: small/train-*}\n"
        "  - {split: test, path: small/test-*}\n- config_name: large\n  data_files: large/*\n---\n# Animals\n"
    )
    return root


def hub_source(folder: Path, **fields: Any) -> dict[str, Any]:
    return {"name": "hub", "id": str(folder), "label_column": "label", "subset": "small", **fields}


def test_the_hubs_layout(configure: Configure, settings: Settings, images: Path, repository: Path) -> None:
    ref = prepare.run(configure(hub_source(repository, split="train+test")), settings)
    assert ref == prepare.run(configure(images), settings)
    assert ref == prepare.run(configure(hub_source(repository, subset="large")), settings)
    train = opened(configure(hub_source(repository, caption_column="text")), settings)
    assert train.manifest.tables["main"].rows == 30
    assert all(text.startswith("a ") for text in texts(train, "train"))


def test_image_files_in_the_hubs_layout(configure: Configure, settings: Settings, images: Path, tmp_path: Path) -> None:
    """`datasets` reads class folders itself, by the same code path."""
    images.rename(tmp_path / "train")
    folder = tmp_path / "repository"
    folder.mkdir()
    (tmp_path / "train").rename(folder / "train")
    dataset = opened(configure(hub_source(folder, subset=None)), settings)
    assert dataset.spec()["label"].vocabulary == ("cat", "dog")
    assert dataset.digest == prepare.run(configure(folder / "train"), settings).digest


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"split": "validation"}, "validation"),
        ({"subset": "medium"}, "medium"),
        ({"revision": "main"}, "prepare.source.revision"),
        ({"label_column": "kind"}, "no column `kind`"),
        ({"id": "no/such/folder"}, "prepare.source.id"),
        ({"id": "./animals"}, "prepare.source.id"),
    ],
)
def test_what_the_hubs_layout_lacks(
    configure: Configure, refused: Refused, repository: Path, fields: dict[str, Any], named: str
) -> None:
    assert named in refused(configure({**hub_source(repository), **fields}))


def test_a_hub_that_cannot_be_reached_is_one_sentence(tmp_path: Path) -> None:
    program = """
import sys
from ganpipe.errors import WorkFailed
from ganpipe.prepare.sources import find
from ganpipe.sourceconfig import HubSource
try:
    find(HubSource(id="somebody/animals"))
except WorkFailed as error:
    print(error)
"""
    environment = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert "the hub cannot be asked for somebody/animals" in done.stdout
    assert "prepare.source.revision" in done.stdout
