"""Images per second of HW06's DCGAN step, batch 64, 64 px: ganpipe against plain PyTorch, interleaved in one process.

    python benchmarks/train_step.py [--pairs 7] [--steps 6]
    python benchmarks/train_step.py --recipes configs/digits-*.yaml [--steps 16] [--set section.field=value ...]

The first prints the two ratios that matter: ganpipe's step / the plain step, and the whole training loop (metrics,
schedules, progress bar; no snapshot falls into the window) / ganpipe's own bare step. The second prints a row for each
config, on digits of its size: speed, memory, and what the time goes into. R1, R2 and path lengths are what a
step costs over one without them.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch
import trained
from plain_dcgan import make_step

from ganpipe import prepare
from ganpipe.config import RunConfig, load_config
from ganpipe.errors import InputError
from ganpipe.launch import StopSignal
from ganpipe.prepare.manifest import Dataset
from ganpipe.prepareconfig import PrepareConfig
from ganpipe.refs import CheckpointRef
from ganpipe.storage import open_store
from ganpipe.train.trainer import Trainer

BATCH = 64
CONFIG = Path(__file__).parents[1] / "configs" / "hw06-dcgan.yaml"
NEVER = 10**9
ROUNDS = 3
T = TypeVar("T")


def on_digits(config: RunConfig) -> RunConfig:
    """The same, of the project's own digits where its images are files elsewhere: a step costs the same."""
    assert isinstance(config.prepare, PrepareConfig), f"{config.name} makes no images"
    if config.prepare.source.name.endswith("digits"):
        return config
    name = "restyled_digits" if "a" in config.prepare.columns else "digits"
    pairs = ["prepare.derive=mask"] if config.prepare.paired else []
    return load_config(config, [f"prepare.source={{name: {name}}}", *pairs])


def alone(function: Callable[..., T], *arguments: object) -> T:
    """What a new process makes of a call."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


@contextmanager
def training(config: RunConfig) -> Iterator[Callable[[RunConfig], Trainer]]:
    """Makes trainers, on the data of one config. A process of its own prepares them, so that memory is training's."""
    with trained.at_home(None) as settings:
        store = open_store(settings.store)
        digest = alone(prepare.run, config, settings).digest
        dataset = Dataset.open(store, digest)
        yield lambda one: Trainer(one, dataset, "benchmark", store, settings.home)


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


def phase_seconds(trainer: Trainer, steps: int) -> dict[str, float]:
    """Seconds of each phase, and of it all, over so many steps."""
    seconds: dict[str, float] = defaultdict(float)
    update = trainer._update

    def now() -> float:
        if trainer.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def timed(phase: str, number: int, position: int) -> None:
        start = now()
        update(phase, number, position)
        seconds[phase] += now() - start

    trainer._update = timed  # type: ignore[method-assign]
    start = now()
    for _ in range(steps):
        trainer.step()
    seconds["all"] = now() - start
    trainer._update = update  # type: ignore[method-assign]
    return seconds


def without_lazy_penalties(config: RunConfig) -> RunConfig:
    """The same, with R1, R2 and path lengths put off for ever; itself, when it has none of them."""
    every = [name for name in type(config.gan).model_fields if name.endswith("_every")]
    try:
        return load_config(config, [f"gan.{name}={NEVER}" for name in every])
    except InputError:
        return config


def recipe_row(path: str, overrides: list[str], steps: int) -> str:
    """Of one config. Memory is what this process came to hold at most; on a GPU, what torch took there."""
    config = on_digits(load_config(path, [*overrides, "train.seed=0"]))
    with training(config) as trainer_of:
        before = peak_mib()
        trainer = trainer_of(config)
        phase_seconds(trainer, steps)
        on_gpu = trainer.device.type == "cuda"
        memory = torch.cuda.max_memory_allocated() / 2**20 if on_gpu else peak_mib() - before
        plain = trainer_of(without_lazy_penalties(config))
        plain.step()  # step 0 is a multiple of everything
        rounds = [(phase_seconds(trainer, steps), phase_seconds(plain, steps)) for _ in range(ROUNDS)]
    full, bare = (
        {phase: statistics.median(side[phase] for side in sides) for phase in sides[0]}
        for sides in zip(*rounds, strict=True)
    )
    phases = {phase: bare[phase] for phase in bare if phase != "all"}
    penalties = sum(full[phase] - bare[phase] for phase in phases)
    rest = full["all"] - sum(phases.values()) - penalties
    images = steps * config.train.batch * trainer.gan.plan(0).d_updates
    shares = [*phases.values(), penalties, rest]
    return (
        f"| {config.name} | {config.train.batch} | {images / full['all']:.0f} | {memory:.0f} | "
        + " | ".join(f"{max(share, 0) / full['all']:.0%}" for share in shares)
        + " |"
    )


def peak_mib() -> float:
    """The most memory that this process has held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def recipes(paths: list[str], overrides: list[str], steps: int) -> None:
    """A row for each config, made by a process of its own."""
    print("| config | batch | images/s | memory, MiB | D | G | R1, R2, path lengths | rest |")
    print(f"|{' --- |' * 8}")
    for path in paths:
        print(alone(recipe_row, path, overrides, steps), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--recipes", nargs="+", metavar="CONFIG", help="print the table of recipes")
    parser.add_argument("--set", dest="overrides", action="append", default=[], help="of all of them")
    options = parser.parse_args()
    if options.recipes:
        recipes(options.recipes, options.overrides, options.steps)
        return
    config = on_digits(load_config(CONFIG, ["train.seed=0"]))
    with training(config) as trainer_of:
        trainer = trainer_of(config)
        plain = make_step(torch.from_numpy(trainer.dataset.column("image", "train").copy()), BATCH)
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
