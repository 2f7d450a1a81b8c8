"""The configs for CIFAR-10 on a local data set of its layout, which has the splits and columns that they name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ganpipe import prepare, sample
from ganpipe.config import load_config
from ganpipe.gans import GANS
from ganpipe.prepare.manifest import Dataset
from ganpipe.settings import Settings
from ganpipe.storage import open_store

CONFIGS = Path(__file__).parents[1] / "configs"
CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """160 random images as the hub keeps CIFAR-10: Parquet by split, with the columns `img` and `label`."""
    import datasets

    folder, rng = tmp_path_factory.mktemp("cifar10"), np.random.default_rng(0)
    features = datasets.Features(img=datasets.Image(), label=datasets.ClassLabel(names=CLASSES))
    for split, count in {"train": 130, "test": 30}.items():
        images = [Image.fromarray(pixels) for pixels in rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)]
        rows = {"img": images, "label": [number % 10 for number in range(count)]}
        file = folder / "plain_text" / f"{split}-00000-of-00001.parquet"
        file.parent.mkdir(exist_ok=True)
        datasets.Dataset.from_dict(rows, features).to_parquet(file)
    return folder


@pytest.mark.parametrize(
    "name", ["cifar10-dcgan", "cifar10-sngan", "cifar10-stylegan2", "cifar10-r3gan", "cifar10-r3gan-cond"]
)
def test_data_and_networks(name: str, layout: Path, settings: Settings) -> None:
    overrides = [f"prepare.source.id={layout}", "train.batch=4", "train.micro_batch=4", "evaluate.allow_few=true"]
    config = load_config(CONFIGS / f"{name}.yaml", overrides)
    ref = prepare.run(config, settings)
    dataset = Dataset.open(open_store(settings.store), ref.digest)
    spec = dataset.spec()
    assert sum(ref.rows.values()) == 160 and spec["label"].vocabulary == tuple(CLASSES)
    gan = GANS[config.gan.name](config.gan)
    networks = gan.build_networks(spec)
    images_NCHW = next(sample.draw(gan, networks.generator.eval(), 0, range(2), chunk=2))
    assert networks.discriminator is not None and images_NCHW.shape == (2, 3, 32, 32)
    conditions = [torch.tensor([0, 9])] if "label" in config.columns() else []
    assert networks.discriminator(images_NCHW, *conditions).shape == (2,)
