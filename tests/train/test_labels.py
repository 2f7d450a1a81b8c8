"""Training with labels: samples show the class asked for, and what cannot be is refused before any training."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny import points_raw, tiny_raw

from ganpipe import prepare, sample
from ganpipe.config import RunConfig, load_config
from ganpipe.errors import InputError
from ganpipe.launch import StopSignal
from ganpipe.prepare.manifest import Dataset
from ganpipe.refs import CheckpointRef
from ganpipe.seeds import derive_seed
from ganpipe.settings import Settings
from ganpipe.storage import Store, open_store
from ganpipe.train.trainer import Trainer

SHADES = {"dark": 40, "light": 215}
MLP = {"name": "mlp", "hidden_dim": 32, "hidden_layers": 2}
WAYS: dict[str, dict[str, Any]] = {
    "concat": {"network": MLP},
    "projection": {"network": MLP, "objective": "relativistic", "r1": 1},
    "auxiliary": {"network": MLP},
}


def pictures(folder: Path, sorted_by_class: bool = True) -> Path:
    """240 noisy grey images, three quarters of them light."""
    rng = np.random.default_rng(0)
    for number in range(240):
        name = "dark" if number % 4 == 0 else "light"
        place = folder / name if sorted_by_class else folder
        place.mkdir(parents=True, exist_ok=True)
        pixels = rng.normal(SHADES[name], 12, (8, 8)).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(place / f"{number:03d}.png")
    return folder


def config_of(folder: Path, gan: dict[str, Any], labels: str = "auto", **train: Any) -> RunConfig:
    raw = tiny_raw(**train)
    raw["prepare"] = {
        "source": {"name": "folder", "path": str(folder), "labels": labels},
        "resolution": 8,
        "channels": 1,
        "extractor_fraction": 0.3,
    }
    raw["gan"] |= gan
    return load_config(raw)


def trained(config: RunConfig, settings: Settings, work: Path) -> tuple[Store, CheckpointRef]:
    store = open_store(settings.store)
    dataset = Dataset.open(store, prepare.run(config, settings).digest)
    work.mkdir()
    return store, Trainer(config, dataset, "run", store, work).fit(StopSignal())


@pytest.mark.parametrize("conditioning", WAYS)
def test_samples_are_of_the_class_asked_for(conditioning: str, settings: Settings, tmp_path: Path) -> None:
    gan = {"conditioning": conditioning, **WAYS[conditioning]}
    fast = {"name": "adam", "lr": 1e-3, "beta1": 0, "beta2": 0.9}
    config = config_of(
        pictures(tmp_path / "pictures"), gan, batch=32, ema_half_life_kimg=1,
        optimizers={"generator": fast, "discriminator": fast},
        stop={"kimg": 16}, snapshot_kimg=16, log_every_kimg=16,
    )  # fmt: skip
    store, newest = trained(config, settings, tmp_path / "work")
    loaded = sample.load_generator(store.fetch(newest.prefix)["generator.safetensors"])
    assert loaded.classes == ("dark", "light")
    means = {}
    for name in SHADES:
        asked = loaded.class_numbers([name] * 64)
        means[name] = sample.draw_images(loaded.gan, loaded.module, 0, 64, label=asked).float().mean((1, 2, 3))
    assert (means["dark"] < 100).float().mean() > 0.95 and (means["light"] > 155).float().mean() > 0.95
    both = sample.draw_images(loaded.gan, loaded.module, 0, 400).float().mean((1, 2, 3))
    assert 0.4 < (both < 128).float().mean() < 0.6  # unless asked for, each class as often as any other


def test_classes_go_by_name_and_by_number(settings: Settings, tmp_path: Path) -> None:
    gan = {"conditioning": "projection", "network": MLP}
    store, newest = trained(config_of(pictures(tmp_path / "pictures"), gan), settings, tmp_path / "work")
    loaded = sample.load_generator(store.fetch(newest.prefix)["generator.safetensors"])
    assert loaded.class_numbers(["light", "0", 1, "dark"]) == [1, 0, 1, 0]
    for wrong in ("grey", "2", -1, ""):
        with pytest.raises(InputError, match="the 2 classes are dark, light"):
            loaded.class_numbers([wrong])


def test_a_snapshots_picture_has_one_row_for_each_class(digits: Dataset, store: Store, tmp_path: Path) -> None:
    """Eight images of the same latents in each."""
    raw = tiny_raw()
    raw["gan"]["conditioning"] = "concat"
    ref = Trainer(load_config(raw), digits, "run", store, tmp_path).fit(StopSignal())
    picture = Image.open(io.BytesIO(store.read_bytes(f"runs/run/samples/{ref.prefix.rpartition('/')[2]}.png")))
    assert picture.size == (8 * 64, 10 * 64)
    sheet = np.array(picture)[::8, ::8].reshape(10, 8, 8, 8).swapaxes(1, 2)
    loaded = sample.load_generator(store.fetch(ref.prefix)["generator.safetensors"])
    for number in (0, 9):
        row = sample.draw_images(loaded.gan, loaded.module, derive_seed("grid"), 8, label=[number] * 8)
        assert (sheet[number] == row[:, 0].numpy()).all()


@pytest.mark.parametrize("conditioning", WAYS)
def test_labels_that_cannot_be_are_refused_by_the_configuration(conditioning: str, tmp_path: Path) -> None:
    gan = {"conditioning": conditioning, "network": MLP}
    with pytest.raises(InputError, match=rf"gan\.conditioning {conditioning} needs labels.*prepare\.source\.label_col"):
        config_of(tmp_path, gan, labels="none")
    points = points_raw()
    points["gan"]["conditioning"] = conditioning
    with pytest.raises(InputError, match=rf"gan\.conditioning {conditioning} needs labels"):
        load_config(points)


def test_folders_that_turn_out_to_have_no_classes_are_refused_before_training(
    settings: Settings, tmp_path: Path
) -> None:
    config = config_of(pictures(tmp_path / "flat", sorted_by_class=False), {"conditioning": "projection"})
    with pytest.raises(InputError, match=r"gan\.conditioning projection needs labels.*sub-folder for each class"):
        trained(config, settings, tmp_path / "work")


@pytest.mark.parametrize("conditioning", ["concat", "auxiliary"])
def test_a_clipped_critic_has_no_room_for_a_class(conditioning: str) -> None:
    clipped = ["gan.objective=wasserstein", "gan.weight_clip=0.01", f"gan.conditioning={conditioning}"]
    with pytest.raises(InputError, match=rf"gan\.conditioning {conditioning}.*gan\.weight_clip.*to projection"):
        load_config(tiny_raw(), clipped)
    load_config(tiny_raw(), [*clipped[:2], "gan.conditioning=projection"])


def test_a_class_costs_an_unconditional_recipe_nothing(digits: Dataset, store: Store, tmp_path: Path) -> None:
    """No weight more, and no column read."""
    subject = Trainer(load_config(tiny_raw()), digits, "run", store, tmp_path)
    assert set(subject.batches.columns) == {"image"}
    assert subject.discriminator is not None
    names = [*subject.generator.state_dict(), *subject.discriminator.state_dict()]
    assert not any("embedding" in name or "projection" in name for name in names)
