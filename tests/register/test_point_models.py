"""Models of points: judged by their modes, served as coordinates, and the whole chain."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from tiny import points_raw

from ganpipe import plane, sample
from ganpipe.cli import main
from ganpipe.config import load_config
from ganpipe.gans.classic import Classic
from ganpipe.night import night
from ganpipe.prepare.mixtures import MIXTURES
from ganpipe.refs import CheckpointRef, ControlScores, SnapshotScores
from ganpipe.register import package
from ganpipe.register.gate import judge
from ganpipe.registerconfig import RegisterConfig
from ganpipe.settings import Settings
from ganpipe.spec import Column
from ganpipe.storage import open_store

SPEC = {"point": Column(kind="point", dtype="float32", shape=(2,), shards=(), mixture=MIXTURES["ring8"])}
CHECKPOINT = CheckpointRef(run_id="r", images_seen=1, prefix="runs/r/checkpoints/kimg-1", generator_sha256="0")


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    gan = Classic(Classic.Config.model_validate(points_raw()["gan"]))
    torch.manual_seed(0)
    module = gan.build_networks(SPEC).generator
    sample.save_generator(tmp_path / "generator.safetensors", gan, module, SPEC, "r", 1)
    return tmp_path / "generator.safetensors"


def scored(overlap: float, fid: float) -> SnapshotScores:
    scores = {"mode_overlap": overlap, "fid_point": fid}
    by_seed = {name: [value, value] for name, value in scores.items()}
    return SnapshotScores(checkpoint=CHECKPOINT, scores=scores, by_seed=by_seed, seeds=[1, 2])


def test_the_gate_goes_by_modes_where_a_gaussian_has_the_better_frechet_distance() -> None:
    rules = RegisterConfig(model="ring")
    gaussian = [ControlScores(name="pca_gaussian", n=9, scores={"mode_overlap": 0.003, "fid_point": 0.001})]
    verdict = judge(scored(0.7, 0.05), None, gaussian, rules)
    assert verdict.promoted and verdict.metric == "mode_overlap"
    assert "mode_overlap 0.7 is above the PCA-Gaussian control's 0.003" in verdict.reason
    refused = judge(scored(0.002, 0.0), None, gaussian, rules)
    assert not refused.promoted and "not above the PCA-Gaussian" in refused.reason
    assert judge(scored(0.8, 0.05), scored(0.7, 0.05), gaussian, rules).promoted
    assert not judge(scored(0.6, 0.01), scored(0.7, 0.05), gaussian, rules).promoted


def test_a_served_model_answers_with_coordinates(weights: Path, tmp_path: Path) -> None:
    import mlflow.pyfunc
    from mlflow.models import Model

    package.save(tmp_path / "model", weights, Model(), {})
    model = mlflow.pyfunc.load_model(str(tmp_path / "model"))
    rows: Any = model.predict(pd.DataFrame({"seed": [3] * 70 + [5], "index": [*range(70), 7]}))
    assert rows.dtype == np.float32 and rows.shape == (71, 2)
    loaded = sample.load_generator(weights)
    np.testing.assert_array_equal(rows[:70], sample.draw_points(loaded.gan, loaded.module, 3, 70).numpy())
    np.testing.assert_array_equal(rows[70], sample.draw_points(loaded.gan, loaded.module, 5, 8).numpy()[7])
    assert model.metadata.signature.outputs.inputs[0].shape == (-1, 2)
    assert model.predict(pd.DataFrame({"seed": np.zeros(0, np.int64)})).shape == (0, 2)


def test_points_are_drawn_and_written(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loaded = sample.load_generator(weights)
    expected = sample.draw_points(loaded.gan, loaded.module, 4, 30).numpy()
    for name, file in (("deep/points.csv", "deep/points.csv"), ("folder", "folder/seed4.csv")):
        assert main(["generate", str(weights), "--n", "30", "--seed", "4", "--out", f"{tmp_path}/{name}"]) == 0
        written = pd.read_csv(tmp_path / file)
        assert list(written) == ["x", "y"]
        np.testing.assert_array_equal(written.to_numpy(np.float32), expected)
    assert main(["generate", str(weights), "--n", "30", "--out", f"{tmp_path}/x.png"]) == 0
    assert Image.open(tmp_path / "x.png").size == (plane.PIXELS, plane.PIXELS)
    assert main(["generate", str(weights), "--n", "30", "--out", f"{tmp_path}/x.jpg"]) == 2
    assert ".csv" in capsys.readouterr().err
    assert main(["generate", str(weights), "--interpolate", "3", "--out", f"{tmp_path}/x.gif"]) == 2
    assert "--interpolate: this generator makes points" in capsys.readouterr().err


@pytest.mark.slow
def test_a_night_of_points(tmp_path: Path) -> None:
    home = tmp_path / "home"
    settings = Settings(home=home, store=f"file://{home}/store", tracking_uri=f"sqlite:///{home}/mlflow.db")
    config = load_config(points_raw(samples=1000), ["register.require={modes: {at_least: 8}}"])
    result = night(config, settings, started=datetime.now(UTC))
    assert result.report.metric == result.decision.metric == "mode_overlap"
    assert result.report.diagnostics is None
    assert not result.decision.promoted and "modes" in result.decision.reason
    grid = open_store(settings.store).read_bytes(result.grid.removeprefix(f"{settings.store}/"))
    assert Image.open(io.BytesIO(grid)).size == (2 * plane.PIXELS, plane.PIXELS)
    assert result.model.version == "1"
