"""The report's page: all numbers are on it, nothing of it is taken for markup, and parts may be missing."""

from __future__ import annotations

import json
import math
import re
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from ganpipe.evaluate.exhibits import Exhibits, Frames, Pair, Picture, Points
from ganpipe.evaluate.page import Champion, course, latent_page, page
from ganpipe.refs import Alarm, CheckpointRef, ClassShare, ControlScores, Diagnostics, EvalReport, SnapshotScores
from ganpipe.spec import Mixture

EVIL = "<script>alert('x')</script>"
VOID = {"meta", "img", "br", "line", "circle", "polyline", "polygon", "input", "link"}


class Reader(HTMLParser):
    """Text and tags of a page; every element must be closed by its own end tag."""

    def __init__(self, text: str):
        super().__init__()
        self.words: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def scored(kimg: int, fid: float, **more: Any) -> SnapshotScores:
    checkpoint = CheckpointRef(
        run_id=EVIL, images_seen=1000 * kimg, prefix=f"runs/x/checkpoints/kimg-{kimg}", generator_sha256="ab" * 32
    )
    scores = {"is_domain": 7.125 + kimg, "fid_domain": fid, "recall_domain": 0.815}
    return SnapshotScores(
        checkpoint=checkpoint, scores=scores, by_seed={name: [value * 0.99, value * 1.01] for name, value in
        scores.items()}, seeds=[11, 12], **more,
    )  # fmt: skip


def report(**update: Any) -> EvalReport:
    best = scored(
        20,
        1.234,
        intervals={"fid_domain": (1.1111, 1.3579), "recall_domain": (0.76, 0.87)},
        by_class={"recall_domain": {EVIL: 0.4321, "seven": 0.8765}},
    )
    fields: dict[str, Any] = {
        "run_id": EVIL, "dataset_digest": "d" * 64, "protocol": {"extractor": EVIL, "controls": {"draws": 3}},
        "protocol_hash": "0123456789abcdef", "metric": "fid_domain", "best": best,
        "snapshots": [scored(10, 8.765), scored(20, 1.345), scored(30, 2.468)],
        "controls": [
            ControlScores(name="real", n=9, scores={"fid_domain": 0.321, "is_domain": 9.5, "recall_domain": 0.9},
                          intervals={"fid_domain": (0.2, 0.4)}, by_class={"recall_domain": {EVIL: 0.5432}}),
            ControlScores(name=EVIL, n=9, scores={"fid_domain": 77.25}),
        ],
        "diagnostics": Diagnostics(
            generated=9, held_out=9, kind="classes", classes=[ClassShare(name=EVIL, real=0.125, generated=0.375)],
            alarms=[
                Alarm(name="duplicates", raised=True, statistic=0.625, threshold=0.0625, detail=f"{EVIL} & many"),
                Alarm(name="memorised", raised=False, statistic=0.03125, threshold=0.05, detail="few"),
            ],
        ),
    }  # fmt: skip
    return EvalReport(**{**fields, **update})


def picture(value: int = 0, n: int = 4) -> Picture:
    return Picture.of(np.full((n, 1, 8, 8), value, np.uint8))


def shown(**update: Any) -> Exhibits:
    fields: dict[str, Any] = {
        "seed": 11, "samples": picture(), "real": picture(9), "searched": 9, "usual_distance": 1.375,
        "closest": [Pair(3, picture(1, 1), picture(2, 1), 0.1875)],
        "first": [Pair(0, picture(1, 1), picture(2, 1), 2.75)],
        "paths": picture(5),
        "frames": Frames((0, 1), (0.5, 1.0), 4, [[picture(10), picture(11)], [picture(12), picture(13)]]),
    }  # fmt: skip
    return Exhibits(**{**fields, **update})


def every_number(seen: EvalReport) -> list[float]:
    sets = [*seen.snapshots, seen.best, *seen.controls]
    found = [value for one in sets for value in one.scores.values()]
    found += [end for one in sets for ends in one.intervals.values() for end in ends]
    found += [value for values in seen.best.by_seed.values() for value in values]
    found += [value for one in (seen.best, *seen.controls) for row in one.by_class.values() for value in row.values()]
    if seen.diagnostics:
        found += [value for alarm in seen.diagnostics.alarms for value in (alarm.statistic, alarm.threshold)]
    return found


def test_all_numbers_of_the_report_are_on_the_page() -> None:
    seen = report()
    text = Reader(page(seen, shown(), facts={"recipe": "classic"}, latents="x-latents.html")).text
    missing = [value for value in every_number(seen) if f"{value:.4g}" not in text]
    assert not missing
    for words in ("0.1875", "1.375", "recipe classic", "controls.draws 3", "raised", "& many", "1 alarm: duplicates"):
        assert words in text
    assert re.search(r"fid_domain ↓ 1.234 1.111 to 1.358 0.321 0.2 to 0.4 77.25", text)
    assert text.index("fid_domain ↓") < text.index("is_domain ↑")


def test_nothing_is_taken_for_markup_and_nothing_is_loaded() -> None:
    rival = Champion(EVIL, report(protocol={"extractor": "other" + EVIL}))
    for html in (
        page(report(), shown(), rival, {EVIL: EVIL}, 'a"b.html'),
        latent_page(report(), shown(), "x.html"),
    ):
        read = Reader(html)
        assert EVIL in read.text
        assert [tag for tag, _ in read.tags].count("script") == (2 if "frame" in html and "<noscript>" in html else 0)
        assert not any(tag in ("link", "iframe", "object") for tag, _ in read.tags)
        for tag, attributes in read.tags:
            assert "src" not in attributes or str(attributes["src"]).startswith("data:image/png;base64,"), tag
            assert "href" not in attributes or not str(attributes["href"]).startswith(("http", "//"))
        assert "default-src 'none'" in html and "@import" not in html and "url(" not in html


def test_what_is_missing_is_left_out() -> None:
    plain = Reader(page(report(diagnostics=None))).text
    for heading in ("Samples beside", "Nearest", "Interpolations", "Classes", "Alarms", "alarm"):
        assert heading not in plain
    assert "1.234" in plain and "The protocol" in plain
    bare = scored(20, math.nan)
    lonely = Reader(page(report(best=bare, snapshots=[bare], controls=[], diagnostics=None))).text
    assert "nan" in lonely and "only snapshot" in lonely
    without_frames = Reader(page(report(), shown(frames=None)))
    assert "Step through" not in without_frames.text and "Interpolations" in without_frames.text
    assert "37.5 % of 12.5" in Reader(page(report())).text, "classes are those of the alarms"


def test_points_have_a_page() -> None:
    points = Points(
        np.array([[0, 1], [50, 0]], np.float32), np.array([[1, 0]], np.float32),
        np.zeros((1, 2, 2), np.float32), Mixture(centres=((0, 1), (1, 0)), deviation=0.1),
    )  # fmt: skip
    modes = [ClassShare(name="mode 1", real=0.5, generated=0.25)]
    read = Reader(page(report(diagnostics=None), Exhibits(seed=1, modes=modes, points=points)))
    drawn = [attributes["class"] for tag, attributes in read.tags if tag == "circle"]
    assert [drawn.count(kind) for kind in ("real", "mode", "generated")] == [1, 2, 1]
    assert "1 points outside" in read.text and "25.0 % of 50.0" in read.text and "Nearest" not in read.text


def test_what_became_of_a_run_is_said() -> None:
    assert "got worse" in course(report()) and "2.468" in course(report()) and "1.345" in course(report())
    assert "makes NaN" in course(report(snapshots=[scored(20, 1.3), scored(30, math.nan)]))
    assert "is the best" in course(report(snapshots=[scored(10, 8.0), scored(20, 1.3)]))


def test_the_champion_stands_beside_it_under_one_protocol_only() -> None:
    best = scored(5, 1.5, intervals={"fid_domain": (1.4567, 1.6)})
    alike, unlike = report(best=best), report(best=best, protocol={"extractor": "inception"})
    text = Reader(page(report(), champion=Champion("7", alike))).text
    assert "champion (v7)" in text and "1.457 to 1.6" in text and "better than the 1.5 of the champion" in text
    text = Reader(page(report(), champion=Champion("7", unlike))).text
    assert "champion (v7)" not in text and "1.457" not in text and "another protocol" in text
    assert 'extractor: "inception" -> ' in text
    fewer = report(best=best.model_copy(update={"seeds": [11]}))
    assert "1.457" not in Reader(page(report(), champion=Champion("7", fewer))).text
    assert "is the champion, version 7" in Reader(page(report(), champion=Champion("7", report()))).text


def test_the_latent_browser_holds_every_frame() -> None:
    html = latent_page(report(), shown(), "x.html")
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)
    assert found
    data = json.loads(found[1])
    frames = shown().frames
    assert frames is not None and data["seeds"] == [0, 1] and data["truncations"] == [0.5, 1.0]
    assert data["frames"] == [[picture.uri for picture in row] for row in frames.pictures]
    first = next(attributes for tag, attributes in Reader(html).tags if tag == "img")
    assert first["src"] == frames.pictures[0][1].uri, "seed 0 at truncation 1, without JavaScript too"


@pytest.mark.parametrize("scores", [[1.0], [0.5, 0.5], [8.0, 0.01, 3.0], [-0.01, 0.02]])
def test_any_course_can_be_drawn(scores: list[float]) -> None:
    snapshots = [scored(10 * (number + 1), value) for number, value in enumerate(scores)]
    read = Reader(page(report(snapshots=snapshots, best=snapshots[0], controls=[])))
    places = [attributes for tag, attributes in read.tags if tag == "circle" and attributes["class"] == "dot"]
    assert len(places) == 2 * len(scores), "wide and narrow"
    heights = [float(str(attributes["cy"])) for attributes in places[: len(scores)]]
    assert [a < b for a in heights for b in heights] == [a > b for a in scores for b in scores], "higher is higher"
