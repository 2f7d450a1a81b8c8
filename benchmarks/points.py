"""Every objective on points whose modes are known: how many are reached, and how well, over seeds.

    python benchmarks/points.py [--data ring8 grid25] [--objectives rpgan wgan-gp ...] [--seeds 5] [--set ...]

Scores are of the moving average at the end of a training, never of its best snapshot; `ganpipe/evaluate/modes.py`
defines them. rpgan and wgan-gp have configurations of their own, configs/<data>-<objective>.yaml. The others take
rpgan's networks, batch and number of generator updates, and the optimizers of their papers.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import sys
import time
from pathlib import Path

import torch
import trained

from ganpipe import prepare, sample
from ganpipe.config import RunConfig, load_config
from ganpipe.evaluate.modes import mode_scores
from ganpipe.launch import StopSignal
from ganpipe.prepare.manifest import Dataset
from ganpipe.settings import Settings
from ganpipe.storage import open_store
from ganpipe.train.trainer import Trainer

CONFIGS = Path(__file__).parents[1] / "configs"
SAMPLES = 10_000
SAMPLE_SEED = 20_000
"""Not one of the evaluation's seeds."""
BARE = ["gan.r1=null", "gan.r2=null"]
OBJECTIVES: dict[str, list[str] | None] = {
    "non_saturating": [*BARE, "gan.objective=non_saturating"],
    "wgan": [*BARE, "gan.objective=wasserstein", "gan.weight_clip=0.1", "gan.critic_steps=5"],
    "wgan-gp": None,
    "lsgan": [*BARE, "gan.objective=lsgan"],
    "sngan": [*BARE, "gan.objective=hinge", "gan.spectral_norm=true"],
    "rpgan": None,
}
"""Name -> changes to <data>-rpgan.yaml; None: a configuration of its own."""


def configuration(data: str, objective: str, overrides: list[str]) -> RunConfig:
    """The run of one objective on one data set."""
    changes = OBJECTIVES[objective]
    if changes is None:
        return load_config(CONFIGS / f"{data}-{objective}.yaml", overrides)
    file = CONFIGS / f"{data}-rpgan.yaml"
    kimg = load_config(file, overrides).train.stop.kimg
    changed = load_config(file, [*changes, "train.optimizers=null", *overrides])
    assert kimg is not None and changed.train.optimizers is not None
    seen = kimg * getattr(changed.gan, "critic_steps", 1)
    rates = []
    for network in ("generator", "discriminator"):
        rate = getattr(changed.train.optimizers, network).lr.at(0)
        schedule = f"[{{start: {rate}, end: {rate / 100}, over_kimg: {seen}, shape: cosine}}]"
        rates.append(f"train.optimizers.{network}.lr={schedule}")
    return load_config(file, [*changes, "train.optimizers=null", *overrides, *rates, f"train.stop.kimg={seen}"])


def trained_scores(config: RunConfig, settings: Settings, run_id: str) -> dict[str, float]:
    """Scores of the moving average after a training, and `seconds` of processor time that the training took."""
    store = open_store(settings.store)
    dataset = Dataset.open(store, prepare.run(config, settings).digest)
    (work := settings.local_folder("work") / run_id).mkdir()
    trainer = Trainer(config, dataset, run_id, store, work)
    clock = time.process_time()
    trainer.fit(StopSignal())
    seconds = time.process_time() - clock
    points = sample.draw_points(trainer.gan, trainer.ema.module, SAMPLE_SEED, SAMPLES)
    mixture = dataset.spec()["point"].mixture
    assert mixture is not None
    distances = torch.cdist(points, torch.tensor(mixture.centres)) / mixture.deviation
    return {**mode_scores(distances), "seconds": seconds, "of": len(mixture.centres)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=["ring8", "grid25"])
    parser.add_argument("--objectives", nargs="+", choices=list(OBJECTIVES), default=list(OBJECTIVES))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    torch.set_num_threads(1)

    print(f"{SAMPLES:,} samples of the moving average at the end; median of {options.seeds} seeds (worst)\n")
    print("| data | objective | modes | within 3 sigma of a mode | mode_overlap | CPU s |")
    print("| --- | --- | --- | --- | --- | --- |")
    with trained.at_home(None) as settings:
        for data in options.data:
            for objective in options.objectives:
                rows = []
                for seed in range(1, options.seeds + 1):
                    config = configuration(data, objective, [*options.overrides, f"train.seed={seed}"])
                    rows.append(trained_scores(config, settings, f"{data}-{objective}-{seed}"))
                    print(data, objective, f"seed {seed}", rows[-1], file=sys.stderr, flush=True)
                columns = {name: [row[name] for row in rows] for name in rows[0]}
                middle = {name: statistics.median(values) for name, values in columns.items()}
                worst = {name: min(values) for name, values in columns.items()}
                print(
                    f"| {data} | {objective} | {middle['modes']:.0f}/{middle['of']:.0f} ({worst['modes']:.0f}) "
                    f"| {middle['high_quality']:.1%} ({worst['high_quality']:.1%}) "
                    f"| {middle['mode_overlap']:.3f} ({worst['mode_overlap']:.3f}) | {middle['seconds']:.0f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
