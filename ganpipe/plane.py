"""Pictures of points in the plane: generated ones over real ones, and the discriminator's surface."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from .evaluate.modes import HIGH_QUALITY_SIGMAS
from .spec import Mixture

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PIXELS = 720
"""Height of a picture, and width of each of its panels."""
RESOLUTION = 192
"""Points at which a surface is looked at, along each axis."""
REAL, GENERATED, CIRCLE, INK = "#9aa5ad", "#c1440e", "#22577a", "#333333"

Surface = Callable[[np.ndarray], np.ndarray]
"""From points, float32 (N, 2), to the discriminator's logits, (N,)."""


def picture(
    generated_N2: np.ndarray,
    mixture: Mixture | None = None,
    real_N2: np.ndarray | None = None,
    surface: Surface | None = None,
) -> bytes:
    """A PNG: the generated points over the real ones, the modes circled; beside it the surface, when there is one.

    Each panel is 720 x 720 pixels. Points that lie outside of the data's neighbourhood are counted in a corner.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = 1 if surface is None else 2
    figure = Figure(figsize=(PIXELS * panels / 120, PIXELS / 120), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, panels, squeeze=False)[0]
    reach = _reach(generated_N2, mixture, real_N2)
    _scatter(axes[0], generated_N2, mixture, real_N2, reach)
    axes[0].set_title(f"{len(generated_N2):,} generated points", loc="left", fontsize=11, color=INK)
    if surface is not None:
        _surface(axes[1], surface, mixture, reach)
        axes[1].set_title("discriminator's logits", loc="left", fontsize=11, color=INK)
    for panel in axes:
        panel.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
        panel.tick_params(colors=INK, labelsize=8)
        panel.spines[:].set_color("#bbbbbb")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _reach(generated_N2: np.ndarray, mixture: Mixture | None, real_N2: np.ndarray | None) -> float:
    """Half the side of the square that is shown: a quarter more than the data takes."""
    known = generated_N2 if real_N2 is None else real_N2
    if mixture is not None:
        known = np.array(mixture.centres)
    return 1.25 * max(float(np.abs(known).max(initial=0)), 0.1)


def _scatter(
    axes: Axes, generated_N2: np.ndarray, mixture: Mixture | None, real_N2: np.ndarray | None, reach: float
) -> None:
    if real_N2 is not None:
        axes.scatter(real_N2[:, 0], real_N2[:, 1], s=6, color=REAL, linewidths=0, label="real")
    _circles(axes, mixture, CIRCLE)
    axes.scatter(
        generated_N2[:, 0], generated_N2[:, 1], s=4, color=GENERATED, alpha=0.5, linewidths=0, label="generated"
    )
    axes.legend(loc="lower right", fontsize=8, markerscale=2, framealpha=0.9, edgecolor="none", labelcolor=INK)
    outside = int((~(np.abs(generated_N2) <= reach).all(1)).sum())
    if outside:
        axes.annotate(
            f"{outside:,} points outside", (0.02, 0.02), xycoords="axes fraction", fontsize=8, color=GENERATED
        )


def _surface(axes: Axes, surface: Surface, mixture: Mixture | None, reach: float) -> None:
    ticks = np.linspace(-reach, reach, RESOLUTION, dtype=np.float32)
    grid_N2 = np.stack(np.meshgrid(ticks, ticks), axis=-1).reshape(-1, 2)
    logits = surface(grid_N2).reshape(RESOLUTION, RESOLUTION)
    heat = axes.pcolormesh(ticks, ticks, logits, cmap="viridis", shading="nearest")
    if np.ptp(logits) > 0:
        axes.contour(ticks, ticks, logits, levels=12, colors="white", linewidths=0.5, alpha=0.6)
    _circles(axes, mixture, "white")
    bar = axes.figure.colorbar(heat, ax=axes, fraction=0.046, pad=0.02)
    bar.ax.tick_params(colors=INK, labelsize=8)
    bar.outline.set_visible(False)


def _circles(axes: Axes, mixture: Mixture | None, colour: str) -> None:
    from matplotlib.collections import EllipseCollection

    if mixture is None:
        return
    diameters = [2 * HIGH_QUALITY_SIGMAS * mixture.deviation] * len(mixture.centres)
    axes.add_collection(
        EllipseCollection(
            diameters, diameters, np.zeros(len(diameters)), units="xy", offsets=mixture.centres,
            offset_transform=axes.transData, facecolors="none", edgecolors=colour, linewidths=0.8,
        )
    )  # fmt: skip
