"""Tables with a column of encoded images: Parquet files, and whatever `datasets` loads from the Hugging Face hub."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError, WorkFailed
from ..sourceconfig import HubSource, ParquetSource, TableSource
from .columns import columns_of_rows
from .found import Contents, Found, Picture, Stat

if TYPE_CHECKING:
    import pyarrow as pa

ROWS_AT_A_TIME = 64


@dataclass(frozen=True)
class _Part:
    """Some of a table's rows."""

    place: str
    """For messages: a file, or a split."""
    rows: int
    schema: pa.Schema
    read: Callable[[list[str]], Iterator[pa.RecordBatch | pa.Table]]
    """Some columns of all rows, a few at a time."""
    files: bool = False
    """Whether images may be local files that only their paths stand for, as `datasets` unpacks them."""


# --- Parquet -----------------------------------------------------------------------------------------------------


def parquet(source: ParquetSource) -> Found:
    """A Parquet file, or all below a folder."""
    path = source.path.expanduser().resolve()
    if not path.exists():
        raise InputError(f"prepare.source.path: {source.path} does not exist ({path}); name a .parquet file or folder")
    stats = _stats(path, {".parquet"}) if path.is_dir() else (Stat.of(path.name, path.stat()),)
    if not stats:
        raise InputError(f"prepare.source.path: no .parquet files in {path}")
    files = [path / stat.name for stat in stats] if path.is_dir() else [path]
    return Found(str(path), stats, lambda work: _contents([_parquet_part(file) for file in files], source))


def _parquet_part(file: Path) -> _Part:
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

    def unreadable(error: Exception) -> InputError:
        reason = str(error).split("\n", 1)[0]
        return InputError(f"prepare.source.path: {file} is cut off, damaged, or no Parquet ({reason}); make it anew")

    def read(columns: list[str]) -> Iterator[pa.RecordBatch]:
        try:
            with ParquetFile(file) as opened:
                yield from opened.iter_batches(ROWS_AT_A_TIME, columns=columns)
        except (pa.ArrowException, OSError) as error:
            raise unreadable(error) from error

    try:
        with ParquetFile(file) as opened:
            return _Part(str(file), opened.metadata.num_rows, opened.schema_arrow, read)
    except (pa.ArrowException, OSError) as error:
        raise unreadable(error) from error


# --- Hugging Face hub --------------------------------------------------------------------------------------------


def hub(source: HubSource) -> Found:
    """A data set of the hub at one commit, or a local folder laid out like one."""
    folder = Path(source.id).expanduser()
    if folder.is_dir():
        if source.revision is not None:
            raise InputError("prepare.source.revision: a local folder has no revisions; leave it out")
        path, stats = str(folder.resolve()), _stats(folder.resolve(), None)
        return Found(path, stats, lambda work: _contents([_hub_part(path, None, source, work)], source))
    if not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", source.id):
        raise InputError(f"prepare.source.id: {source.id!r} is no folder here and no `owner/name` of the hub")
    commit = _commit(source)
    place = f"{source.id} at {commit[:12]}"
    return Found(
        place,
        (Stat(f"{source.id}@{commit}", 0, 0, 0),),
        lambda work: _contents([_hub_part(source.id, commit, source, work)], source),
    )


def _commit(source: HubSource) -> str:
    """What the revision points to now. A whole commit is taken as it is, without asking the hub."""
    if source.revision is not None and re.fullmatch("[0-9a-f]{40}", source.revision):
        return source.revision
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    try:
        commit = HfApi().dataset_info(source.id, revision=source.revision).sha
    except RepositoryNotFoundError as error:
        raise InputError(
            f"prepare.source.id: the hub has no data set {source.id!r}, or not for you; mend the name, or set HF_TOKEN"
        ) from error
    except RevisionNotFoundError as error:
        raise InputError(f"prepare.source.revision: {source.id} has no {source.revision!r}") from error
    except Exception as error:  # the error of whichever library huggingface_hub speaks HTTP with
        raise WorkFailed(
            f"the hub cannot be asked for {source.id}: {_first_line(error)}. Try again later, or set "
            "prepare.source.revision to a whole commit that is in the local cache"
        ) from error
    assert commit is not None
    return commit


def _hub_part(path: str, commit: str | None, source: HubSource, work: Path) -> _Part:
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    try:
        loaded = load_dataset(path, source.subset, revision=commit, split=source.split, cache_dir=str(work))
    except ConnectionError as error:
        raise WorkFailed(f"the hub did not deliver {source.id}: {_first_line(error)}; try again later") from error
    except (DatasetsError, OSError, ValueError) as error:
        raise InputError(
            f"prepare.source: `datasets` cannot load {source.id} (subset {source.subset}, split {source.split}): "
            f"{_first_line(error)}"
        ) from error

    def read(columns: list[str]) -> Iterator[pa.Table]:
        yield from loaded.select_columns(columns).with_format("arrow").iter(ROWS_AT_A_TIME)

    return _Part(f"{source.id}, split {source.split}", len(loaded), loaded.features.arrow_schema, read, files=True)


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0] or type(error).__name__


# --- both --------------------------------------------------------------------------------------------------------


def _stats(root: Path, suffixes: Iterable[str] | None) -> tuple[Stat, ...]:
    """Files below the folder, hidden ones left out, sorted by name; all, or those with such suffixes."""
    found = []
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            path = Path(folder, name)
            if not name.startswith(".") and (suffixes is None or path.suffix.lower() in suffixes):
                found.append(Stat.of(path.relative_to(root).as_posix(), path.stat()))
    return tuple(sorted(found))


def _contents(parts: Sequence[_Part], source: TableSource) -> Contents:
    from datasets import ClassLabel, Features

    wanted = [column for column in (source.label_column, source.caption_column) if column]
    images = [column for column in (source.image_column, source.target_column) if column]
    for part in parts:
        for field in ("image_column", "target_column", "label_column", "caption_column"):
            name = getattr(source, field)
            if name is not None and name not in part.schema.names:
                raise InputError(
                    f"prepare.source.{field}: {part.place} has no column `{name}`; its columns are "
                    f"{', '.join(part.schema.names)}"
                )
        for column in images:
            _check_image_type(part, column, "image_column" if column == source.image_column else "target_column")
    values: dict[str, list[Any]] = {column: [] for column in wanted}
    for part in parts:
        for batch in part.read(wanted) if wanted else ():
            for column in wanted:
                values[column] += batch.column(column).to_pylist()

    def where(row: int) -> str:
        for part in parts:
            if row < part.rows:
                break
            row -= part.rows
        return f"{part.place} row {row}"

    labels = values[source.label_column] if source.label_column else None
    names = None
    if source.label_column:
        feature = Features.from_arrow_schema(parts[0].schema).get(source.label_column)
        names = feature.names if isinstance(feature, ClassLabel) else None
    if names is not None and source.classes and labels is not None:
        labels = [names[label] if label is not None and 0 <= label < len(names) else label for label in labels]
    captions = values[source.caption_column] if source.caption_column else None

    def pictures() -> Iterator[Picture]:
        for part in parts:
            row = 0
            for batch in part.read(images):
                for row_images in zip(*(batch.column(column).to_pylist() for column in images), strict=True):
                    name = f"{part.place} row {row}"
                    yield _pair(*(_picture(image, name, part.files) for image in row_images))
                    row += 1

    return Contents(
        sum(part.rows for part in parts),
        pictures,
        columns_of_rows(labels, captions, source, where, names),
        enlarged=source.target_column is None,
    )


def _pair(image: Picture, target: Picture | None = None) -> Picture:
    """Both in one, if there are two."""
    if target is None:
        return image
    assert isinstance(image.data, bytes) and isinstance(target.data, bytes)
    key = hashlib.sha256(image.key + target.key).digest()
    return Picture(image.name, (image.data, target.data), key)


def _check_image_type(part: _Part, column: str, field: str) -> None:
    import pyarrow.types as types

    kind = part.schema.field(column).type
    binary = kind.field("bytes").type if types.is_struct(kind) and kind.get_field_index("bytes") >= 0 else kind
    if not (types.is_binary(binary) or types.is_large_binary(binary)):
        raise InputError(
            f"prepare.source.{field}: column `{column}` of {part.place} holds {kind}, not the bytes of images; "
            f"the columns are {', '.join(part.schema.names)}"
        )


def _picture(image: Any, name: str, files: bool) -> Picture:
    """Without bytes it is an empty file, which decoding names."""
    if isinstance(image, dict):
        path, image = image.get("path"), image["bytes"]
        name = f"{name} ({path})" if path else name
        if image is None and path and files and Path(path).is_file():
            image = Path(path).read_bytes()
    return Picture.of_bytes(name, image or b"")
