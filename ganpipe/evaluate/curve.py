"""The score over training as an SVG picture that takes its colours from the page: best, last, controls, champion."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from ..refs import EvalReport, SnapshotScores
from .metrics import lower_is_better

LEFT, RIGHT, TOP, BOTTOM = 46, 14, 16, 40
"""Margins, pixels."""
LABEL_HEIGHT, LABEL_WIDTH = 15, 135
"""Pixels."""
WIDE_RANGE = 8
"""From this ratio of largest to smallest value on, the axis is logarithmic."""
MARGIN = 0.09
"""Of the axes beyond what is shown, as a share of it."""
LINES = {
    "real": "held-out real",
    "pca_gaussian": "PCA-Gaussian",
    "resampled_train": "memoriser",
    "constant_mean": "mean target",
}


@dataclass(frozen=True)
class Axis:
    """From values to pixels."""

    low: float
    high: float
    start: float
    stop: float
    log: bool = False

    @classmethod
    def over(cls, values: Sequence[float], start: float, stop: float, log: bool = False) -> Axis:
        """One on which all the values lie, with some room at the ends."""
        low, high = _scaled(min(values), log), _scaled(max(values), log)
        room = MARGIN * (high - low) or 0.1 * abs(low) or 1.0
        return cls(low - room, high + room, start, stop, log)

    def at(self, value: float) -> float:
        return self.start + (self.stop - self.start) * (_scaled(value, self.log) - self.low) / (self.high - self.low)

    def ticks(self, most: int) -> list[float]:
        """Round values, as many at most."""
        if self.log:
            decades = range(math.floor(self.low), math.ceil(self.high) + 1)
            for digits in ((1, 2, 5), (1, 3), (1,)):
                found = [digit * 10.0**decade for decade in decades for digit in digits]
                found = [value for value in found if self.low <= math.log10(value) <= self.high]
                if len(found) <= most:
                    break
            return found
        step = 10.0 ** math.floor(math.log10((self.high - self.low) / most))
        step *= next(times for times in (1, 2, 5, 10, 20) if (self.high - self.low) / (times * step) <= most)
        numbers = range(math.ceil(self.low / step), math.floor(self.high / step) + 1)
        return [float(f"{number * step:.12g}") for number in numbers]


def _scaled(value: float, log: bool) -> float:
    return math.log10(value) if log else value


def curve(report: EvalReport, width: int, height: int, champion: float | None = None) -> Markup:
    """`<svg>` of so many pixels: the report's metric for every snapshot, over thousands of images.

    Snapshots stand with their selection seeds' scores; the star is the best one's on the scoring seeds.
    """
    metric, best = report.metric, report.best
    shown = [snapshot for snapshot in report.snapshots if math.isfinite(snapshot.scores[metric])]
    lines = [(LINES.get(c.name, c.name), c.name, c.scores.get(metric, math.nan)) for c in report.controls]
    lines += [("champion", "champion", math.nan if champion is None else champion)]
    lines = [line for line in lines if math.isfinite(line[2])]
    values = [snapshot.scores[metric] for snapshot in shown] + [value for *_, value in lines]
    if math.isfinite(best.scores[metric]):
        values.append(best.scores[metric])
    if not values:
        return Markup("")
    steps = [snapshot.checkpoint.images_seen / 1000 for snapshot in [*report.snapshots, best]]
    log = min(values) > 0 and max(values) / min(values) > WIDE_RANGE
    x = Axis.over(steps, LEFT, width - RIGHT)
    y = Axis.over(values, height - BOTTOM, TOP, log)
    parts = [
        *_grid(x, y, width, height),
        *_band(shown, metric, x, y),
        *_lines(lines, y, width),
        *_snapshots(shown, metric, x, y),
        *_marks(report, shown, x, y, width),
        Markup('<text class="axis" x="{}" y="{}" text-anchor="end">thousands of real images seen</text>').format(
            width - RIGHT, height - 6
        ),
    ]
    label = f"{metric} over training, {'lower' if lower_is_better(metric) else 'higher'} is better"
    head = Markup('<svg viewBox="0 0 {} {}" width="{}" height="{}" role="img" aria-label="{}">')
    return head.format(width, height, width, height, label) + Markup("").join(parts) + Markup("</svg>")


def _grid(x: Axis, y: Axis, width: int, height: int) -> list[Markup]:
    horizontal = Markup('<line class="grid" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>')
    text = Markup('<text class="axis" x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>')
    parts = []
    for value in y.ticks(max(3, height // 55)):
        parts.append(horizontal.format(LEFT, width - RIGHT, y.at(value), y.at(value)))
        parts.append(text.format(LEFT - 7, y.at(value) + 4, "end", f"{value:g}"))
    return parts + [
        text.format(x.at(value), height - BOTTOM + 17, "middle", f"{value:g}")
        for value in x.ticks(max(3, width // 90))
        if value >= 0
    ]


def _band(shown: list[SnapshotScores], metric: str, x: Axis, y: Axis) -> list[Markup]:
    """The intervals, as far as they are on the axis."""
    known = [(x.at(s.checkpoint.images_seen / 1000), s.intervals[metric]) for s in shown if metric in s.intervals]
    if len(known) < 2:
        return []

    def inside(value: float) -> float:
        if y.log and value <= 0:
            return y.start
        return min(max(y.at(value), y.stop), y.start)

    outline = [(at, inside(high)) for at, (_, high) in known] + [(at, inside(low)) for at, (low, _) in known[::-1]]
    return [Markup('<polygon class="band" points="{}"/>').format(_joined(outline))]


def _lines(lines: list[tuple[str, str, float]], y: Axis, width: int) -> list[Markup]:
    """Of controls and champion, each with its name at the left, none over another: above the line, or below one that
    is near to the line above it."""
    line = Markup('<line class="level {}" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>')
    text = Markup('<text class="label {}" x="{}" y="{:.1f}">{} {}</text>')
    levels, labels = [], []
    above, crowd = -math.inf, 0
    for label, name, value in sorted(lines, key=lambda line: y.at(line[2])):
        height = y.at(value)
        levels.append(line.format(name, LEFT, width - RIGHT, height, height))
        crowd = crowd + 1 if height - above < LABEL_HEIGHT else 0
        at = LEFT + 5 + LABEL_WIDTH * max(0, crowd - 1)
        labels.append(text.format(name, at, height + (14 if crowd else -4), label, f"{value:.3g}"))
        above = height
    return levels + labels


def _snapshots(shown: list[SnapshotScores], metric: str, x: Axis, y: Axis) -> list[Markup]:
    places = [(x.at(s.checkpoint.images_seen / 1000), y.at(s.scores[metric])) for s in shown]
    dot = Markup('<circle class="dot" cx="{:.1f}" cy="{:.1f}" r="3"/>')
    line = Markup('<polyline class="curve" points="{}"/>').format(_joined(places))
    return [line, *(dot.format(*at) for at in places)]


def _marks(report: EvalReport, shown: list[SnapshotScores], x: Axis, y: Axis, width: int) -> list[Markup]:
    """A star for the best and a ring for the last."""
    metric, best = report.metric, report.best
    text = Markup('<text class="mark" x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>')
    parts = []

    def label(at: float, height: float, words: str) -> Markup:
        anchor = "end" if at > width - 90 else "start" if at < LEFT + 60 else "middle"
        return text.format(min(at + 6, width - RIGHT) if anchor == "end" else at, height, anchor, words)

    last_is_best = bool(shown) and shown[-1].checkpoint == best.checkpoint
    if math.isfinite(best.scores[metric]):
        at, height = x.at(best.checkpoint.images_seen / 1000), y.at(best.scores[metric])
        parts.append(Markup('<polygon class="star" points="{}"/>').format(_joined(_star(at, height))))
        parts.append(label(at, height - 13, f"{'best and last' if last_is_best else 'best'} {best.scores[metric]:.3g}"))
    if shown and not last_is_best:
        at, height = x.at(shown[-1].checkpoint.images_seen / 1000), y.at(shown[-1].scores[metric])
        parts.append(Markup('<circle class="ring" cx="{:.1f}" cy="{:.1f}" r="6"/>').format(at, height))
        parts.append(label(at, max(height - 12, TOP + 8), f"last {shown[-1].scores[metric]:.3g}"))
    return parts


def _star(x: float, y: float) -> list[tuple[float, float]]:
    radii, angles = (9, 3.8), [math.pi * (corner / 5 - 0.5) for corner in range(10)]
    return [
        (x + radii[corner % 2] * math.cos(angle), y + radii[corner % 2] * math.sin(angle))
        for corner, angle in enumerate(angles)
    ]


def _joined(places: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
