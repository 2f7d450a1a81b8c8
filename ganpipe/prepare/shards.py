"""Decoded rows to content-addressed shards: sorted by content, split by content, named by content."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from ..prepareconfig import AnyPrepareConfig, PrepareConfig
from ..spec import Column
from .decode import Rows
from .manifest import FORMAT, SPLITS, DataManifest, Table, offsets_name

SHARD_BYTES = 256 << 20
COPY_BYTES = 4 << 20
DIGEST_LENGTH = 32


def write_shards(rows: Rows, config: AnyPrepareConfig, folder: Path, shard_bytes: int = SHARD_BYTES) -> DataManifest:
    """Write table `main` into `folder` as .npy files of at most about `shard_bytes` each. Returns its manifest."""
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
    order = sorted(range(len(rows.hashes)), key=identities.__getitem__)
    kind = rows.column.kind
    shards = _write_column(folder, f"main.{kind}", rows.values, order, shard_bytes)
    columns = {str(kind): rows.column.model_copy(update={"shards": shards})}
    if given.labels is not None and given.classes is not None:
        columns["label"] = Column(
            kind="label",
            dtype="int64",
            shape=(),
            range=(0, len(given.classes) - 1),
            vocabulary=given.classes,
            shards=_write_column(folder, "main.label", np.asarray(labels, np.int64), order, shard_bytes),
        )
    if captions is not None:
        columns["caption"] = Column(
            kind="caption",
            dtype="uint8",
            shape=(max(map(len, captions), default=0),),
            ragged=True,
            shards=(_write_captions(folder, "main.caption-00000.npy", [captions[row] for row in order]),),
        )
    if given.said is not None and given.meanings is not None:
        columns["meaning"] = Column(
            kind="meaning",
            dtype="int64",
            shape=(len(given.meanings.names),),
            meanings=given.meanings,
            shards=_write_column(folder, "main.meaning", np.asarray(given.said, np.int64), order, shard_bytes),
        )
    preparation = config.model_dump(mode="json", exclude={"source", "on_corrupt"})
    extractor_fraction = config.extractor_fraction if isinstance(config, PrepareConfig) else 0
    splits = split_bounds([rows.hashes[row] for row in order], config.test_fraction, extractor_fraction)
    return DataManifest(
        digest=_digest(preparation, columns, (identities[row] for row in order)),
        tables={"main": Table(rows=len(order), splits=splits, columns=columns)},
        preparation=preparation,
    )


def split_bounds(hashes: list[bytes], test_fraction: float, extractor_fraction: float) -> dict[Any, tuple[int, int]]:
    """Stretches of the sorted sha256 `hashes`, by split: the rule is `manifest.Table`'s."""

    rows = Counter(split_of(digest, test_fraction, extractor_fraction) for digest in hashes)
    stops = [0, *accumulate(rows[split] for split in SPLITS)]
    return dict(zip(SPLITS, pairwise(stops), strict=True))


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


def _digest(preparation: dict[str, Any], columns: dict[str, Column], rows: Iterable[bytes]) -> str:
    """Names content and preparation; knows nothing of paths, order or dates."""
    described = {name: column.model_dump(mode="json", exclude={"shards"}) for name, column in columns.items()}
    header = {"format": FORMAT, "preparation": preparation, "columns": described}
    sha256 = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
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
