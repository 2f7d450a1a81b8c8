"""Classifiers of the data itself: trained once per data set, and kept in the store by the hash of their weights."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..prepare.manifest import Dataset
from ..storage import MANIFEST, Conflict, Store, sha256_of_bytes

log = logging.getLogger(__name__)

FORMAT = 1

Train = Callable[[Dataset], tuple[bytes, dict[str, Any]]]
"""A trained classifier as safetensors, and facts about it."""


def get_or_train(extractor: str, dataset: Dataset, store: Store, train: Train) -> tuple[Path, str]:
    """Local file and sha256 of the data set's classifier of this name, trained now when the store has none.

    Jobs that train it at the same time agree on the one whose pointer was created first.
    Raises InputError when the data has too few images to train it.
    """
    pointer = f"extractors/{extractor}-{dataset.digest}{dataset.side}.json"
    lost = None
    if store.exists(pointer):
        lost = store.read_bytes(pointer)
        sha256 = json.loads(lost)["sha256"]
        if store.exists(f"extractors/{sha256}/{MANIFEST}"):
            return _fetch(extractor, store, sha256)
        log.warning("the %s extractor %s is gone from %s; it is trained again", extractor, sha256, store.uri)
    weights, facts = train(dataset)
    sha256 = sha256_of_bytes(weights)
    _keep(extractor, store, sha256, weights, facts)
    try:
        store.compare_and_set(pointer, json.dumps({"format": FORMAT, "sha256": sha256}).encode(), expected=lost)
    except Conflict:
        sha256 = json.loads(store.read_bytes(pointer))["sha256"]
    return _fetch(extractor, store, sha256)


def _keep(extractor: str, store: Store, sha256: str, weights: bytes, facts: dict[str, Any]) -> None:
    """Publish under the hash of the bytes. Object by object, as a racing job may be reading the very same bytes."""
    files = {_file(extractor): {"sha256": sha256, "bytes": len(weights)}}
    manifest = {"format": FORMAT, "kind": "extractor", "extractor": extractor, **facts, "files": files}
    store.write_bytes(f"extractors/{sha256}/{_file(extractor)}", weights)
    store.write_bytes(f"extractors/{sha256}/{MANIFEST}", json.dumps(manifest, indent=1).encode())


def _fetch(extractor: str, store: Store, sha256: str) -> tuple[Path, str]:
    return store.fetch(f"extractors/{sha256}", [_file(extractor)])[_file(extractor)], sha256


def _file(extractor: str) -> str:
    return f"{extractor}.safetensors"
