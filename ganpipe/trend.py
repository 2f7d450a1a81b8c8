"""A product over its nights: score, speed and cost, and what the gate said. From the store alone.

Scores under unlike protocols share a panel, but no line and no colour.
"""

from __future__ import annotations

import base64
import html
import io
import json
import math
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict

from .evaluate.metrics import lower_is_better
from .refs import ModelRef
from .register import audit
from .storage import Store

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NIGHTS = 60
"""As many as are shown: the newest."""
COLOURS = ("#22577a", "#c1440e", "#2a9d5c", "#7b4fa3", "#8a6d00", "#c2185b", "#00838f", "#5d4037", "#6d8b00", "#455a64")
"""Of protocols, one after the other."""
LINES = ("-", "--", ":")
"""From the eleventh protocol on a colour comes again, with another kind of line."""
INK, PALE = "#333333", "#bbbbbb"

Answer = Literal["promoted", "not promoted", "not asked"]


class NightRow(BaseModel):
    """One night: a registered version."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    at: datetime
    """When it was registered."""
    run_id: str
    version: str
    answer: Answer
    reason: str
    metric: str
    score: float | None
    """Of the best snapshot, on seeds of its own; None when it is not finite."""
    protocol_hash: str
    kimg: float | None
    """Trained in all."""
    images_per_second: float | None
    """Over the whole training."""
    device_hours: float | None
    """Time of training x processes: one for each GPU."""


def nights(product: str, store: Store, newest: int = NIGHTS) -> list[NightRow]:
    """The product's newest nights, oldest first. Raises InputError for an unknown product."""
    versions = audit.read_versions(store, product, newest)
    decided = {
        record.decision.candidate.version: record.decision
        for _, record in audit.read_log(store, product, 2 * newest)
        if record.decision is not None and record.kind == "promote"
    }
    rows = []
    for ref in versions:
        report, decision = audit.read_report(store, ref), decided.get(ref.version)
        score = report.best.scores[report.metric]
        answer: Answer = "not asked" if decision is None else "promoted" if decision.promoted else "not promoted"
        rows.append(
            NightRow(
                at=ref.created,
                run_id=report.run_id,
                version=ref.version,
                answer=answer,
                reason=decision.reason if decision else "",
                metric=report.metric,
                score=score if math.isfinite(score) else None,
                protocol_hash=report.protocol_hash,
                **_training(ref, store),
            )
        )
    return rows


def _training(ref: ModelRef, store: Store) -> dict[str, Any]:
    """How far the run went, how fast, at what cost; from its newest checkpoint that is left."""
    unknown = {"kimg": None, "images_per_second": None, "device_hours": None}
    prefix = max(store.published(f"runs/{ref.checkpoint.run_id}/checkpoints"), default=None)
    if prefix is None:
        return unknown
    with suppress(FileNotFoundError):  # a run of another tool may have none
        facts = json.loads(store.read_bytes(f"{prefix}/progress.json"))
        seconds, images_seen = facts["seconds"], facts["images_seen"]
        devices = facts.get("device_seconds", seconds * facts.get("ranks", 1))
        return {
            "kimg": images_seen / 1000,
            "images_per_second": images_seen / seconds if seconds else None,
            "device_hours": devices / 3600,
        }
    return unknown


# --- the picture -------------------------------------------------------------------------------------------------


def import_matplotlib() -> None:
    """What `picture` would else spend most of its time on."""
    import matplotlib.backends.backend_agg
    import matplotlib.figure  # noqa: F401


def picture(product: str, rows: list[NightRow]) -> bytes:
    """PNG, 1280 pixels wide: three panels over the nights. Promoted versions are stars with their number."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(8, 6), dpi=160, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(3, 1, sharex=True, height_ratios=[2, 1, 1])
    _scores(panels[0], rows)
    panels[0].set_title(f"{product}: the last {len(rows)} nights", loc="left", fontsize=11, color=INK)
    for axes, name, label in (
        (panels[1], "images_per_second", "images / s"),
        (panels[2], "device_hours", "device hours"),
    ):
        values = [getattr(row, name) for row in rows]
        axes.bar(range(len(rows)), [value or 0 for value in values], color=COLOURS[0], width=0.6)
        axes.set_ylabel(label, color=INK)
    for axes in panels:
        axes.tick_params(colors=INK)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(PALE)
    panels[2].xaxis.set_major_locator(MaxNLocator(8, integer=True))
    panels[2].xaxis.set_major_formatter(lambda x, _: _date(rows, x))
    panels[2].set_xlim(-0.6, len(rows) - 0.4)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _date(rows: list[NightRow], position: float) -> str:
    index = round(position)
    return f"{rows[index].at:%d %b}\n{rows[index].at:%H:%M}" if 0 <= index < len(rows) else ""


def _scores(axes: Axes, rows: list[NightRow]) -> None:
    """Joined within one protocol only."""
    kinds = list(dict.fromkeys((row.metric, row.protocol_hash) for row in rows))
    for number, (metric, protocol) in enumerate(kinds):
        colour = COLOURS[number % len(COLOURS)]
        of_kind = [
            (night, row) for night, row in enumerate(rows) if (row.metric, row.protocol_hash) == (metric, protocol)
        ]
        points = {night: row.score for night, row in of_kind if row.score is not None}
        label = f"{metric}, protocol {protocol[:8]}"
        axes.plot(
            list(points),
            list(points.values()),
            color=colour,
            marker="o",
            markersize=4,
            linewidth=1.4,
            label=label,
            linestyle=LINES[number // len(COLOURS) % len(LINES)],
        )
    stars = [(night, row) for night, row in enumerate(rows) if row.answer == "promoted" and row.score is not None]
    for night, row in stars:
        colour = COLOURS[kinds.index((row.metric, row.protocol_hash)) % len(COLOURS)]
        axes.plot([night], [row.score or 0], marker="*", markersize=15, color=colour, markeredgecolor="white", zorder=4)
        axes.annotate(
            f"champion: v{row.version}", (night, row.score or 0), (0, 10), textcoords="offset points", ha="center",
            fontsize=8, color=colour,
        )  # fmt: skip
    values = [row.score for row in rows if row.score is not None]
    if values and min(values) > 0 and max(values) / min(values) > 8:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.margins(y=0.2)
    metrics = list(dict.fromkeys(row.metric for row in rows))
    directions = {"lower" if lower_is_better(metric) else "higher" for metric in metrics}
    axes.set_ylabel(f"{' / '.join(metrics)}\n({' / '.join(sorted(directions))} is better)", color=INK)
    if values:
        axes.legend(fontsize=8, frameon=False, labelcolor=INK)


# --- the page ----------------------------------------------------------------------------------------------------

STYLE = """body{font:14px/1.5 system-ui,sans-serif;color:#333;max-width:1080px;margin:2em auto;padding:0 1em}
img{width:100%;max-width:960px}table{border-collapse:collapse;width:100%}td,th{padding:4px 10px;text-align:left;
border-bottom:1px solid #ddd;vertical-align:top}td.n{text-align:right;font-variant-numeric:tabular-nums}
tr.promoted td{background:#eef6f0}small{color:#777}"""


def page(product: str, rows: list[NightRow], png: bytes) -> str:
    """The picture and a table of the nights, newest first, as one HTML file that needs no other."""
    head = ("night (UTC)", "version", "gate", "score", "protocol", "kimg", "images/s", "device hours")
    lines = [_html_row(row) for row in reversed(rows)]
    image = base64.b64encode(png).decode()
    return "\n".join([
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{html.escape(product)}: nights</title>",
        f"<style>{STYLE}</style><h1>{html.escape(product)}</h1>",
        f'<img alt="score, speed and cost over the nights" src="data:image/png;base64,{image}">',
        f"<table><tr>{''.join(f'<th>{name}</th>' for name in head)}</tr>",
        *lines,
        "</table></html>",
        "",
    ])  # fmt: skip


def _html_row(row: NightRow) -> str:
    score = "-" if row.score is None else f"{row.metric} {row.score:.4g}"
    numbers = [
        "-" if value is None else f"{value:{form}}"
        for value, form in ((row.kimg, "g"), (row.images_per_second, ",.0f"), (row.device_hours, ".3g"))
    ]
    gate = f"{row.answer}<br><small>{html.escape(row.reason)}</small>"
    night = f"{row.at:%Y-%m-%d %H:%M}<br><small>{html.escape(row.run_id)}</small>"
    cells = [night, html.escape(row.version), gate, score, f"<code>{row.protocol_hash[:8]}</code>"]
    text = "".join(f"<td>{cell}</td>" for cell in cells) + "".join(f'<td class="n">{cell}</td>' for cell in numbers)
    return f'<tr class="{row.answer.replace(" ", "-")}">{text}</tr>'
