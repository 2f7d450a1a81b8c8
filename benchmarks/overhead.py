"""What the pipeline costs beside its work: a night's seconds outside its stages, and the share of logging in training.

    python benchmarks/overhead.py [--nights 3] [--steps 12] [--stack .ganpipe/stack]

A night is `ganpipe run configs/debug.yaml` from the command to the prompt: imports, the server of Prefect where none
runs (embedded), its tasks, and the summary; from that its five stages' own seconds are taken. With --stack, the same
against the servers that `make stack-up` started. The training is HW06's DCGAN at 64 px, 64 images a step, one process:
seconds of writing metrics and of a snapshot (samples, checkpoint, hand-over to the upload), at the config's cadence.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ganpipe import prepare
from ganpipe.config import load_config
from ganpipe.launch import StopSignal
from ganpipe.night import new_record
from ganpipe.prepare.manifest import Dataset
from ganpipe.runs import begin_run
from ganpipe.settings import Settings
from ganpipe.storage import open_store
from ganpipe.train.trainer import Trainer

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from photo_crops import cut

CONFIGS = Path(__file__).parents[1] / "configs"
CROPS = 1000


def night(environment: dict[str, str]) -> tuple[float, float]:
    """Wall seconds of a whole night, and those of its stages."""
    command = [sys.executable, "-m", "ganpipe", "run", str(CONFIGS / "debug.yaml"), "--json"]
    began = time.monotonic()
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    wall = time.monotonic() - began
    if done.returncode not in (0, 3):
        raise SystemExit(done.stderr)
    return wall, sum(json.loads(done.stdout)["seconds"].values())


def nights(name: str, environment: dict[str, str], count: int) -> None:
    """The first one, which makes databases, apart."""
    outside = []
    for number in range(count + 1):
        wall, stages = night(environment)
        print(f"{name}, night {number}: {wall:.1f} s, of which {stages:.1f} s in stages", flush=True)
        outside.append(wall - stages)
    print(f"| {name} | {outside[0]:.1f} | {statistics.median(outside[1:]):.1f} |", flush=True)


def timed(function: Callable[..., Any], spent: list[float]) -> Callable[..., Any]:
    def call(*arguments: Any, **options: Any) -> Any:
        began = time.perf_counter()
        try:
            return function(*arguments, **options)
        finally:
            spent.append(time.perf_counter() - began)

    return call


def training(steps: int) -> None:
    """Logs and snapshots every few steps, to have some of each, and what that makes at the config's own cadence."""
    with tempfile.TemporaryDirectory() as folder:
        photographs = Path(folder, "photographs")
        photographs.mkdir()
        cut(photographs, CROPS)
        kimg = steps * 64 / 1000
        overrides = [f"prepare.source.path={photographs}", f"train.stop.kimg={3 * kimg}", "train.seed=1"]
        overrides += [f"train.snapshot_kimg={kimg}", f"train.log_every_kimg={kimg / 2}", "evaluate.allow_few=true"]
        config, asked = load_config(CONFIGS / "hw06-dcgan.yaml", overrides), load_config(CONFIGS / "hw06-dcgan.yaml")
        settings = Settings.from_environment({"GANPIPE_HOME": folder})
        store = open_store(settings.store)
        dataset = prepare.run(config, settings)
        record = new_record(config, dataset, settings, datetime.now(UTC), run_id="benchmark")
        begin_run(store, record, config)
        work = settings.local_folder("work", "benchmark")
        trainer = Trainer(config, Dataset.open(store, dataset.digest), "benchmark", store, work)
        spent: dict[str, list[float]] = {"step": [], "metrics": [], "snapshot": []}
        trainer.step = timed(trainer.step, spent["step"])  # type: ignore[method-assign]
        trainer._write_metrics = timed(trainer._write_metrics, spent["metrics"])  # type: ignore[method-assign]
        trainer.snapshot = timed(trainer.snapshot, spent["snapshot"])  # type: ignore[method-assign]
        trainer.fit(StopSignal())
    step = statistics.median(spent["step"])
    print("\n| of training HW06's DCGAN | ms each | every | share |\n| --- | --- | --- | --- |")
    for name, every in (("metrics", asked.train.log_every_kimg), ("snapshot", asked.train.snapshot_kimg)):
        each = statistics.median(spent[name])
        print(f"| {name} | {1000 * each:.0f} | {every:g} kimg | {each / (every * 1000 / 64 * step):.2%} |")
    print(f"| step | {1000 * step:.0f} | 64 images | |")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--nights", type=int, default=3)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--stack", type=Path, help="folder of a running stack")
    args = parser.parse_args()
    print("| seconds outside the stages | first night | later, median |\n| --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        nights("embedded", {"GANPIPE_HOME": folder}, args.nights)
    if args.stack:
        lines = shlex.split((args.stack / "environment").read_text())
        nights("running stack", dict(line.split("=", 1) for line in lines), args.nights)
    training(args.steps)


if __name__ == "__main__":
    main()
