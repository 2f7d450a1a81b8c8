"""Every recipe: its first losses are what they were, and a seed is one image wherever it is drawn."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from recipes import RECIPES, recipe
from torch import Tensor, nn

from ganpipe import sample
from ganpipe.config import RunConfig
from ganpipe.gans import GANS
from ganpipe.gans.base import GAN
from ganpipe.launch import StopSignal
from ganpipe.prepare.manifest import Dataset
from ganpipe.register import package
from ganpipe.storage import Store
from ganpipe.train.trainer import Trainer
from ganpipe.ways import ways_of

FIRST_LOSSES = Path(__file__).with_name("first_losses.json")
"""[[loss of D where there is one, loss of G] at steps 1 to 4] by recipe, recorded on x86-64 with torch 2.15."""
SIDES = ("discriminator", "generator")
SERVED = ["projection", "r3gan-projection", "stylegan2", "sngan", "mlp", "text"]
"""Recipes that are also loaded as registered models; each takes two seconds."""


def test_no_recipe_is_left_out() -> None:
    assert {recipe(name).gan.name for name in RECIPES} == set(GANS)


@pytest.mark.parametrize("name", RECIPES)
def test_first_losses_are_what_they_were(
    name: str, prepared: Callable[[RunConfig], Dataset], store: Store, tmp_path: Path
) -> None:
    updates = max(recipe(name).recipe().plan(0).d_updates, 1)
    config = recipe(name, log_every_kimg=0.016, stop={"kimg": 0.064 * updates})
    Trainer(config, prepared(config), "run", store, tmp_path).fit(StopSignal())
    lines = [json.loads(line)["metrics"] for line in store.read_bytes("runs/run/metrics.jsonl").splitlines()]
    found = [[line[f"{side}/loss"] for side in SIDES if f"{side}/loss" in line] for line in lines]
    assert found == [pytest.approx(pair, rel=1e-3, abs=1e-5) for pair in json.loads(FIRST_LOSSES.read_text())[name]]


def drawn(gan: GAN, generator: nn.Module, data: Dataset, n: int) -> Tensor:
    """The first n samples of seed 5, uint8: of the test split's images, where these are translated."""
    if gan.output(data.spec()) != "translation":
        return sample.draw_images(gan, generator, 5, n)
    way = ways_of(data)[-1]
    sources = torch.from_numpy(np.array(way.images(way.sources, "test")[:n]))
    return sample.to_uint8(sample.translate(gan, generator, 5, range(n), sources, way.direction))


@pytest.mark.parametrize("name", RECIPES)
def test_a_seed_is_one_image_wherever_it_is_drawn(
    name: str, prepared: Callable[[RunConfig], Dataset], store: Store, tmp_path: Path
) -> None:
    """In the trainer, from its checkpoint, and as a registered model; among many and alone."""
    config = recipe(name, stop={"kimg": 0.064})
    data = prepared(config)
    trainer = Trainer(config, data, "run", store, tmp_path)
    weights = store.fetch(trainer.fit(StopSignal()).prefix)["generator.safetensors"]
    loaded = sample.load_generator(weights)
    many = drawn(loaded.gan, loaded.module, data, 100)
    assert torch.equal(drawn(trainer.gan, trainer.ema.module, data, 100), many)
    assert torch.equal(drawn(loaded.gan, loaded.module, data, 3), many[:3])
    assert len(many.flatten(1).unique(dim=0)) == 100
    if name in SERVED:
        import mlflow.pyfunc
        from mlflow.models import Model

        package.save(tmp_path / "model", weights, Model(), {})
        served = mlflow.pyfunc.load_model(str(tmp_path / "model")).predict(pd.DataFrame({"seed": [5] * 70}))
        np.testing.assert_array_equal(served, many[:70].permute(0, 2, 3, 1).numpy())
