"""HW06's configs on real colour pictures: the whole chain, for as long as ten batches take."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from photo_crops import cut

from ganpipe.settings import Settings
from ganpipe.storage import open_store

CONFIGS = Path(__file__).parents[1] / "configs"
KIMG = 0.64


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cut(tmp_path_factory.mktemp("photographs"), 4000)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", ["hw06-dcgan", "hw06-wgan", "hw06-wgan-gp", "hw06-stylegan2"])
def test_chain_on_photographs(name: str, crops: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GANPIPE_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    overrides = [
        f"prepare.source.path={crops}",
        "train.seed=0",
        f"train.stop.kimg={KIMG}",
        f"train.snapshot_kimg={KIMG / 2}",
        f"train.log_every_kimg={KIMG / 2}",
    ]
    if name == "hw06-stylegan2":
        overrides += ["gan.channel_base=512", "gan.channel_max=64"]  # its header: for a look on a CPU
    command = [sys.executable, "-m", "ganpipe", "run", str(CONFIGS / f"{name}.yaml"), "--no-orchestrator", "--json"]
    command += [word for override in overrides for word in ("--set", override)]
    finished = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    assert finished.returncode in (0, 3), "the chain ends with a decision"
    night = json.loads(finished.stdout)
    assert night["decision"]["promoted"] == (finished.returncode == 0)

    settings = Settings.from_environment()
    store = open_store(settings.store)
    lines = [json.loads(line) for line in store.read_bytes(f"runs/{night['run_id']}/metrics.jsonl").splitlines()]
    assert len(lines) == 2
    assert all(math.isfinite(value) for line in lines for value in line["metrics"].values())
    assert math.isfinite(night["report"]["best"]["scores"]["kid_domain"])
