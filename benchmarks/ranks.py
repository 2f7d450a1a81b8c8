"""Two processes of one thread each against one: HW06's DCGAN at 64 px, training and evaluation, interleaved.

    python benchmarks/ranks.py [--pairs 3] [--steps 12]

The work is the same in both: training steps of 64 images in micro-batches of 32, and scores of 512 samples a seed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from ganpipe import prepare
from ganpipe.config import load_config
from ganpipe.evaluate import seeds
from ganpipe.evaluate.process import Scorer
from ganpipe.launch import StopSignal, child_main, run_child
from ganpipe.night import new_record
from ganpipe.prepare.manifest import Dataset
from ganpipe.ranks import Ranks
from ganpipe.runs import begin_run, checkpoints
from ganpipe.settings import Settings
from ganpipe.storage import open_store
from ganpipe.train.trainer import Trainer

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from photo_crops import cut

FOLDER = Path(__file__).parent
CONFIG = FOLDER.parent / "configs" / "hw06-dcgan.yaml"
CROPS = 1000
SAMPLES = 512
SEEDS = 2
BATCH = 64
RUN = "benchmark"


class Speeds(BaseModel):
    """Images per second, by all processes together."""

    train: float
    evaluate: float


def measure(request: dict[str, Any], _: StopSignal) -> Speeds:
    """What the child processes do."""
    settings, ranks = Settings.from_environment(), Ranks()
    store = open_store(settings.store)
    config = load_config(request["config"])
    dataset = Dataset.open(store, request["dataset"])
    trainer = Trainer(config, dataset, RUN, store, settings.local_folder("work", RUN), ranks)
    for _ in range(2):
        trainer.step()
    if not ranks.from_main(lambda: checkpoints(store, RUN)):
        with trainer.uploads if ranks.is_main else nullcontext():
            trainer.snapshot()
        ranks.any(False)  # nobody reads it before it is there
    clock = time.perf_counter()
    for _ in range(request["steps"]):
        trainer.step()
    trained = time.perf_counter() - clock
    scorer = Scorer.prepare(config.evaluate, dataset.digest, store, settings)
    sample_seeds = seeds("score", SEEDS)
    ranks.any(False)
    clock = time.perf_counter()
    scorer.score(checkpoints(store, RUN)[:1], sample_seeds, "benchmark")
    scored = time.perf_counter() - clock
    return Speeds(train=request["steps"] * BATCH / trained, evaluate=SAMPLES * SEEDS / scored)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--steps", type=int, default=12)
    options = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{FOLDER}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        settings = Settings.from_environment({"GANPIPE_HOME": f"{home}/home", "GANPIPE_TRACKING_URI": "off"})
        overrides = [f"prepare.source.path={cut(home / 'crops', CROPS)}", "train.seed=0", "train.micro_batch=32"]
        config = load_config(CONFIG, [*overrides, f"evaluate.num_samples={SAMPLES}"])
        dataset = prepare.run(config, settings)
        record = new_record(config, dataset, settings, datetime.now(UTC), run_id=RUN)
        begin_run(open_store(settings.store), record, config)
        request = {
            "config": config.model_dump(mode="json", by_alias=True), "dataset": dataset.digest, "steps": options.steps,
        }  # fmt: skip
        rows: list[list[Speeds]] = []
        for pair in range(options.pairs + 1):
            row = [
                Speeds.model_validate(run_child("ranks", request, settings.model_copy(update={"num_processes": count})))
                for count in (1, 2)
            ]
            if pair:  # the first one fills the caches
                rows.append(row)
    print("| what | images/s, 1 process | 2 processes | ratio (median of pairs) |\n| --- | --- | --- | --- |")
    for what in ("train", "evaluate"):
        one, two = (statistics.median(getattr(row[count], what) for row in rows) for count in (0, 1))
        ratio = statistics.median(getattr(row[1], what) / getattr(row[0], what) for row in rows)
        print(f"| {what} | {one:.0f} | {two:.0f} | {ratio:.2f} |")


if __name__ == "__main__":
    if len(sys.argv) > 1 and Path(sys.argv[1]).name == "request.json":
        child_main(measure)
    main()
