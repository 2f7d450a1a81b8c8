"""A report as one HTML page that needs no other, and the page beside it on which one steps through the latents.

Pure: from an EvalReport and what there is to show to text. The templates escape whatever they are given.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from .. import config as configuration
from ..refs import ClassShare, EvalReport, Scores
from ..tables import in_order
from .curve import curve
from .exhibits import Exhibits, Points
from .metrics import FRECHET, base_name, lower_is_better
from .modes import HIGH_QUALITY_SIGMAS
from .protocol import UNCOUNTED

TEMPLATES = Path(__file__).parent / "templates"
WIDE, NARROW = (960, 360), (340, 300)
"""Sizes of the curve: for desktops, and for phones."""
COLUMNS = {
    "real": ("held-out real", "the floor: images that no GAN made"),
    "pca_gaussian": ("PCA-Gaussian", "any GAN worth its time beats it"),
    "resampled_train": ("memoriser", "a resampling of the training set"),
    "identity": ("identity", "the sources as they are"),
    "constant_mean": ("mean target", "the mean of the training set"),
    "inversion": ("inversion", "the negatives of the sources"),
}
"""Control -> heading, and what it is."""


@dataclass(frozen=True)
class Champion:
    """What was in production when the page was made, as it was registered."""

    version: str
    report: EvalReport


def page(
    report: EvalReport,
    exhibits: Exhibits | None = None,
    champion: Champion | None = None,
    facts: Mapping[str, str] | None = None,
    latents: str | None = None,
) -> str:
    """The report; `facts` are said about the run, and `latents` is the address of the latent browser."""
    unlike = _unlike(report, champion)
    rival = champion.report.best.scores.get(report.metric) if champion and not unlike else None
    return _template("report.html").render(
        report=report,
        exhibits=exhibits,
        champion=champion,
        unlike=unlike,
        facts=facts or {},
        latents=latents,
        words=words(report, champion, unlike),
        headline=_headline(report),
        columns=_columns(report, champion if not unlike else None),
        table=_table(report, champion if not unlike else None),
        classes=_by_class(report),
        shares=_shares(report, exhibits),
        curves=[curve(report, *size, rival) for size in (WIDE, NARROW)],
        scatter=None if exhibits is None or exhibits.points is None else scatter(exhibits.points),
        alarms=report.diagnostics.alarms if report.diagnostics else None,
        protocol=_flat(report.protocol),
        number=number,
        interval=interval,
        lower_is_better=lower_is_better,
    )


def latent_page(report: EvalReport, exhibits: Exhibits, home: str) -> str:
    """The latent browser of what is shown; `home` is the address of the report."""
    frames = exhibits.frames
    assert frames is not None
    data = {
        "seeds": list(frames.seeds),
        "truncations": list(frames.truncations),
        "frames": [[picture.uri for picture in row] for row in frames.pictures],
    }
    return _template("latents.html").render(
        report=report,
        frames=frames,
        home=home,
        first=frames.pictures[0][frames.truncations.index(1.0)],
        data=Markup(json.dumps(data).replace("<", "\\u003c")),  # JSON for a script: nothing in it ends the element
    )


@cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _template(name: str) -> Any:
    return _environment().get_template(name)


# --- numbers -----------------------------------------------------------------------------------------------------


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def interval(scores: Scores, metric: str) -> str:
    """`0.35 to 0.52`, or nothing."""
    if metric not in scores.intervals:
        return ""
    low, high = scores.intervals[metric]
    return f"{number(low)} to {number(high)}"


def _metrics(report: EvalReport) -> list[str]:
    return in_order(report.best.scores, report.metric, report.protocol)


def _columns(report: EvalReport, champion: Champion | None) -> list[tuple[str, str]]:
    """Heading and explanation of each column of scores."""
    kimg = report.best.checkpoint.images_seen / 1000
    columns = [("this run", f"its best snapshot, at {kimg:g} kimg, mean of {len(report.best.seeds)} sample seeds")]
    if champion is not None:
        columns.append((f"champion (v{champion.version})", "as it was registered, under this protocol"))
    return columns + [COLUMNS.get(control.name, (control.name, "")) for control in report.controls]


def _table(report: EvalReport, champion: Champion | None) -> list[tuple[str, list[Scores]]]:
    """(metric, scores of each column) for every metric."""
    sets: list[Scores] = [report.best, *([champion.report.best] if champion else []), *report.controls]
    return [(metric, sets) for metric in _metrics(report)]


def _by_class(report: EvalReport) -> dict[str, dict[str, tuple[float | None, float | None]]]:
    """class -> metric -> (this run's, held-out real images')."""
    ours = report.best.by_class
    real = next((control.by_class for control in report.controls if control.name == "real"), {})
    names = dict.fromkeys(name for scores in [*ours.values(), *real.values()] for name in scores)
    metrics = [metric for metric in report.best.scores if metric in ours or metric in real]
    metrics += [metric for metric in dict.fromkeys([*ours, *real]) if metric not in metrics]
    return {
        name: {metric: (ours.get(metric, {}).get(name), real.get(metric, {}).get(name)) for metric in metrics}
        for name in names
    }


def _shares(report: EvalReport, exhibits: Exhibits | None) -> list[ClassShare]:
    """Of classes, as their alarm counted them; of points, of their modes."""
    if report.diagnostics is not None:
        return report.diagnostics.classes
    return exhibits.modes if exhibits is not None else []


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = str(value)
    return flat


def _unlike(report: EvalReport, champion: Champion | None) -> list[str]:
    """Why the champion's scores cannot stand beside these."""
    if champion is None:
        return []
    theirs, ours = (
        {name: value for name, value in protocol.items() if name not in UNCOUNTED}
        for protocol in (champion.report.protocol, report.protocol)
    )
    lines = configuration.differences(theirs, ours)
    if champion.report.best.seeds != report.best.seeds:
        lines.append(f"sample seeds: {len(champion.report.best.seeds)} -> {len(report.best.seeds)} of them")
    return lines


# --- words -------------------------------------------------------------------------------------------------------


def _headline(report: EvalReport) -> dict[str, str]:
    metric, best = report.metric, report.best
    return {
        "value": number(best.scores[metric]),
        "interval": interval(best, metric),
        "limit": " for infinitely many samples" if base_name(metric) == FRECHET else "",
        "direction": "lower is better" if lower_is_better(metric) else "higher is better",
    }


def words(report: EvalReport, champion: Champion | None, unlike: list[str]) -> list[str]:
    """What the numbers say, one sentence each."""
    metric, value = report.metric, report.best.scores[report.metric]
    sentences = []
    floor = next((c.scores.get(metric, math.nan) for c in report.controls if c.name == "real"), math.nan)
    if lower_is_better(metric) and floor > 0 and value > 0:
        sentences.append(f"That is {value / floor:.2g} times the {number(floor)} of held-out real images.")
    elif math.isfinite(floor):
        sentences.append(f"Held-out real images have {number(floor)}.")
    if champion is not None:
        sentences.append(_beside(report, champion, unlike))
    return [*sentences, course(report)]


def _beside(report: EvalReport, champion: Champion, unlike: list[str]) -> str:
    if champion.report.best.checkpoint == report.best.checkpoint:
        return f"This snapshot is the champion, version {champion.version}."
    if unlike:
        return f"The champion, version {champion.version}, was scored under another protocol, and is not compared here."
    metric = report.metric
    ours, theirs = report.best.scores[metric], champion.report.best.scores.get(metric, math.nan)
    ahead = ours < theirs if lower_is_better(metric) else ours > theirs
    side = "better than" if ahead else "not better than"
    return (
        f"That is {side} the {number(theirs)} of the champion, version {champion.version}; the gate scores both afresh."
    )


def course(report: EvalReport) -> str:
    """How the run went on after its best snapshot, both on the selection seeds."""
    metric, last = report.metric, report.snapshots[-1]
    kimg = report.best.checkpoint.images_seen / 1000
    if last.checkpoint == report.best.checkpoint:
        if len(report.snapshots) == 1:
            return f"It is the run's only snapshot, at {kimg:g} kimg."
        return f"The last snapshot, at {kimg:g} kimg, is the best: longer training may make a better one."
    then = next(s.scores[metric] for s in report.snapshots if s.checkpoint == report.best.checkpoint)
    end = last.checkpoint.images_seen / 1000
    if not math.isfinite(last.scores[metric]):
        return f"The run diverged after its best snapshot, at {kimg:g} kimg: the last one, at {end:g} kimg, makes NaN."
    return (
        f"The run got worse after its best snapshot, at {kimg:g} kimg: the last one, at {end:g} kimg, has "
        f"{number(last.scores[metric])}, where the best had {number(then)} on the same sample seeds."
    )


# --- points ------------------------------------------------------------------------------------------------------


def scatter(points: Points, side: int = 560) -> Markup:
    """`<svg>`: generated points over real ones, modes circled, interpolations as lines."""
    known = points.real if points.mixture is None else list(points.mixture.centres)
    reach = 1.25 * max((abs(float(value)) for row in known for value in row), default=1.0)
    scale = side / 2 / reach

    def at(row: Any) -> tuple[float, float]:
        return side / 2 + scale * float(row[0]), side / 2 - scale * float(row[1])

    dot = Markup('<circle class="{}" cx="{:.1f}" cy="{:.1f}" r="{}"/>')
    parts = [dot.format("real", *at(row), 2.2) for row in points.real if abs(row).max() <= reach]
    if points.mixture is not None:
        radius = scale * HIGH_QUALITY_SIGMAS * points.mixture.deviation
        parts += [dot.format("mode", *at(centre), f"{radius:.1f}") for centre in points.mixture.centres]
    inside = [row for row in points.generated if math.isfinite(float(abs(row).max())) and abs(row).max() <= reach]
    parts += [dot.format("generated", *at(row), 1.8) for row in inside]
    for path in points.paths:
        along = " ".join("{:.1f},{:.1f}".format(*at(row)) for row in path)
        parts.append(Markup('<polyline class="path" points="{}"/>').format(along))
    outside = len(points.generated) - len(inside)
    if outside:
        parts.append(Markup('<text class="axis" x="8" y="{}">{} points outside</text>').format(side - 8, outside))
    head = Markup('<svg class="scatter" viewBox="0 0 {} {}" role="img" aria-label="generated points over real ones">')
    return head.format(side, side) + Markup("").join(parts) + Markup("</svg>")
