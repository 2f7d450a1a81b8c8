"""What a decision leaves for the morning: notes on MLflow's pages, the picture of both, the trend."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from ganpipe import morning, notes, register, trend
from ganpipe.cli import main
from ganpipe.grids import grid_png
from ganpipe.refs import ModelRef
from ganpipe.register import registry

if TYPE_CHECKING:
    from .conftest import Factory

Scores = Callable[[dict[str, list[float]]], Any]


def decided(factory: Factory, scores: Scores, fids: dict[str, list[float]], ref: ModelRef) -> Any:
    score = scores(fids)
    return register.promote(factory.product, factory.settings, version=ref.version, score=score)


def grid(factory: Factory, ref: ModelRef, grey: int, side: int = 8) -> None:
    name = ref.checkpoint.prefix.rpartition("/")[2]
    png = grid_png(np.full((4, 1, side, side), grey, np.uint8))
    factory.store.write_bytes(f"runs/{ref.checkpoint.run_id}/samples/{name}.png", png)


def test_a_decision_is_told_on_the_pages(factory: Factory, scores: Scores) -> None:
    first, second = factory.version(5.0), factory.version(6.0)
    table = {first.checkpoint.run_id: [5.0, 5.1] * 8, second.checkpoint.run_id: [6.0, 6.2] * 8}
    client = registry.client_of(factory.settings)
    decided(factory, scores, table, first)
    client.update_model_version(factory.product, "2", "words of my own")
    decision = decided(factory, scores, table, second)

    run = client.get_run(second.tracking_run_id)
    assert run.data.tags["ganpipe.decision"] == "kept v1: improvement" and run.data.tags["ganpipe.version"] == "2"
    note = run.data.tags[notes.NOTE]
    assert decision.reason in note and f"ganpipe train --resume {second.checkpoint.run_id}" in note
    page = f"#/experiments/{run.info.experiment_id}/runs/{first.tracking_run_id}"
    assert page in note and f"#/models/{factory.product}/versions/1" in note
    assert client.get_run(first.tracking_run_id).data.tags["ganpipe.decision"] == "promoted: first champion"
    assert client.get_model_version(factory.product, "2").description == "words of my own"
    assert "promoted" in client.get_model_version(factory.product, "1").description
    product = client.get_registered_model(factory.product).description
    assert "Champion: [version 1]" in product and page in product


def test_the_view_of_the_nights_names_what_runs_have(factory: Factory, scores: Scores) -> None:
    ref = factory.version(5.0)
    decided(factory, scores, {ref.checkpoint.run_id: [5.0, 5.1] * 8}, ref)
    client = registry.client_of(factory.settings)
    tags = client.get_experiment_by_name(factory.product).tags
    state = json.loads(json.loads(tags["mlflow.sharedViewState.nights"])["state"])
    shown = client.get_run(ref.tracking_run_id).data.tags
    for column in state["selectedColumns"]:
        kind, name = column.split(".", 1)
        assert kind == "metrics" or name.strip("`") in shown


def test_candidate_beside_champion(factory: Factory, scores: Scores) -> None:
    first, second = factory.version(5.0), factory.version(6.0)
    table = {first.checkpoint.run_id: [5.0, 5.1] * 8, second.checkpoint.run_id: [6.0, 6.2] * 8}
    grid(factory, first, 40)
    grid(factory, second, 200, side=32)
    alone = morning.side_by_side(decided(factory, scores, table, first), factory.store)
    both = morning.side_by_side(decided(factory, scores, table, second), factory.store)
    assert alone and both
    sizes = [Image.open(io.BytesIO(png)).size for png in (alone, both)]
    side = morning.SIDE
    assert sizes == [(side, side + morning.CAPTION), (2 * side + morning.GAP, side + morning.CAPTION)]
    pixels = np.array(Image.open(io.BytesIO(both)))[morning.CAPTION + side // 2]
    assert pixels[side // 2].tolist() == [200] * 3 and pixels[side + morning.GAP + side // 2].tolist() == [40] * 3


def test_unlike_protocols_share_no_line(factory: Factory, scores: Scores, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.axes import Axes

    refs = [factory.version(5.0), factory.version(4.0), factory.version(9.0, protocol_hash="p2")]
    decided(factory, scores, {refs[0].checkpoint.run_id: [5.0, 5.1] * 8}, refs[0])
    rows = trend.nights(factory.product, factory.store)
    assert [(row.version, row.answer, row.score) for row in rows] == [
        ("1", "promoted", 5.0), ("2", "not asked", 4.0), ("3", "not asked", 9.0),
    ]  # fmt: skip
    assert [row.version for row in trend.nights(factory.product, factory.store, newest=2)] == ["2", "3"]
    lines: list[Any] = []
    plot = Axes.plot
    monkeypatch.setattr(Axes, "plot", lambda self, *a, **k: lines.append((list(a[0]), k)) or plot(self, *a, **k))
    trend.picture(factory.product, rows)
    assert [x for x, options in lines if "label" in options] == [[0, 1], [2]]
    assert [x for x, options in lines if options.get("marker") == "*"] == [[0]]


def test_speed_and_cost_come_from_the_newest_checkpoint(factory: Factory) -> None:
    ref = factory.version(5.0)
    facts = {"images_seen": 2000, "seconds": 100.0, "device_seconds": 400.0}
    key = f"{ref.checkpoint.prefix}/progress.json"
    factory.store.write_bytes(key, json.dumps(facts).encode())
    (row,) = trend.nights(factory.product, factory.store)
    assert (row.kimg, row.images_per_second, row.device_hours) == (2.0, 20.0, pytest.approx(1 / 9))
    facts = {"images_seen": 2000, "seconds": 100.0, "ranks": 2}  # of a checkpoint without that field
    factory.store.write_bytes(key, json.dumps(facts).encode())
    assert trend.nights(factory.product, factory.store)[0].device_hours == pytest.approx(1 / 18)


def test_the_command(
    factory: Factory, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = factory.version(5.0)
    for name, value in factory.settings.to_environment().items():
        monkeypatch.setenv(name, value)
    out = tmp_path / "trend.html"
    assert main(["trend", factory.product, "--out", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["nights"][0]["run_id"] == ref.checkpoint.run_id
    page = out.read_text()
    assert "data:image/png;base64," in page and "fid_domain 5" in page and "http" not in page
    assert main(["trend", factory.product, "--out", str(tmp_path / "trend.svg")]) == 2
    assert main(["trend", "nobody", "--out", str(out)]) == 2
