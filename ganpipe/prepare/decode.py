"""All rows of a source to pixels, in threads (Pillow lets go of the interpreter while it decodes and resizes)."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from ..config import PrepareConfig
from ..errors import InputError
from .images import UnreadableImage, read_image

if TYPE_CHECKING:
    import datasets

log = logging.getLogger(__name__)

ROWS_PER_BATCH = 256
BATCH_BYTES = 64 << 20
MAX_THREADS = 16
NAMED_FILES = 20


@dataclass(frozen=True)
class Rows:
    """Decoded rows, in the order of the source, with the pixels in a file so that memory stays bounded."""

    hashes: list[bytes]
    """sha256 of each row's pixels."""
    labels: list[int] | None
    classes: tuple[str, ...] | None
    pixels: np.ndarray
    """uint8 (N, C, H, W), memory-mapped."""
    skipped: int
    """Unreadable images that were left out."""


def decode(dataset: datasets.Dataset, config: PrepareConfig, spool: Path) -> Rows:
    """Decode every row into the file `spool`.

    Raises InputError naming the unreadable images with their reasons, or, with `on_corrupt: skip`, logs them.
    """
    shape = (config.channels, config.resolution, config.resolution)
    labelled = "label" in dataset.features
    hashes: list[bytes] = []
    labels: list[int] = []
    unreadable: list[str] = []

    def decode_one(image: dict[str, Any]) -> bytes | str:
        """Pixels, or `path: reason`."""
        try:
            data = image["bytes"] if image["bytes"] is not None else Path(image["path"]).read_bytes()
            return read_image(data, config.resolution, config.channels, config.crop, config.background).tobytes()
        except UnreadableImage as error:
            return f"{image['path']}: {error}"
        except OSError as error:
            return f"{image['path']}: cannot be read: {error.strerror}"

    threads = min(os.cpu_count() or 1, MAX_THREADS)
    batch_rows = min(ROWS_PER_BATCH, BATCH_BYTES // int(np.prod(shape)))
    with (
        spool.open("wb") as stream,
        ThreadPoolExecutor(threads) as pool,
        tqdm(total=len(dataset), desc="decoding", unit="image", delay=1, leave=False, disable=None) as progress,
    ):
        for batch in dataset.iter(batch_rows):
            batch_labels: Sequence[int | None] = batch["label"] if labelled else [None] * len(batch["image"])
            for decoded, label in zip(pool.map(decode_one, batch["image"]), batch_labels, strict=True):
                if isinstance(decoded, str):
                    unreadable.append(decoded)
                    continue
                stream.write(decoded)
                hashes.append(hashlib.sha256(decoded).digest())
                if label is not None:
                    labels.append(label)
            progress.update(len(batch["image"]))

    if unreadable and config.on_corrupt == "fail":
        raise InputError(
            f"{len(unreadable):,} of {len(dataset):,} images cannot be read:\n  {_listing(unreadable)}\n"
            "mend or remove them, or set prepare.on_corrupt to `skip`"
        )
    if unreadable:
        log.warning("left out %s unreadable images:\n  %s", f"{len(unreadable):,}", _listing(unreadable))
    return Rows(
        hashes=hashes,
        labels=labels if labelled else None,
        classes=tuple(dataset.features["label"].names) if labelled else None,
        pixels=np.memmap(spool, np.uint8, "r", shape=(len(hashes), *shape))
        if hashes
        else np.empty((0, *shape), np.uint8),
        skipped=len(unreadable),
    )


def _listing(unreadable: list[str]) -> str:
    shown = unreadable[:NAMED_FILES]
    more = len(unreadable) - len(shown)
    return "\n  ".join([*shown, f"... and {more:,} more"] if more else shown)
