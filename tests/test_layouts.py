"""The configs of published data sets to translate: whole nights, on images made here in the published folders."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

CONFIGS = Path(__file__).parents[1] / "configs"
SMALL = ["gan.feature_dim=4", "train.stop.kimg=0.006", "train.snapshot_kimg=0.006", "train.log_every_kimg=0.002"]
WITHOUT_INCEPTION = [
    "evaluate.extractor=domain",
    "prepare.extractor_fraction=0.4",
    "register.metric=kid_domain",
    "evaluate.score_seeds=1",
]


def plan_and_facade(seed: int) -> tuple[Image.Image, Image.Image]:
    """Windows as plain colours, and the same in perspective of light; 256 px."""
    rng = np.random.default_rng(seed)
    plan = Image.new("RGB", (256, 256), (0, 0, 170))
    draw = ImageDraw.Draw(plan)
    for row in range(4):
        for column in range(4):
            left, top = 64 * column + int(rng.integers(4, 20)), 64 * row + int(rng.integers(4, 20))
            draw.rectangle((left, top, left + int(rng.integers(16, 40)), top + 36), fill=(220, 140, 0))
    light = np.linspace(0.5, 1, 256)[None, :, None]
    return plan, Image.fromarray((np.asarray(plan) * light + rng.integers(0, 20, (256, 256, 3))).astype(np.uint8))


def animal(seed: int, striped: bool) -> Image.Image:
    """One colour or stripes on a meadow; 280 x 256 px."""
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", (280, 256), (90, 150, 60))
    draw = ImageDraw.Draw(image)
    left, top = rng.integers(20, 90, 2).tolist()
    draw.ellipse((left, top, left + 150, top + 90), fill=(240, 240, 240) if striped else (130, 80, 40))
    if striped:
        for x in range(left + 15, left + 150, 20):
            draw.line((x, top + 20, x, top + 70), fill=(10, 10, 10), width=8)
    return image


def facades(root: Path) -> None:
    for number, split in enumerate(["train"] * 190 + ["val"] * 3 + ["test"] * 12):
        plan, facade = plan_and_facade(number)
        pair = Image.fromarray(np.concatenate([np.asarray(facade), np.asarray(plan)], axis=1))
        (root / split).mkdir(parents=True, exist_ok=True)
        pair.save(root / split / f"{number}.jpg", quality=95)


def horse2zebra(root: Path) -> None:
    for name, count in {"trainA": 190, "trainB": 200, "testA": 12, "testB": 13}.items():
        (root / name).mkdir(parents=True)
        for number in range(count):
            animal(number + 100 * len(name) + ord(name[-1]) + ord(name[1]), name.endswith("B")).save(
                root / name / f"{number}.jpg", quality=95
            )


def plain(image_HWC: np.ndarray) -> float:
    """Share of pixels that are of a colour of plans, but for what JPEG does."""
    blue = image_HWC[..., 2].astype(int)
    return float((np.minimum(abs(blue - 170), blue) < 12).mean())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "metrics"),
    [
        (facades, {"kid_domain", "l1", "psnr", "ssim"}),
        (horse2zebra, {"kid_domain_AtoB", "kid_domain_BtoA", "cycle_l1"}),
    ],
)
def test_a_night_in_the_published_layout(make: Callable[[Path], None], metrics: set[str], tmp_path: Path) -> None:
    name, home = make.__name__, tmp_path / "home"
    make(tmp_path / "data" / name)
    overrides = [f"prepare.source.path={tmp_path}/data/{name}", *SMALL, *WITHOUT_INCEPTION]
    arguments = [part for override in overrides for part in ("--set", override)]
    command = [sys.executable, "-m", "ganpipe", "run", str(CONFIGS / f"{name}.yaml"), *arguments, "--json"]
    environment = {key: value for key, value in os.environ.items() if key != "GANPIPE_TRACKING_URI"}
    environment |= {"GANPIPE_HOME": str(home), "GANPIPE_STORE": f"file://{home}/store"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, timeout=900, check=False)
    assert done.returncode == 3, "six steps do not beat the mean target"
    night = json.loads(done.stdout)
    scores = night["report"]["best"]["scores"]
    assert metrics <= scores.keys() and all(math.isfinite(score) for score in scores.values())
    assert night["decision"]["metric"] == "kid_domain" and not night["decision"]["promoted"]
    (picture,) = (home / "store" / "runs" / night["run_id"] / "samples").glob("*.png")
    sheet = np.asarray(Image.open(picture).convert("RGB"))
    if make is facades:
        width = sheet.shape[1] // 3
        assert plain(sheet[:, :width]) > 0.8, "the right half is what is translated, BtoA"
        assert plain(sheet[:, -width:]) < 0.5
