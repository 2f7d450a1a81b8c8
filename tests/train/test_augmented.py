"""Training with augmentation: p follows the discriminator, in the log and over a resume."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from test_trainer import trainer, weights
from tiny import tiny_raw

from ganpipe.config import RunConfig, load_config
from ganpipe.errors import Interrupted
from ganpipe.launch import StopSignal
from ganpipe.prepare.manifest import Dataset
from ganpipe.storage import Store


def steered(**changes: Any) -> RunConfig:
    """Every step has its line of metrics; p changes by 4 * 16 / 640 = 0.1 every fourth step."""
    p = {"target": 0.5, "start": 0.5, "over_kimg": 0.64}
    raw = tiny_raw(augment={"ada": True, "cutout": True, "p": p}, log_every_kimg=0.016, micro_batch=8, **changes)
    raw["gan"] |= {"r1": 1, "network": {"name": "dcgan", "feature_dim": 4, "norm": "none"}}
    return load_config(raw)


def test_the_log_shows_p_follow_the_signs(digits: Dataset, store: Store, tmp_path: Path) -> None:
    trainer(steered(), digits, store, tmp_path).fit(StopSignal())
    lines = [json.loads(line)["metrics"] for line in store.read_bytes("runs/run/metrics.jsonl").splitlines()]
    assert len(lines) == 20
    p, signs = 0.5, []
    for line in lines:
        assert line["augment/p"] == pytest.approx(p, abs=1e-6)
        signs.append(line["augment/sign_real"])
        if len(signs) == 4:
            p = min(max(p + 0.1 * torch.tensor(sum(signs) / 4 - 0.5).sign().item(), 0), 1)
            signs = []
    assert p != 0.5


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_steered_run_resumes_within_its_four_updates(
    precision: str, digits: Dataset, store: Store, tmp_path: Path
) -> None:
    straight = trainer(steered(precision=precision), digits, store, tmp_path, "straight").fit(StopSignal())

    class StopAfter:
        reason = "SIGTERM"

        @property
        def requested(self) -> bool:
            return first.progress.steps >= 6

    first = trainer(steered(precision=precision), digits, store, tmp_path, "resumed")
    with pytest.raises(Interrupted):
        first.fit(StopAfter())
    resumed = trainer(steered(precision=precision), digits, store, tmp_path, "resumed").fit(StopSignal())
    ours, theirs = weights(store, resumed), weights(store, straight)
    assert ours["training.safetensors"] == theirs["training.safetensors"]  # p and its controller, too


def test_a_schedule_of_p_is_logged(digits: Dataset, store: Store, tmp_path: Path) -> None:
    p = [{"start": 0, "end": 0.64, "over_kimg": 0.64}]
    config = load_config(tiny_raw(augment={"ada": {"rotate90": 1}, "p": p}, log_every_kimg=0.016))
    trainer(config, digits, store, tmp_path).fit(StopSignal())
    lines = [json.loads(line)["metrics"] for line in store.read_bytes("runs/run/metrics.jsonl").splitlines()]
    assert [line["augment/p"] for line in lines] == pytest.approx([0.016 * step for step in range(20)], abs=1e-6)
