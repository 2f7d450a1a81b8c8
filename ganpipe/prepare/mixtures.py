"""Mixtures of Gaussians in the plane, whose every mode is known: the fastest honest test of a GAN."""

from __future__ import annotations

import hashlib
import math

import numpy as np

from ..prepareconfig import PointsConfig
from ..spec import Column, Mixture
from .decode import Rows
from .found import Columns

_GRID = (-4.0, -2.0, 0.0, 2.0, 4.0)
_EIGHTHS = [math.pi / 4 * mode for mode in range(8)]
MIXTURES = {
    "ring8": Mixture(
        centres=tuple((round(2 * math.cos(angle), 12), round(2 * math.sin(angle), 12)) for angle in _EIGHTHS),
        deviation=0.02,
    ),
    "grid25": Mixture(centres=tuple((x, y) for x in _GRID for y in _GRID), deviation=0.05),
}


def draw_mixture(mixture: Mixture, n: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """n points, float32 (n, 2), and the number of each one's mode, int64 (n,)."""
    modes = generator.integers(len(mixture.centres), size=n)
    points = np.array(mixture.centres)[modes] + mixture.deviation * generator.standard_normal((n, 2))
    return points.astype(np.float32), modes


def draw_rows(config: PointsConfig) -> Rows:
    """The rows of a point source: the same on every machine, each labelled with its mode."""
    source = config.source
    mixture = MIXTURES[source.name]
    generator = np.random.Generator(np.random.PCG64(source.seed))
    points, modes = draw_mixture(mixture, source.samples, generator)
    names = tuple(map(str, range(len(mixture.centres))))
    return Rows(
        keys=[],
        hashes=[hashlib.sha256(point.tobytes()).digest() for point in points],
        columns=Columns(modes.tolist(), names),
        values=points,
        column=Column(kind="point", dtype="float32", shape=(2,), shards=(), mixture=mixture),
        decoded=0,
        skipped=0,
        names=("point",),
    )
