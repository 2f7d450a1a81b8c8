"""kill -9 at moments drawn from a printed seed; then resumed: equal to the run never killed, bit for bit."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny import tiny_raw

from ganpipe import runs
from ganpipe.config import config_digest, load_config
from ganpipe.launch import StopSignal
from ganpipe.prepare.manifest import Dataset
from ganpipe.refs import CheckpointRef
from ganpipe.settings import Settings
from ganpipe.storage import Store
from ganpipe.train import process

SEED = int(os.environ.get("GANPIPE_TEST_SEED", "20261123"))
STEPS, SNAPSHOT_EVERY, SNAPSHOTS = 20, 8, 3
FILES = 4
"""Files of a checkpoint beside its manifest."""
KILLED = Path(__file__).with_name("killed.py")

draw = random.Random(SEED)
MOMENTS = {
    "before the first checkpoint": ("step", draw.randint(1, SNAPSHOT_EVERY)),
    "between two checkpoints": ("step", draw.randint(SNAPSHOT_EVERY + 1, STEPS)),
    "in a snapshot": ("snapshot", draw.randint(1, SNAPSHOTS)),
    "while a snapshot is spooled": ("spool", draw.randint(1, SNAPSHOTS * (FILES + 2))),
    "while a checkpoint is uploaded": ("files", draw.randint(FILES + 1, SNAPSHOTS * FILES)),
    "while its manifest is written": ("manifest", draw.randint(1, SNAPSHOTS)),
    "between the last byte and the rename": ("rename", draw.randint(1, SNAPSHOTS)),
    "between the upload and the end of the wait": ("uploaded", draw.randint(1, SNAPSHOTS)),
    "while a metric is written": ("metrics", draw.randint(1, 5)),
}


def begin(run_id: str, digits: Dataset, store: Store) -> None:
    config = load_config(tiny_raw(augment={"translation": 0.125}))
    record = runs.RunRecord(
        run_id=run_id, dataset=digits.manifest.ref, created=datetime.now(UTC), config_digest=config_digest(config)
    )
    runs.begin_run(store, record, config)


def all_weights(store: Store, ref: CheckpointRef) -> dict[str, torch.Tensor]:
    files = store.fetch(ref.prefix)
    tensors = {}
    for name in ("generator.safetensors", "training.safetensors"):
        tensors |= {f"{name}:{key}": tensor for key, tensor in load_file(files[name]).items()}
    return tensors


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_and_resumed_equals_never_killed(moment: str, digits: Dataset, store: Store, settings: Settings) -> None:
    kind, number = MOMENTS[moment]
    sys.stderr.write(f"GANPIPE_TEST_SEED={SEED}: {moment} is call {number} of {kind}\n")
    begin("straight", digits, store)
    straight = process.train({"run_id": "straight"}, StopSignal())

    begin("killed", digits, store)
    environment = {**os.environ, **settings.to_environment()}
    child = subprocess.run([sys.executable, str(KILLED), "killed", kind, str(number)], env=environment, check=False)
    assert child.returncode == -9

    complete = runs.checkpoints(store, "killed")
    for ref in complete:
        store.fetch(ref.prefix)
    resumed_from = next(runs.sound_checkpoints(store, "killed"), None)
    assert (resumed_from is not None) == bool(complete)
    assert resumed_from is None or resumed_from.images_seen > 0
    resumed = process.train({"run_id": "killed"}, StopSignal())

    assert not [path for path in (settings.home / "work" / "killed").iterdir() if path.is_dir()]

    ours, theirs = all_weights(store, resumed), all_weights(store, straight)
    assert resumed.images_seen == straight.images_seen
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    left = {item.key.split("/")[-1] for item in store.list("runs/killed/checkpoints")}
    assert left == {
        "generator.safetensors",
        "training.safetensors",
        "rank-00000.safetensors",
        "progress.json",
        "manifest.json",
    }
