"""Decoded rows to content-addressed shards: sorted by content, split by content, named by content."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from ..prepareconfig import AnyPrepareConfig, PrepareConfig
from ..spec import Column
from .decode import Rows
from .manifest import FORMAT, SPLITS, DataManifest, Table, offsets_name

log = logging.getLogger(__name__)

SHARD_BYTES = 256 << 20
COPY_BYTES = 4 << 20
DIGEST_LENGTH = 32


def write_shards(
    tables: Mapping[str, Rows], config: AnyPrepareConfig, folder: Path, shard_bytes: int = SHARD_BYTES
) -> DataManifest:
    """Write tables into `folder` as .npy files of at most about `shard_bytes` each. Returns their manifest."""
    written = {name: _write_table(name, rows, config, folder, shard_bytes) for name, rows in tables.items()}
    preparation = config.model_dump(mode="json", exclude={"source", "on_corrupt"})
    if preparation.get("derive") is None:
        preparation.pop("derive", None)  # digests are as they were before there was any
    return DataManifest(
        digest=_digest(preparation, written, len(tables) > 1 or any(rows.columns.splits for rows in tables.values())),
        tables={name: table for name, (table, _) in written.items()},
        preparation=preparation,
    )


def _write_table(
    table: str, rows: Rows, config: AnyPrepareConfig, folder: Path, shard_bytes: int
) -> tuple[Table, list[bytes]]:
    """The table, and the identity of each of its rows."""
    given = rows.columns
    labels = given.labels if given.labels is not None else [0] * len(rows.hashes)
    captions = None if given.captions is None else [caption.encode() for caption in given.captions]
    identities = [
        row_identity(
            content,
            label,
            None if captions is None else captions[row],
            () if given.said is None else given.said[row],
        )
        for row, (content, label) in enumerate(zip(rows.hashes, labels, strict=True))
    ]
    split_of_row = _splits(rows, config)
    kept = [row for row, split in enumerate(split_of_row) if split is not None]
    order = sorted(kept, key=lambda row: (SPLITS.index(split_of_row[row]), identities[row]))
    counts = Counter(split_of_row[row] for row in order)
    stops = [0, *accumulate(counts[split] for split in SPLITS)]
    splits: dict[Any, tuple[int, int]] = dict(zip(SPLITS, pairwise(stops), strict=True))
    columns = {
        name: rows.column.model_copy(
            update={"shards": _write_column(folder, f"{table}.{name}", values, order, shard_bytes)}
        )
        for name, values in rows.by_name().items()
    }
    if given.labels is not None and given.classes is not None:
        columns["label"] = Column(
            kind="label",
            dtype="int64",
            shape=(),
            range=(0, len(given.classes) - 1),
            vocabulary=given.classes,
            shards=_write_column(folder, f"{table}.label", np.asarray(labels, np.int64), order, shard_bytes),
        )
    if captions is not None:
        columns["caption"] = Column(
            kind="caption",
            dtype="uint8",
            shape=(max(map(len, captions), default=0),),
            ragged=True,
            shards=(_write_captions(folder, f"{table}.caption-00000.npy", [captions[row] for row in order]),),
        )
    if given.said is not None and given.meanings is not None:
        columns["meaning"] = Column(
            kind="meaning",
            dtype="int64",
            shape=(len(given.meanings.names),),
            meanings=given.meanings,
            shards=_write_column(folder, f"{table}.meaning", np.asarray(given.said, np.int64), order, shard_bytes),
        )
    return Table(rows=len(order), splits=splits, columns=columns), [identities[row] for row in order]


def _splits(rows: Rows, config: AnyPrepareConfig) -> list[Any]:
    """Split of each row; None of those that are left out.

    Where folders say what is tested on, what is equal to a test image is not trained on; the rest of the training
    images gives those of the extractor split, by content.
    """
    extractor_fraction = config.extractor_fraction if isinstance(config, PrepareConfig) else 0
    published = rows.columns.splits
    if published is None:
        return [split_of(content, config.test_fraction, extractor_fraction) for content in rows.hashes]
    tested = {content for content, split in zip(rows.hashes, published, strict=True) if split == "test"}
    twice = [split == "train" and content in tested for content, split in zip(rows.hashes, published, strict=True)]
    if any(twice):
        log.warning("left out %s training images that are test images, too", f"{sum(twice):,}")
    return [
        None if left_out else "test" if split == "test" else split_of(content, 0, extractor_fraction)
        for content, split, left_out in zip(rows.hashes, published, twice, strict=True)
    ]


def split_of(content: bytes, test_fraction: float, extractor_fraction: float) -> str:
    """The split of a row by the sha256 of its content."""
    share = int.from_bytes(content[:8], "big") / 2**64
    return "test" if share < test_fraction else "extractor" if share < test_fraction + extractor_fraction else "train"


def row_identity(content: bytes, label: int, caption: bytes | None, said: tuple[int, ...] = ()) -> bytes:
    """What a row adds to the digest, and what rows are sorted by."""
    identity = content + label.to_bytes(8, "big")
    if caption is not None:
        identity += len(caption).to_bytes(8, "big") + caption
    return identity + b"".join(value.to_bytes(8, "big", signed=True) for value in said)


def _digest(preparation: dict[str, Any], tables: Mapping[str, tuple[Table, list[bytes]]], explicit: bool) -> str:
    """Names content and preparation; knows nothing of paths, order or dates.

    `explicit` adds the splits, which follow from the content of a single table unless its folders say otherwise.
    """
    described = {
        name: {column: of.model_dump(mode="json", exclude={"shards"}) for column, of in table.columns.items()}
        for name, (table, _) in tables.items()
    }
    header: dict[str, Any] = {"format": FORMAT, "preparation": preparation, "columns": described.get("main", described)}
    if explicit:
        header["splits"] = {name: table.splits for name, (table, _) in tables.items()}
    sha256 = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for _, rows in tables.values():
        for row in rows:
            sha256.update(row)
    return sha256.hexdigest()[:DIGEST_LENGTH]


def _write_column(folder: Path, name: str, values: np.ndarray, order: list[int], shard_bytes: int) -> tuple[str, ...]:
    row_bytes = values.dtype.itemsize * int(np.prod(values.shape[1:]))
    names = []
    for number, rows in enumerate(_slices(order, max(1, shard_bytes // row_bytes))):
        names.append(f"{name}-{number:05d}.npy")
        header = {"descr": np.lib.format.dtype_to_descr(values.dtype), "fortran_order": False}
        with (folder / names[-1]).open("wb") as stream:
            np.lib.format.write_array_header_1_0(stream, {**header, "shape": (len(rows), *values.shape[1:])})
            for some in _slices(rows, max(1, COPY_BYTES // row_bytes)):
                stream.write(values[some].tobytes())
    return tuple(names)


def _write_captions(folder: Path, name: str, captions: list[bytes]) -> str:
    np.save(folder / name, np.frombuffer(b"".join(captions), np.uint8), allow_pickle=False)
    offsets = np.cumsum([0, *map(len, captions)], dtype=np.int64)
    np.save(folder / offsets_name(name), offsets, allow_pickle=False)
    return name


def _slices(items: list[int], length: int) -> Iterator[list[int]]:
    for start in range(0, len(items), length):
        yield items[start : start + length]
