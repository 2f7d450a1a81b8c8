"""Folders of small real images, and a run configuration that wants little of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ganpipe import prepare
from ganpipe.config import RunConfig, load_config
from ganpipe.errors import InputError
from ganpipe.settings import Settings
from ganpipe.storage import open_store

Configure = Callable[..., RunConfig]
SaveImages = Callable[..., list[Path]]
Refused = Callable[[RunConfig], str]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    home = tmp_path / "home"
    return Settings(home=home, store=f"file://{home}/store", tracking_uri="off")


@pytest.fixture
def configure() -> Configure:
    """configure(folder, None for digits, or a source {...}, evaluate={...}, batch=..., **fields of prepare)."""

    def build(
        place: Path | dict[str, Any] | None, evaluate: dict[str, Any] | None = None, batch: int = 4, **prepare: Any
    ) -> RunConfig:
        labels = {"labels": prepare.pop("labels")} if "labels" in prepare else {}
        source = {"name": "folder", "path": str(place), **labels} if isinstance(place, Path) else place
        source = source or {"name": "digits"}
        return load_config(
            {
                "name": "test",
                "prepare": {
                    "source": source,
                    "resolution": 8,
                    "test_fraction": 0.4,
                    "extractor_fraction": 0,
                    **prepare,
                },
                "gan": {"name": "classic"},
                "train": {"batch": batch, "stop": {"kimg": 1}},
                "evaluate": evaluate or {"extractor": "inception", "allow_few": True},
                "register": {"model": "test"},
            }
        )

    return build


@pytest.fixture
def save_images() -> SaveImages:
    """save_images(folder, count, seed=, classes=): random 10 x 12 PNGs, dealt out to one sub-folder per class.

    Without classes they lie right in the folder. Returns their paths.
    """

    def save(folder: Path, count: int, seed: int = 0, classes: tuple[str, ...] = ("cat", "dog")) -> list[Path]:
        rng = np.random.default_rng(seed)
        paths = []
        for number in range(count):
            path = folder / (classes[number % len(classes)] if classes else "") / f"{number:03d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (12, 10, 3), dtype=np.uint8)).save(path)
            paths.append(path)
        return paths

    return save


@pytest.fixture
def refused(settings: Settings) -> Refused:
    """refused(config) -> the message of the InputError, after which nothing is published and no work left behind."""

    def refuse(config: RunConfig) -> str:
        with pytest.raises(InputError) as error:
            prepare.run(config, settings)
        assert error.value.exit_code == 2
        assert not list(open_store(settings.store).list())
        assert not list((settings.home / "work").glob("*"))
        return str(error.value)

    return refuse


@pytest.fixture
def images(tmp_path: Path, save_images: SaveImages) -> Path:
    """Forty images in two class folders."""
    save_images(tmp_path / "images", 40)
    return tmp_path / "images"
