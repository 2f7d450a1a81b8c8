"""What only a CUDA device can show. Run by hand: `python -m pytest -m gpu`; without a device all of it is skipped."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny import tiny_raw

from ganpipe import prepare, runs
from ganpipe.config import load_config
from ganpipe.launch import StopSignal
from ganpipe.prepare.manifest import Dataset
from ganpipe.settings import Settings
from ganpipe.storage import Store
from ganpipe.train.trainer import Trainer

pytestmark = pytest.mark.gpu
one_device = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
two_devices = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
ROOT = Path(__file__).parents[2]


@one_device
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_training_runs_on_the_device_with_fused_optimizers(
    precision: str, digits: Dataset, store: Store, tmp_path: Path
) -> None:
    config = load_config(tiny_raw(precision=precision))
    trainer = Trainer(config, digits, "run", store, tmp_path)
    assert trainer.device.type == "cuda"
    assert trainer.g_optimizer.param_groups[0].get("fused")
    trainer.fit(StopSignal())
    assert all(parameter.isfinite().all() for parameter in trainer.generator.parameters())


@one_device
def test_the_discriminator_says_what_it_says_on_the_cpu(digits: Dataset, store: Store, tmp_path: Path) -> None:
    """float32 convolutions on both, TF32 off: only the order of sums differs."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    trainer = Trainer(load_config(tiny_raw()), digits, "run", store, tmp_path)
    images = torch.rand(8, 1, 8, 8) * 2 - 1
    assert trainer.discriminator is not None
    logits = trainer.discriminator(images.to(trainer.device)).cpu()
    torch.testing.assert_close(logits, trainer.discriminator.cpu()(images), rtol=1e-4, atol=1e-5)


@two_devices
def test_two_devices_train_one_run(settings: Settings, store: Store, tmp_path: Path) -> None:
    """NCCL, one process for each device, through the command line."""
    raw = tiny_raw(micro_batch=8)
    prepare.run(load_config(raw), settings)
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps(raw))
    command = [sys.executable, "-m", "ganpipe", "train", str(path), "--run", "pair", "--num-processes", "2"]
    subprocess.run(command, check=True, cwd=ROOT, env={**os.environ, **settings.to_environment()})
    assert runs.read_state(store, "pair") == "finished" and runs.checkpoints(store, "pair")
