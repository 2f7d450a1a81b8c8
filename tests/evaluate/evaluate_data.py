"""Small real data sets: scikit-learn's digits, with and without labels."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits

from ganpipe.config import RunConfig, load_config
from ganpipe.prepare.manifest import SPLITS, DataManifest, Dataset, Table
from ganpipe.refs import CheckpointRef
from ganpipe.runs import RunRecord, begin_run, checkpoint_name, checkpoints
from ganpipe.sample import save_generator
from ganpipe.spec import Column
from ganpipe.storage import Store

FRACTIONS = {"test": 0.2, "extractor": 0.15, "train": 0.65}


def digit_images(resolution: int) -> tuple[np.ndarray, np.ndarray]:
    """(1797, 1, resolution, resolution) uint8, (1797,) int64."""
    data = load_digits()
    scale = resolution // 8
    images = (data.images * 255 / 16).round().astype(np.uint8)
    return images.repeat(scale, 1).repeat(scale, 2)[:, None], data.target.astype(np.int64)


def publish_dataset(
    store: Store,
    folder: Path,
    resolution: int = 16,
    count: int = 1797,
    labelled: bool = True,
    channels: int = 1,
    extractor: bool = True,
) -> str:
    """A data set in the store, as `prepare` would publish it. Returns its digest."""
    images, labels = digit_images(resolution)
    images = images[:count].repeat(channels, 1)
    hashes = [hashlib.sha256(image.tobytes()).digest() for image in images]
    order = sorted(range(count), key=hashes.__getitem__)
    images, labels = images[order], labels[:count][order]
    digest = hashlib.sha256(images.tobytes() + bytes([labelled, extractor])).hexdigest()
    splits, start = {}, 0
    for name in SPLITS:
        share = FRACTIONS[name] if name != "extractor" or extractor else 0
        stop = count if name == "train" else start + round(share * count)
        splits[name], start = (start, stop), stop
    folder.mkdir()
    np.save(folder / "main.image-00000.npy", images)
    columns = {
        "image": Column(
            kind="image", dtype="uint8", shape=images.shape[1:], range=(0, 255), shards=("main.image-00000.npy",)
        )
    }
    if labelled:
        np.save(folder / "main.label-00000.npy", labels)
        names = tuple(map(str, range(10)))
        columns["label"] = Column(
            kind="label", dtype="int64", shape=(), vocabulary=names, shards=("main.label-00000.npy",)
        )
    table = Table(rows=count, splits=splits, columns=columns)
    manifest = DataManifest(digest=digest, tables={"main": table}, preparation={})
    store.publish(f"datasets/{digest}", folder, manifest.model_dump(mode="json"))
    return digest


def run_config(*overrides: str, **evaluate: object) -> RunConfig:
    """A tiny run on the digits."""
    return load_config(
        overrides=overrides,
        config={
            "name": "tiny",
            "prepare": {"source": {"name": "digits"}, "resolution": 16, "channels": 1},
            "gan": {
                "name": "classic",
                "network": {"name": "mlp", "hidden_dim": 16, "hidden_layers": 1},
                "latent_dim": 4,
            },
            "train": {"stop": {"kimg": 1}, "seed": 1},
            "evaluate": {"select_seeds": 1, "score_seeds": 2, **evaluate},
            "register": {"model": "digits"},
        },
    )


def publish_checkpoints(
    store: Store, dataset: Dataset, config: RunConfig, folder: Path, count: int, run_id: str = "tiny-run", seed: int = 0
) -> list[CheckpointRef]:
    """A run of untrained generators; later ones have smaller weights, and so greyer images."""
    record = RunRecord(
        run_id=run_id, dataset=dataset.manifest.ref, created="2026-01-01T00:00:00Z", config_digest="0" * 64
    )
    begin_run(store, record, config)
    torch.manual_seed(seed)
    gan = config.recipe()
    generator = gan.build_networks(dataset.spec()).generator.eval()
    for index in range(count):
        step = folder / f"{run_id}-{index}"
        step.mkdir()
        save_generator(step / "generator.safetensors", gan, generator, dataset.spec(), run_id, 1000 * (index + 1))
        name = checkpoint_name(1000 * (index + 1))
        manifest = {"format": 1, "run_id": run_id, "images_seen": 1000 * (index + 1)}
        store.publish(f"runs/{run_id}/checkpoints/{name}", step, manifest)
        with torch.no_grad():
            for parameter in generator.parameters():
                parameter.mul_(0.5)
    return checkpoints(store, run_id)
