"""Labels and captions: from a metadata file, the names of folders or a table's columns to numbers and texts."""

from __future__ import annotations

import csv
import io
import json
import re
import reprlib
import unicodedata
from collections.abc import Callable, Collection, Sequence
from typing import Any

from ..errors import InputError
from ..sourceconfig import ColumnsSource, FilesSource
from .found import Columns

METADATA = ("metadata.jsonl", "metadata.csv")
FILE_NAME = "file_name"
NAMED = 5
NO_TEXT = re.compile("[\0\ud800-\udfff]")
"""Characters that end a text, or of which there is no UTF-8."""

Where = Callable[[int], str]
"""From the number of a row to words that find it."""


def columns_of_rows(
    labels: Sequence[Any] | None,
    captions: Sequence[Any] | None,
    source: ColumnsSource,
    where: Where,
    classes: Sequence[str] | None = None,
) -> Columns:
    """Checked columns, as numbers and texts.

    `labels` are names of classes or whole numbers; `classes` the names that the data itself declares for them.
    Raises InputError for a row without label or caption, or with characters that no text holds, and for labels outside
    the classes.
    """
    numbers, names = (None, None) if labels is None else _numbered(labels, source.classes or classes, source, where)
    texts = None
    if captions is not None:
        field = f"prepare.source.caption_column `{source.caption_column}`"
        captions = [None if isinstance(text, str) and not text.strip() else text for text in captions]
        _refuse_missing(captions, field, "a caption", where)
        if (odd := _first_odd(captions, str)) is not None:
            raise InputError(
                f"{field}: {where(odd)} holds {reprlib.repr(captions[odd])}, not a text; name a column of texts"
            )
        _refuse_no_text(captions, field, where)
        texts = list(captions)
    return Columns(numbers, names, texts)


def _numbered(
    labels: Sequence[Any], declared: Sequence[str] | None, source: ColumnsSource, where: Where
) -> tuple[list[int], tuple[str, ...]]:
    """Class number of every row, and the names of the classes."""
    field = f"prepare.source.label_column `{source.label_column}`" if source.label_column else "prepare.source.labels"
    _refuse_missing(labels, field, "a label", where)
    _refuse_no_text(labels, field, where)
    mixed = [row for kind in (str, int) if (row := _first_odd(labels, kind)) is not None]
    if len(mixed) == 2:
        odd = _first_odd(labels, (str, int))
        blamed = mixed if odd is None else [odd]
        held = " and ".join(f"{where(row)} holds {reprlib.repr(labels[row])}" for row in blamed)
        raise InputError(f"{field}: {held}; labels are names, or they are whole numbers")
    found = set(labels)
    outside = {label for label in found if isinstance(label, int) and label < 0}
    if declared is None:
        ordered = sorted(found)
        names, numbers = tuple(map(str, ordered)), {label: number for number, label in enumerate(ordered)}
    else:
        names = tuple(declared)
        numbers = {name: number for number, name in enumerate(names)} | {number: number for number in range(len(names))}
        outside |= found - numbers.keys()
    if outside:
        row = next(row for row, label in enumerate(labels) if label in outside)
        count = sum(label in outside for label in labels)
        which = f"the {len(names)} classes ({_listed(names)})" if declared is not None else "numbers that count from 0"
        raise InputError(
            f"{field}: {where(row)} has the label {labels[row]!r}, which is none of {which}; {count:,} of "
            f"{len(labels):,} rows are so. Mend or remove them, or name all classes in prepare.source.classes"
        )
    return [numbers[label] for label in labels], names


def _first_odd(values: Sequence[Any], kind: type | tuple[type, ...]) -> int | None:
    return next((row for row, value in enumerate(values) if not isinstance(value, kind)), None)


def _refuse_missing(values: Sequence[Any], field: str, what: str, where: Where) -> None:
    missing = [row for row, value in enumerate(values) if value is None]
    if missing:
        raise InputError(
            f"{field}: {len(missing):,} of {len(values):,} rows are without {what}, the first is {where(missing[0])}; "
            "fill them in, or leave these rows out"
        )


def _refuse_no_text(values: Sequence[Any], field: str, where: Where) -> None:
    for row, value in enumerate(values):
        if isinstance(value, str) and (found := NO_TEXT.search(value)):
            raise InputError(
                f"{field}: {where(row)} holds {reprlib.repr(value)}, with U+{ord(found[0]):04X}, which no text "
                "has; leave it out, or write it anew as UTF-8"
            )


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(map(str, names[:NAMED]))
    return f"{shown}, ... and {len(names) - NAMED:,} more" if len(names) > NAMED else shown


# --- image files -------------------------------------------------------------------------------------------------


def columns_of_files(
    names: Sequence[str], source: FilesSource, place: str, metadata: Collection[str], read: Callable[[str], bytes]
) -> Columns:
    """Columns of image files with such slash-separated names, by sub-folder and by metadata file.

    `metadata` are those of METADATA that lie beside the topmost files, `read` gives their bytes.
    Raises InputError when labels or captions are asked for that are not there for each file.
    """
    rows: list[dict[str, Any]] = []
    if source.label_column or source.caption_column:
        rows = _metadata_rows(names, source, place, metadata, read)
    labels = None
    if source.label_column:
        labels = [row.get(source.label_column) for row in rows]
        if "metadata.csv" in metadata:
            labels = _typed(labels, source.classes)
    elif source.labels != "none" and _in_subfolders(names, source, place):
        labels = [name.split("/", 1)[0] for name in names]
    captions = [row.get(source.caption_column) for row in rows] if source.caption_column else None
    return columns_of_rows(labels, captions, source, lambda row: f"{place}/{names[row]}")


def _typed(fields: list[Any], classes: Sequence[str] | None) -> list[Any]:
    """Labels of a CSV, which has no types: names where some are those of declared classes, or, without such, where
    some are no numbers."""
    found = set(fields) - {None}
    numbers = {field: number for field in found if (number := _number(field)) is not None}
    named = found & set(classes) if classes else found - numbers.keys()
    return fields if named else [numbers.get(field, field) for field in fields]


def _number(field: str) -> float | None:
    """The int or float that is written there."""
    try:
        if re.fullmatch(r"\s*-?\d+\s*", field, re.ASCII):
            return int(field)
        return float(field) if field.isascii() and "_" not in field else None
    except ValueError:
        return None


def _in_subfolders(names: Sequence[str], source: FilesSource, place: str) -> bool:
    at_top = next((name for name in names if "/" not in name), None)
    if at_top is not None and (source.labels == "subfolders" or source.classes):
        field = "labels is `subfolders`" if source.labels == "subfolders" else "classes is given"
        raise InputError(
            f"prepare.source.{field}, but {place}/{at_top} lies in no sub-folder; "
            "move it into its class's folder, or set prepare.source.labels to `none`"
        )
    return at_top is None


def _metadata_rows(
    names: Sequence[str], source: FilesSource, place: str, metadata: Collection[str], read: Callable[[str], bytes]
) -> list[dict[str, Any]]:
    """The metadata of each file."""
    wanted = [column for column in (source.label_column, source.caption_column) if column]
    if len(metadata) != 1:
        problem = "has both metadata.jsonl and metadata.csv" if metadata else "has no metadata.jsonl or metadata.csv"
        raise InputError(
            f"{place} {problem}, where prepare.source's column{'s' * (len(wanted) > 1)} {_listed(wanted)} would stand; "
            "leave one of them there, with the column file_name for the images' paths"
        )
    (name,) = metadata
    file = f"{place}/{name}"
    try:
        rows = (_json_lines if name.endswith(".jsonl") else _csv_lines)(read(name).decode("utf-8-sig"))
    except (ValueError, csv.Error) as error:
        raise InputError(f"{file} cannot be read: {error}; mend it") from error
    held = sorted({column for row in rows for column in row})
    for column in (FILE_NAME, *wanted):
        if column not in held:
            raise InputError(f"{file} has no column `{column}`; its columns are {_listed(held) or 'none'}")
    by_name: dict[str, dict[str, Any]] = {}
    for row in rows:
        if (key := _plain(row.get(FILE_NAME))) in by_name:
            raise InputError(f"{file}: {row.get(FILE_NAME)!r} stands there twice; leave one line for each image")
        by_name[key] = row
    without = [image for image in names if _plain(image) not in by_name]
    if without:
        raise InputError(
            f"{file} has no line for {len(without):,} of {len(names):,} images: {_listed(without)}; add lines, or "
            "remove the images"
        )
    if unknown := by_name.keys() - {_plain(image) for image in names}:
        raise InputError(
            f"{file} names {len(unknown):,} images that are not there: {_listed(sorted(unknown))}; "
            "add the images, or remove the lines"
        )
    return [by_name[_plain(image)] for image in names]


def _plain(name: object) -> str:
    """One spelling per name: file systems differ in how they compose accents."""
    return unicodedata.normalize("NFC", str(name)).removeprefix("./")


def _json_lines(text: str) -> list[dict[str, Any]]:
    rows = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                row = json.loads(line)
            except ValueError as error:
                raise ValueError(f"line {number} is no JSON ({error})") from error
            if not isinstance(row, dict):
                raise ValueError(f"line {number} is no JSON object")
            rows.append(row)
    return rows


def _csv_lines(text: str) -> list[dict[str, Any]]:
    """An empty field is a missing value."""
    return [
        {column: value or None for column, value in row.items() if column is not None}
        for row in csv.DictReader(io.StringIO(text, newline=""), strict=True)
    ]
