"""`train.stop_on`: a generator of one image ends its training early, once, for good and on all ranks."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny import points_raw, tiny_raw

from ganpipe import runs, train
from ganpipe.config import load_config
from ganpipe.errors import InputError
from ganpipe.launch import StopSignal
from ganpipe.night import new_record
from ganpipe.prepare.manifest import Dataset
from ganpipe.settings import Settings
from ganpipe.storage import Store
from ganpipe.train import alarms
from ganpipe.train.checkpoint import Progress
from ganpipe.train.trainer import Trainer

COLLAPSED = tiny_raw(stop={"kimg": 6.4}, stop_on=["duplicates"], ema_half_life_kimg=1000, micro_batch=8)
"""Its moving average stays where it began, where all samples are nearly the same grey."""


def looked_at(images: torch.Tensor, digits: Dataset) -> Progress:
    """What a generator of these images, float in [-1, 1], raises."""
    recipe = SimpleNamespace(sample=lambda _module, request: images[list(request.rng.indices)])
    return alarms.looked_at(
        Progress(alarms_in_a_row=1),
        recipe,
        torch.nn.Identity(),
        digits,
        torch.device("cpu"),  # type: ignore[arg-type]
    )


def test_real_images_raise_no_alarm_and_one_image_does(digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    held_out = torch.from_numpy(np.array(digits.column("image", "test")[: alarms.SAMPLES])).float() / 127.5 - 1
    assert looked_at(held_out, digits) == Progress()
    found = looked_at(held_out[:1].repeat(len(held_out), 1, 1, 1) + 0.01 * torch.randn_like(held_out), digits)
    assert found.alarms_in_a_row == 2 and alarms.over(found)
    assert found.alarm.startswith(f"alarm duplicates at 0.0 kimg: {alarms.SAMPLES} of {alarms.SAMPLES} (100.0%)")


def test_two_snapshots_in_a_row_end_it_and_no_resume_goes_on(digits: Dataset, store: Store, tmp_path: Path) -> None:
    config = load_config(COLLAPSED)
    first = Trainer(config, digits, "run", store, tmp_path)
    last = first.fit(StopSignal())
    assert last.images_seen == 256 and [ref.images_seen for ref in runs.checkpoints(store, "run")] == [128, 256]
    assert first.progress.alarm.startswith("alarm duplicates at 0.3 kimg")
    again = Trainer(config, digits, "run", store, tmp_path)
    assert again.fit(StopSignal()) == last and again.progress.alarm == first.progress.alarm


@pytest.mark.slow
def test_two_ranks_end_together_and_the_run_says_why(digits: Dataset, store: Store, settings: Settings) -> None:
    config, pair = load_config(COLLAPSED), settings.model_copy(update={"num_processes": 2})
    record = new_record(config, digits.manifest.ref, pair, datetime.now(UTC), run_id="pair")
    assert train.run(config, record, pair).images_seen == 256
    state = json.loads(store.read_bytes("runs/pair/state.json"))
    assert state["state"] == "finished" and state["detail"].startswith("alarm duplicates at 0.3 kimg")
    assert b"alarm duplicates at 0.1 kimg" in store.read_bytes("runs/pair/log.txt")


def test_points_and_unknown_alarms_are_refused() -> None:
    points = points_raw()
    points["train"]["stop_on"] = ["duplicates"]
    with pytest.raises(InputError, match=r"train\.stop_on is for images"):
        load_config(points)
    with pytest.raises(InputError, match=r"train\.stop_on"):
        load_config(tiny_raw(stop_on=["memorised"]))
