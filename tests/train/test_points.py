"""Training on points: every objective and critic works, snapshots show points, seconds of work reach modes."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import points_raw

from ganpipe import plane, prepare, runs, sample
from ganpipe.config import load_config
from ganpipe.evaluate.modes import mode_scores
from ganpipe.launch import StopSignal
from ganpipe.prepare.manifest import Dataset
from ganpipe.prepare.mixtures import MIXTURES
from ganpipe.settings import Settings
from ganpipe.storage import open_store
from ganpipe.train.trainer import Trainer

CONFIGS = Path(__file__).parents[2] / "configs"
OBJECTIVES = ("minimax", "non_saturating", "lsgan", "hinge", "wasserstein", "relativistic")
CRITICS: dict[str, dict[str, Any]] = {
    "weight_clip": {"weight_clip": 0.05, "critic_steps": 2},
    "gradient_penalty": {"gradient_penalty": 1},
    "r1_r2": {"r1": 0.1, "r2": 0.1, "gradient_penalty": 0.1},
    "spectral_norm": {"spectral_norm": True},
}


def trainer(raw: dict[str, Any], settings: Settings, work: Path, *overrides: str) -> Trainer:
    config = load_config(raw, overrides)
    store = open_store(settings.store)
    dataset = Dataset.open(store, prepare.run(config, settings).digest)
    work.mkdir(exist_ok=True)
    return Trainer(config, dataset, "run", store, work)


@pytest.mark.parametrize("critic", CRITICS)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_and_critic_moves_both_networks(
    objective: str, critic: str, settings: Settings, tmp_path: Path
) -> None:
    raw = points_raw(samples=1000)
    raw["gan"] |= {"objective": objective, **CRITICS[critic]}
    training = trainer(raw, settings, tmp_path / "work")
    assert training.discriminator is not None
    parameters = {**dict(training.generator.named_parameters()), **dict(training.discriminator.named_parameters("D"))}
    before = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    for _ in range(3):
        training.step()
    for name, parameter in parameters.items():
        assert parameter.isfinite().all()
        assert parameter.dim() < 2 or not torch.equal(before[name], parameter), name


def test_interrupted_and_resumed_equals_never_interrupted(settings: Settings, tmp_path: Path) -> None:
    raw = points_raw(samples=1000)
    raw["gan"] |= {"objective": "relativistic", "r1": 0.1, "r2": 0.1}
    straight = trainer(raw, settings, tmp_path / "one")
    straight.run_id = "straight"
    whole = straight.fit(StopSignal())
    trainer(raw, settings, tmp_path / "two", "train.stop.kimg=0.128").fit(StopSignal())
    resumed = trainer(raw, settings, tmp_path / "two").fit(StopSignal())
    assert resumed.images_seen == whole.images_seen
    assert resumed.prefix.startswith("runs/run/")
    files = [open_store(settings.store).fetch(ref.prefix)["training.safetensors"] for ref in (whole, resumed)]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_snapshots_show_the_points_and_the_discriminators_surface(settings: Settings, tmp_path: Path) -> None:
    raw = points_raw(samples=1000)
    training = trainer(raw, settings, tmp_path / "work")
    ref = training.fit(StopSignal())
    store = open_store(settings.store)
    keys = [item.key for item in store.list("runs/run/samples")]
    assert [key.rpartition("/")[2] for key in keys] == [
        f"{checkpoint.prefix.rpartition('/')[2]}.png" for checkpoint in runs.checkpoints(store, "run")
    ]
    picture = Image.open(io.BytesIO(store.read_bytes(keys[-1])))
    assert picture.format == "PNG" and picture.size == (2 * plane.PIXELS, plane.PIXELS)
    loaded = sample.load_generator(store.fetch(ref.prefix)["generator.safetensors"])
    assert loaded.output == "point"
    points = sample.draw_points(loaded.gan, loaded.module, 0, 100)
    assert points.shape == (100, 2) and points.dtype == torch.float32
    assert torch.equal(sample.draw_points(loaded.gan, loaded.module, 0, 7), points[:7])


def test_generated_points_are_not_bounded(settings: Settings, tmp_path: Path) -> None:
    """A grid reaches to 4."""
    training = trainer(points_raw("grid25", samples=1000), settings, tmp_path / "work")
    assert training.generator(torch.full((1, 2), 1e6)).abs().max() > 10


def test_a_picture_shows_where_points_are() -> None:
    """Dark where the surface is low; a generated point's colour at its place; far ones are counted, not drawn."""
    mixture = MIXTURES["ring8"]

    def pixels(points: np.ndarray) -> np.ndarray:
        return np.asarray(Image.open(io.BytesIO(plane.picture(points, mixture))).convert("RGB"), np.int64)

    def red(points: np.ndarray) -> int:
        image = pixels(points)[60:-160]  # without title, legend and count
        return int(((image[..., 0] - image[..., 2]) > 60).sum())

    spread = np.random.default_rng(0).uniform(-2, 2, (400, 2)).astype(np.float32)
    assert pixels(spread).shape == (plane.PIXELS, plane.PIXELS, 3)
    assert red(spread) > 2 * red(spread[:100]) > 0
    assert red(spread + 100) < red(spread[:10])


def test_a_short_training_reaches_modes(settings: Settings, tmp_path: Path) -> None:
    """A fraction of the benchmark: 8 of 8 is its target, after many times as long."""
    overrides = ["train.seed=1", "train.batch=128", "train.stop.kimg=100"]
    config = load_config(CONFIGS / "ring8-rpgan.yaml", overrides)
    store = open_store(settings.store)
    dataset = Dataset.open(store, prepare.run(config, settings).digest)
    training = Trainer(config, dataset, "run", store, tmp_path)

    def scores() -> dict[str, float]:
        points = sample.draw_points(training.gan, training.ema.module, 0, 2000)
        mixture = MIXTURES["ring8"]
        return mode_scores(torch.cdist(points, torch.tensor(mixture.centres)) / mixture.deviation)

    assert scores()["modes"] == 0
    training.fit(StopSignal())
    assert scores()["modes"] >= 3
