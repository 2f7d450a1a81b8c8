"""Pictures for the morning after: the candidate's samples beside the champion's, and the product's trend."""

from __future__ import annotations

import io
import logging
from typing import TYPE_CHECKING

from . import trend
from .errors import WorkFailed
from .refs import Decision, ModelRef, SnapshotScores
from .settings import Settings
from .storage import Store, open_store

if TYPE_CHECKING:
    from PIL.Image import Image

log = logging.getLogger(__name__)

SIDE = 640
"""Largest side of a run's picture in the picture of both, pixels."""
CAPTION, GAP = 34, 16
"""Height of a caption and distance between pictures, pixels."""
INK, PAPER = "#333333", "#ffffff"


def pictures(decision: Decision, settings: Settings) -> dict[str, str]:
    """Make the pictures of a decided night, keep them with the run's reports, and send them to MLflow.

    Returns their URIs by name (`side_by_side`, `trend`), and as `run_page` the run's address on MLflow's pages where a
    server has some. What cannot be made is left out, with a warning.
    """
    from . import tracking

    store, run_id = open_store(settings.store), decision.candidate.checkpoint.run_id
    reports, made = f"runs/{run_id}/reports", {}
    try:
        png = side_by_side(decision, store)
        if png is not None:
            store.write_bytes(f"{reports}/side-by-side.png", png)
            made["side_by_side"] = f"{store.uri}/{reports}/side-by-side.png"
        nights = trend.nights(decision.product, store)
        picture = trend.picture(decision.product, nights)
        store.write_bytes(f"{reports}/trend.png", picture)
        store.write_bytes(f"{reports}/trend.html", trend.page(decision.product, nights, picture).encode())
        made["trend"] = f"{store.uri}/{reports}/trend.png"
    except Exception as error:  # the night is over and decided: nothing may spoil it any more
        log.warning("the pictures of %s are not complete: %s: %s", run_id, type(error).__name__, error)
    try:
        page = tracking.send_reports(store, run_id, settings)
        if page is not None:
            made["run_page"] = page
    except WorkFailed as error:
        log.warning("%s", error)
    return made


def side_by_side(decision: Decision, store: Store) -> bytes | None:
    """A PNG: samples of candidate and champion, of the same noise, each with its score; None without samples.

    Wide pictures stand one below the other. Without a champion there is the candidate alone.
    """
    shown = [("candidate", decision.candidate, decision.candidate_scores)]
    if decision.champion is not None and decision.champion != decision.candidate:
        shown.append(("champion", decision.champion, decision.champion_scores))
    panels = []
    for role, ref, scores in shown:
        picture = _samples(ref, store)
        if picture is not None:
            panels.append((_caption(role, ref, scores, decision.metric), picture))
    return _put_together(panels) if panels else None


def _caption(role: str, ref: ModelRef, scores: SnapshotScores | None, metric: str) -> str:
    score = f", {metric} {scores.scores[metric]:.4g}" if scores is not None and metric in scores.scores else ""
    return f"{role}: version {ref.version}{score}"


def _samples(ref: ModelRef, store: Store) -> Image | None:
    from PIL import Image

    checkpoint = ref.checkpoint
    key = f"runs/{checkpoint.run_id}/samples/{checkpoint.prefix.rpartition('/')[2]}.png"
    try:
        picture = Image.open(io.BytesIO(store.read_bytes(key))).convert("RGB")
    except FileNotFoundError:
        return None
    height = SIDE if picture.width <= 1.5 * picture.height else SIDE // 2 * 3 // 2
    smooth = Image.Resampling.LANCZOS if picture.height > height else Image.Resampling.NEAREST
    return picture.resize((round(picture.width * height / picture.height), height), smooth)


def _put_together(panels: list[tuple[str, Image]]) -> bytes:
    from PIL import Image, ImageDraw, ImageFont

    below = any(picture.width > 1.5 * picture.height for _, picture in panels)
    widths, heights = zip(*((picture.width, picture.height + CAPTION) for _, picture in panels), strict=True)
    gaps = GAP * (len(panels) - 1)
    size = (max(widths), sum(heights) + gaps) if below else (sum(widths) + gaps, max(heights))
    sheet = Image.new("RGB", size, PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=20)
    x = y = 0
    for caption, picture in panels:
        draw.text((x + 2, y + 4), caption, fill=INK, font=font)
        sheet.paste(picture, (x, y + CAPTION))
        x, y = (x, y + picture.height + CAPTION + GAP) if below else (x + picture.width + GAP, y)
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
