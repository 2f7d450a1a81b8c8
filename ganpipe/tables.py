"""Scores as tables for people: names of columns, cells, and their alignment."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .refs import ControlScores

FEW = 10_000
"""Images, below which the Frechet distance's authors advise against it (arXiv:1706.08500): KID has no bias there."""
CONTROLS = {
    "real": "floor",
    "pca_gaussian": "PCA-Gaussian",
    "resampled_train": "memoriser",
    "identity": "identity",
    "constant_mean": "mean target",
    "inversion": "inversion",
}
INTERVAL = "large n, 95 %"
INTERVAL_NOTE = "intervals are of the value at very many samples, where a Frechet distance has lost its bias"


def control_columns(controls: Sequence[ControlScores]) -> dict[str, Mapping[str, float]]:
    """Label -> scores. The floor's label says of how many images it is: no score of another number compares with it."""
    return {
        f"{CONTROLS.get(control.name, control.name)}{f' (n={control.n})' if control.name == 'real' else ''}": (
            control.scores
        )
        for control in controls
    }


def in_order(metrics: Iterable[str], first: str, protocol: Mapping[str, Any]) -> list[str]:
    """The metric of comparison, KID where generated images are few, then all others as they were measured."""
    many = protocol.get("n_generated", FEW) >= FEW
    return sorted(metrics, key=lambda name: (name != first, many or not name.startswith("kid")))


def compared(
    first: str,
    columns: Mapping[str, Mapping[str, float]],
    protocol: Mapping[str, Any],
    intervals: Mapping[str, tuple[float, float]] | None = None,
) -> list[list[str]]:
    """Rows of a table of scores under a protocol: one per metric, `first` first, one column per name.

    `intervals` are of the first column's scores, and stand beside it when there are any.
    """
    metrics = in_order(next(iter(columns.values())), first, protocol)
    rows = [["metric", *columns]]
    for metric in metrics:
        rows.append([metric, *(f"{scores[metric]:.4g}" if metric in scores else "-" for scores in columns.values())])
    if intervals:
        cells = [INTERVAL, *(interval_text(intervals.get(metric)) for metric in metrics)]
        for row, cell in zip(rows, cells, strict=True):
            row.insert(2, cell)
    return rows


def interval_text(interval: tuple[float, float] | None) -> str:
    """`[0.41, 0.52]`"""
    return "-" if interval is None else f"[{interval[0]:.3g}, {interval[1]:.3g}]"


def aligned(rows: list[list[str]]) -> list[str]:
    """Rows of cells as lines of text: names to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join([name.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True))])
        for name, *cells in rows
    ]
