"""HW06's configs on real colour pictures: the whole chain, and scores that show it learns."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from photo_crops import cut

from ganpipe import evaluate
from ganpipe.config import load_config
from ganpipe.prepare.manifest import Dataset
from ganpipe.settings import Settings
from ganpipe.storage import open_store
from ganpipe.train.trainer import Trainer

CONFIGS = Path(__file__).parents[1] / "configs"
KIMG = {"hw06-dcgan": 12, "hw06-wgan": 20}
"""Thousands of images after which KID is at most half the untrained generator's; stands in each config too."""


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cut(tmp_path_factory.mktemp("photographs"), 4000)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", KIMG)
def test_chain_on_photographs_halves_kid(
    name: str, crops: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GANPIPE_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    kimg = KIMG[name]
    overrides = [
        f"prepare.source.path={crops}",
        "train.seed=0",
        f"train.stop.kimg={kimg}",
        f"train.snapshot_kimg={kimg / 2}",
        f"train.log_every_kimg={kimg / 8}",
    ]
    command = [sys.executable, "-m", "ganpipe", "run", str(CONFIGS / f"{name}.yaml"), "--no-orchestrator", "--json"]
    command += [word for override in overrides for word in ("--set", override)]
    finished = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    assert finished.returncode in (0, 3), "the chain ends with a decision"
    night = json.loads(finished.stdout)
    assert night["decision"]["promoted"] == (finished.returncode == 0)

    settings = Settings.from_environment()
    store = open_store(settings.store)
    lines = [json.loads(line) for line in store.read_bytes(f"runs/{night['run_id']}/metrics.jsonl").splitlines()]
    assert len(lines) >= 8
    assert all(math.isfinite(value) for line in lines for value in line["metrics"].values())

    config = load_config(CONFIGS / f"{name}.yaml", overrides)
    digest = night["dataset"]["digest"]
    work = tmp_path / "untrained"
    work.mkdir()
    untrained = Trainer(config, Dataset.open(store, digest), "untrained", store, work).snapshot()
    trained = evaluate.EvalReport.model_validate(night["report"]).best.checkpoint
    sheet = evaluate.score(config, digest, [untrained, trained], evaluate.seeds("score", 2), settings)
    before, after = (snapshot.scores["kid_domain"] for snapshot in sheet.snapshots)
    assert after <= before / 2, f"KID {before:.3f} untrained, {after:.3f} after {kimg} kimg"
