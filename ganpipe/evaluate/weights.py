"""Files with the weights of feature extractors: found on this machine or in the store, checked, never unpickled.

The store keeps them as safetensors under `extractors/<extractor>`, with the sha256 of the file that they came from.
"""

from __future__ import annotations

import logging
import pickle
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..errors import InputError
from ..settings import Settings
from ..spec import Mixture
from ..storage import MANIFEST, Store, sha256_of_file
from .known import INCEPTION, KNOWN, OWN_INCEPTION, check_name, is_module

log = logging.getLogger(__name__)

FORMAT = 1
ORIGINS = {INCEPTION: " from the releases of torch-fidelity", "vgg16": " from download.pytorch.org/models"}
"""Where official files are to be had, for messages."""
WITHOUT_FILE = {
    "domain": "it is trained on the data set itself",
    "triples": "it is trained on the data set itself",
    "point": "the coordinates are the features",
    **{name: "torch.hub loads it, and only from its own cache" for name in KNOWN if name.startswith("dinov2")},
}
"""Extractors that no file holds the weights of -> why."""


@dataclass(frozen=True)
class Weights:
    """What a feature extractor is made of."""

    extractor: str
    content: Path | Mixture | nn.Module
    """A local file with weights, the mixture that points were drawn from, or the whole network."""
    sha256: str
    """Of the original file, which a mirrored copy in another format keeps; of a mixture's JSON; of a module's state."""


# --- found -------------------------------------------------------------------------------------------------------


def find_file(extractor: str, store: Store, settings: Settings, given: Path | None = None) -> Weights:
    """Weights from the given file, the one of the settings, torch's cache, or the store, in this order.

    Official ones are mirrored to the store when first seen. Raises InputError for a file that is not there or not what
    its place says, and, when there is none, saying where to put one.
    """
    known = KNOWN[extractor]
    if (found := local_file(extractor, settings, given)) is not None:
        path, trusted = found
        sha256 = sha256_of_file(path)
        if known.sha256 and sha256.startswith(known.sha256):
            _mirror(store, extractor, path, sha256)
        elif extractor == INCEPTION or not trusted:
            raise _not_official(extractor, path, sha256)
        elif known.sha256:
            log.warning(
                "%s are not the official weights of %s: no published score compares with these", path, extractor
            )
        return Weights(extractor, path, sha256)
    prefix, name = _stored_as(extractor)
    if store.exists(f"{prefix}/{MANIFEST}"):
        return Weights(extractor, store.fetch(prefix, [name])[name], store.manifest(prefix)["weights_sha256"])
    raise nowhere(extractor, store)


def local_file(extractor: str, settings: Settings, given: Path | None = None) -> tuple[Path, bool] | None:
    """The extractor's weights on this machine, and whether somebody named the file; None when there are none.

    Raises InputError when the file that was named is not there.
    """
    of_settings = settings.inception_weights if extractor in (INCEPTION, OWN_INCEPTION) else None
    for field, path in (("--weights ", given), ("GANPIPE_INCEPTION_WEIGHTS=", of_settings)):
        if path is not None:
            if not path.is_file():
                raise InputError(f"{field}{path}: there is no such file")
            return path, True
    cached = _cached(extractor)
    return (cached, False) if cached is not None and cached.is_file() else None


def in_store(extractor: str, store: Store) -> bool:
    """Whether the store has weights of the extractor."""
    return store.exists(f"{_stored_as(extractor)[0]}/{MANIFEST}")


def nowhere(extractor: str, store: Store) -> InputError:
    """What to do when the extractor's weights are not to be found."""
    name = KNOWN[extractor].file
    setting = ", or set GANPIPE_INCEPTION_WEIGHTS to it" if extractor in (INCEPTION, OWN_INCEPTION) else ""
    cached = f", or put it at {_cached(extractor)}" if name else ""
    fetch = f"fetch {name}{ORIGINS.get(extractor, '')}" if name else "take a file of yours"
    add = f"`ganpipe weights add FILE{'' if name else f' --extractor {extractor}'}`"
    return InputError(
        f"the weights of extractor {extractor} are nowhere: {fetch}, and add it to the store with {add}{cached}"
        f"{setting} ({store.uri}/{_stored_as(extractor)[0]} was looked into as well); or take the extractor `domain`, "
        "which needs none"
    )


def _cached(extractor: str) -> Path | None:
    """Where torch and torch-fidelity keep the official file when they fetch it."""
    name = KNOWN[extractor].file
    return Path(torch.hub.get_dir()) / "checkpoints" / name if name else None


def _not_official(extractor: str, path: Path, sha256: str) -> InputError:
    known = KNOWN[extractor]
    own = f"; for weights of your own, take the extractor {OWN_INCEPTION}" if extractor == INCEPTION else ""
    return InputError(
        f"{path} is not the official file of extractor {extractor}: the sha256 of {known.file} "
        f"{_stated(known.sha256)}, and this one's is {sha256} ({path.stat().st_size:,} bytes). It was cut off, or is "
        f"another file; fetch it again{ORIGINS.get(extractor, '')}{own}"
    )


def _stated(sha256: str) -> str:
    return f"is {sha256}" if len(sha256) == 64 else f"begins with {sha256}"


# --- kept --------------------------------------------------------------------------------------------------------


def add(path: Path, store: Store, extractor: str | None = None) -> dict[str, Any]:
    """Keep a file of weights in the store; returns what `listed` says of it.

    Official files are known by their sha256. Others need `extractor`, whose network they must fit, and are never those
    of `inception`. Raises InputError, with nothing stored, naming what was expected and what was found.
    """
    if not path.is_file():
        raise InputError(f"{path}: there is no such file")
    sha256 = sha256_of_file(path)
    official = next((name for name, known in KNOWN.items() if known.sha256 and sha256.startswith(known.sha256)), None)
    name = official or _owner(path, sha256, extractor)
    if extractor not in (None, name):
        raise InputError(f"{path} is the official file of extractor {name}, not of {extractor}; leave out --extractor")
    prefix, _ = _stored_as(name)
    if in_store(name, store):
        there = store.manifest(prefix)["weights_sha256"]
        if there != sha256:
            raise InputError(
                f"{store.uri}/{prefix} has other weights, of sha256 {there}: scores by that name would change their "
                "meaning without a word; remove that folder first when this is what you want"
            )
    else:
        from .extractors import build_extractor

        build_extractor(Weights(name, path, sha256))  # they must fit
        _publish(store, name, path, sha256)
    return next(entry for entry in listed(store) if entry["key"] == prefix)


def _owner(path: Path, sha256: str, extractor: str | None) -> str:
    """The extractor that a file belongs to that is no official one. Raises InputError when it is none's."""
    pretended = next((name for name, known in KNOWN.items() if known.file == path.name), None)
    if pretended is not None:
        raise _not_official(pretended, path, sha256)
    if extractor is None:
        files = "\n  ".join(f"{known.file} ({name})" for name, known in KNOWN.items() if known.file)
        raise InputError(
            f"{path} (sha256 {sha256}, {path.stat().st_size:,} bytes) is none of the files that are known:\n  {files}\n"
            "For weights of your own, say what they are of with --extractor, like --extractor "
            f"{OWN_INCEPTION}; their scores are then called fid_{OWN_INCEPTION}"
        )
    if extractor == INCEPTION:
        raise _not_official(INCEPTION, path, sha256)
    if is_module(check_name(extractor)) or extractor in WITHOUT_FILE:
        why = WITHOUT_FILE.get(extractor, "a module brings its own weights")
        raise InputError(f"--extractor {extractor} takes no file of weights: {why}")
    log.warning("%s is no official file: scores with it are called fid_%s", path, extractor)
    return extractor


def listed(store: Store) -> list[dict[str, Any]]:
    """What the store has: `extractor`, `sha256`, `key`, `bytes`, `origin` of each."""
    found = []
    for prefix in store.published("extractors"):
        manifest = store.manifest(prefix)
        name = prefix.rpartition("/")[2]
        sha256 = manifest.get("weights_sha256", name)
        extractor = manifest.get("extractor", name)
        if "weights_sha256" in manifest:
            known = KNOWN[extractor].sha256 if extractor in KNOWN else ""
            origin = manifest.get("file", KNOWN[extractor].file if extractor in KNOWN else "")
            origin += " (official)" if known and sha256.startswith(known) else ""
        else:
            origin = f"trained on {manifest['images']} images, {manifest['classes']} classes by {manifest['task']}"
        size = sum(facts["bytes"] for facts in manifest["files"].values())
        found.append({"extractor": extractor, "sha256": sha256, "key": prefix, "bytes": size, "origin": origin})
    return found


def _stored_as(extractor: str) -> tuple[str, str]:
    """Prefix in the store, and the file's name under it."""
    return f"extractors/{extractor}", f"{extractor}.safetensors"


def _mirror(store: Store, extractor: str, path: Path, sha256: str) -> None:
    """Keep a copy in the store for machines that lack the file, if it takes one."""
    if in_store(extractor, store):
        return
    try:
        _publish(store, extractor, path, sha256)
    except OSError as error:
        log.warning("the weights of %s could not be mirrored to %s: %s", extractor, store.uri, error)


def _publish(store: Store, extractor: str, path: Path, sha256: str) -> None:
    prefix, name = _stored_as(extractor)
    with tempfile.TemporaryDirectory() as folder:
        save_file(read_state(path), Path(folder) / name)
        facts = {"extractor": extractor, "weights_sha256": sha256, "file": path.name}
        store.publish(prefix, Path(folder), {"format": FORMAT, "kind": "extractor", **facts})


# --- read --------------------------------------------------------------------------------------------------------


def read_state(path: Path) -> dict[str, Tensor]:
    """A state dictionary from safetensors or from torch's format, without running code. Raises InputError.

    TorchScript, in which CLIP's weights come, runs code when read: only files of a known sha256 are.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if sha256_of_file(path) in {known.sha256 for known in KNOWN.values()}:
            state: Any = dict(torch.jit.load(path, map_location="cpu").state_dict())
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, SafetensorError, pickle.UnpicklingError, EOFError) as error:
        raise InputError(f"{path} cannot be read as weights: {error}") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(
            f"{path} holds no state dictionary of tensors; save one with torch.save(net.state_dict(), ...)"
        )
    return {name: tensor.contiguous() for name, tensor in state.items()}
