"""Real colour pictures without a network: crops of scikit-learn's two photographs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def cut(folder: Path, count: int, side: int = 64, seed: int = 0) -> Path:
    """Write `count` distinct JPEG crops of `side` pixels, all in one folder. Returns the folder."""
    from sklearn.datasets import load_sample_images

    folder.mkdir(parents=True, exist_ok=True)
    photographs = load_sample_images().images
    rng = np.random.default_rng(seed)
    for number in range(count):
        photograph = photographs[number % len(photographs)]
        height, width, _ = photograph.shape
        top, left = rng.integers(0, height - side), rng.integers(0, width - side)
        crop = photograph[top : top + side, left : left + side]
        Image.fromarray(crop).save(folder / f"crop-{number:05d}.jpg", quality=92)
    return folder
