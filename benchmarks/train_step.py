"""Images per second of HW06's DCGAN step, batch 64, 64 px: ganpipe against plain PyTorch, interleaved in one process.

    python benchmarks/train_step.py [--pairs 7] [--steps 6]

Prints the two ratios that matter: ganpipe's step / the plain step, and the whole training loop (metrics, schedules,
progress bar; no snapshot falls into the window) / ganpipe's own bare step.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from plain_dcgan import make_step

from ganpipe.config import RunConfig, load_config
from ganpipe.launch import StopSignal
from ganpipe.prepare.manifest import DataManifest, Dataset, Table
from ganpipe.refs import CheckpointRef
from ganpipe.spec import Column
from ganpipe.storage import open_store
from ganpipe.train.trainer import Trainer

BATCH = 64
ROWS = 2048
CONFIG = Path(__file__).parents[1] / "configs" / "hw06-dcgan.yaml"


def noise_dataset(folder: Path) -> Dataset:
    """Random 64-px RGB images: a step costs the same whatever they show."""
    pixels = np.random.default_rng(0).integers(0, 256, (ROWS, 3, 64, 64), np.uint8)
    np.save(folder / "main.image-00000.npy", pixels)
    column = Column(kind="image", dtype="uint8", shape=(3, 64, 64), range=(0, 255), shards=("main.image-00000.npy",))
    splits = {"test": (0, 0), "extractor": (0, 0), "train": (0, ROWS)}
    manifest = DataManifest(
        digest="noise", preparation={}, tables={"main": Table(rows=ROWS, splits=splits, columns={"image": column})}
    )
    return Dataset(manifest, {"main.image-00000.npy": folder / "main.image-00000.npy"})


def images_per_second(step: Callable[[], object], steps: int) -> float:
    start = time.perf_counter()
    for _ in range(steps):
        step()
    return steps * BATCH / (time.perf_counter() - start)


def loop_images_per_second(trainer: Trainer, steps: int) -> float:
    """`Trainer.fit` itself, metrics every fifth step, without its closing snapshot."""
    goal = (trainer.progress.images_seen + steps * BATCH) / 1000
    stop = trainer.train.stop.model_copy(update={"kimg": goal})
    every = 5 * BATCH / 1000
    trainer.train = trainer.train.model_copy(update={"stop": stop, "log_every_kimg": every, "snapshot_kimg": 1e6})
    there_already = CheckpointRef(run_id="benchmark", images_seen=10**12, prefix="none", generator_sha256="0" * 64)
    trainer._newest_checkpoint = lambda: there_already  # type: ignore[method-assign]
    start = time.perf_counter()
    trainer.fit(StopSignal())
    return steps * BATCH / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--steps", type=int, default=6)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config: RunConfig = load_config(CONFIG, ["train.seed=0"])
        dataset = noise_dataset(folder)
        trainer = Trainer(config, dataset, "benchmark", open_store(f"file://{folder}/store"), folder)
        plain = make_step(torch.from_numpy(dataset.column("image", "train").copy()), BATCH)
        for step in (plain, trainer.step):
            images_per_second(step, 2)
        rows = []
        for pair in range(options.pairs):
            row = (
                images_per_second(plain, options.steps),
                images_per_second(trainer.step, options.steps),
                loop_images_per_second(trainer, options.steps),
            )
            rows.append(row)
            print(f"pair {pair}: plain {row[0]:.1f}  step {row[1]:.1f}  loop {row[2]:.1f} img/s", file=sys.stderr)
    plain_speed, step_speed, loop_speed = (statistics.median(column) for column in zip(*rows, strict=True))
    speedup = statistics.median(step / plain for plain, step, _ in rows)
    overhead = statistics.median(loop / step for _, step, loop in rows)
    print("| what | images/s (median) | ratio (median of pairs) |")
    print("| --- | --- | --- |")
    print(f"| plain PyTorch: fp32, NCHW, `.item()` each step | {plain_speed:.0f} | 1.00 |")
    print(f"| ganpipe step: {config.train.precision}, channels_last, fused Adam | {step_speed:.0f} | {speedup:.2f} |")
    print(f"| ganpipe loop / ganpipe step | {loop_speed:.0f} | {overhead:.3f} |")


if __name__ == "__main__":
    main()
