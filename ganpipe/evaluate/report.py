"""Keeps a report: as JSON, as a picture of the score over training with the controls as lines, and as pages."""

from __future__ import annotations

import io
import logging
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..config import RunConfig
from ..refs import ControlScores, EvalReport
from ..storage import CorruptObject, Store
from .exhibits import Exhibits
from .metrics import lower_is_better
from .page import Champion, latent_page, page

if TYPE_CHECKING:
    from matplotlib.axes import Axes

log = logging.getLogger(__name__)

CONTROLS = {
    "real": ("held-out real images", "#2a9d5c"),
    "pca_gaussian": ("PCA-Gaussian", "#c1440e"),
    "resampled_train": ("resampled training set", "#8a8a8a"),
    "identity": ("sources as they are", "#c1440e"),
    "constant_mean": ("mean target", "#8d6a9f"),
    "inversion": ("inverted sources", "#b08900"),
}
"""Name -> label and colour, in the picture."""
LINE = "#22577a"
INK = "#333333"
LABEL_HEIGHT = 13
"""Points."""
WIDE_RANGE = 8
"""From this ratio of largest to smallest value on, the axis is logarithmic."""


def write_report(store: Store, report: EvalReport) -> None:
    """Write `runs/<run id>/reports/<protocol hash>.json` and `.png`, over an older report of the same protocol."""
    key = f"runs/{report.run_id}/reports/{report.protocol_hash}"
    store.write_bytes(f"{key}.png", picture(report))
    store.write_bytes(f"{key}.json", report.model_dump_json(indent=1).encode())


def write_pages(
    store: Store, report: EvalReport, config: RunConfig, make_exhibits: Callable[[], Exhibits | None]
) -> None:
    """Write `<protocol hash>.html` beside the report, and `<protocol hash>-latents.html` where there are frames.

    What goes wrong is a warning: the scores are there, and the pages can be made again.
    """
    key, name = f"runs/{report.run_id}/reports/{report.protocol_hash}", report.protocol_hash
    facts = {
        "recipe": config.gan.name,
        "data": f"{config.prepare.source.name}, {config.prepare.described()}",
        "training": f"{report.snapshots[-1].checkpoint.images_seen / 1000:g} kimg",
        "product": config.registration.model,
    }
    try:
        exhibits = make_exhibits()
        latents = f"{name}-latents.html" if exhibits is not None and exhibits.frames is not None else None
        text = page(report, exhibits, _champion(store, config.registration.model), facts, latents)
        store.write_bytes(f"{key}.html", text.encode())
        if exhibits is not None and latents is not None:
            store.write_bytes(f"{key}-latents.html", latent_page(report, exhibits, f"{name}.html").encode())
    except Exception as error:
        log.warning("the report's page is not complete: %s: %s", type(error).__name__, error)


def _champion(store: Store, product: str) -> Champion | None:
    """What is in production, with the scores that it was registered with."""
    from ..register.audit import read_pointer, read_report

    ref = read_pointer(store, product)[0].champion
    if ref is None:
        return None
    try:
        return Champion(ref.version, read_report(store, ref))
    except (FileNotFoundError, CorruptObject) as error:
        log.warning("the scores of %s version %s cannot be read: %s", product, ref.version, error)
        return None


def picture(report: EvalReport) -> bytes:
    """PNG, 1280 x 720: the report's metric for every snapshot, over thousands of images; the best one is marked."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    metric = report.metric
    points = [(s.checkpoint.images_seen / 1000, s.scores[metric]) for s in report.snapshots]
    points = [(kimg, score) for kimg, score in points if math.isfinite(score)]
    lines = [(_labelled(c), c.scores[metric]) for c in report.controls if math.isfinite(c.scores.get(metric, math.nan))]

    figure = Figure(figsize=(8, 4.5), dpi=160, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.plot(*zip(*points, strict=True), color=LINE, marker="o", markersize=4, linewidth=1.8, zorder=3)
    for (_, colour), value in lines:
        axes.axhline(value, color=colour, linewidth=1.2, linestyle=(0, (5, 3)), zorder=2)

    best_kimg, best = report.best.checkpoint.images_seen / 1000, report.best.scores[metric]
    if math.isfinite(best):
        axes.plot([best_kimg], [best], marker="*", markersize=13, color=LINE, markeredgecolor="white", zorder=4)
        axes.annotate(
            f"best {best:.3g}", (best_kimg, best), (0, 11), textcoords="offset points", ha="center", color=LINE,
            weight="bold", zorder=5, bbox={"boxstyle": "round,pad=0.15", "fc": "white", "ec": "none", "alpha": 0.8},
        )  # fmt: skip

    values = [score for _, score in points] + [value for _, value in lines]
    if min(values) > 0 and max(values) / min(values) > WIDE_RANGE:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.margins(x=0.04, y=0.12)
    shifts = _spread([value for _, value in lines], axes)
    for ((label, colour), value), shift in zip(lines, shifts, strict=True):
        axes.annotate(
            f"{label}  {value:.3g}", (1, value), (6, shift), xycoords=("axes fraction", "data"),
            textcoords="offset points", va="center", color=colour, fontsize=9, annotation_clip=False,
        )  # fmt: skip

    direction = "lower is better" if lower_is_better(metric) else "higher is better"
    axes.set_xlabel("thousands of real images seen", color=INK)
    axes.set_ylabel(f"{metric}  ({direction})", color=INK)
    axes.set_title(report.run_id, loc="left", fontsize=11, color=INK)
    axes.set_title(f"n = {report.protocol['n_generated']}, protocol {report.protocol_hash}", loc="right", fontsize=8,
                   color="#8a8a8a")  # fmt: skip
    axes.tick_params(colors=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#bbbbbb")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _labelled(control: ControlScores) -> tuple[str, str]:
    """Label and colour; the floor's label says of how many images it is."""
    label, colour = CONTROLS[control.name]
    return f"{control.n} {label}" if control.name == "real" else label, colour


def _spread(values: list[float], axes: Axes) -> list[float]:
    """Where labels of these values go so that none covers another: shifts in points, upwards."""
    if not values:
        return []
    points = axes.transData.transform([(0, value) for value in values])[:, 1] * 72 / axes.figure.dpi
    shifts, last = [0.0] * len(values), -math.inf
    for index in sorted(range(len(values)), key=lambda index: points[index]):
        last = max(points[index], last + LABEL_HEIGHT)
        shifts[index] = last - points[index]
    return shifts
