"""What HW06's three configs learn on 4,000 JPEG crops of two colour photographs: KID before and after.

    python benchmarks/hw06.py [--configs hw06-dcgan hw06-wgan hw06-wgan-gp] [--seeds 2]

Each config trains as it stands, but for the data, the seed and the length; each run goes through the stages that
`ganpipe run` calls. KID is taken in the features of the evaluation's own classifier, against the training crops.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from ganpipe import evaluate, prepare, train
from ganpipe.config import RunConfig, load_config
from ganpipe.night import new_record
from ganpipe.prepare.manifest import Dataset
from ganpipe.refs import CheckpointRef, DatasetRef
from ganpipe.runs import checkpoints
from ganpipe.settings import Settings
from ganpipe.storage import open_store
from ganpipe.train.trainer import Trainer

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from photo_crops import cut

CONFIGS = Path(__file__).parents[1] / "configs"
KIMG = {"hw06-dcgan": 60, "hw06-wgan": 60, "hw06-wgan-gp": 24}
"""Thousands of images of a first look."""
CROPS = 4000
METRIC = "kid_domain"


def untrained(config: RunConfig, dataset: DatasetRef, settings: Settings, work: Path) -> CheckpointRef:
    """A checkpoint of the generator as it begins."""
    store = open_store(settings.store)
    work.mkdir()
    trainer = Trainer(config, Dataset.open(store, dataset.digest), work.name, store, work)
    with trainer.uploads:
        trainer.snapshot()
    (checkpoint,) = checkpoints(store, work.name)
    return checkpoint


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configs", nargs="+", default=list(KIMG), choices=list(KIMG))
    parser.add_argument("--seeds", type=int, default=2)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)

    rows = []
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        settings = Settings.from_environment({"GANPIPE_HOME": f"{home}/home", "GANPIPE_TRACKING_URI": "off"})
        crops = cut(home / "crops", CROPS)
        for recipe in options.configs:
            for seed in range(1, options.seeds + 1):
                kimg = KIMG[recipe]
                overrides = [f"prepare.source.path={crops}", f"train.seed={seed}", f"train.stop.kimg={kimg}"]
                config = load_config(CONFIGS / f"{recipe}.yaml", overrides)
                dataset = prepare.run(config, settings)
                record = new_record(config, dataset, settings, datetime.now(UTC))
                before = untrained(config, dataset, settings, home / f"untrained-{recipe}-{seed}")
                clock = time.monotonic()
                after = train.run(config, record, settings)
                seconds = time.monotonic() - clock
                sheet = evaluate.score(config, dataset.digest, [before, after], evaluate.seeds("score", 2), settings)
                controls = {control.name: control.scores[METRIC] for control in sheet.controls}
                kids = [snapshot.scores[METRIC] for snapshot in sheet.snapshots]
                rows.append(
                    f"| {recipe} | {seed} | {kimg} | {seconds:.0f} | {kids[0]:.2f} | {kids[1]:.2f} "
                    f"| {kids[1] / kids[0]:.2f} | {controls['real']:.2f} | {controls['pca_gaussian']:.2f} |"
                )
                print(rows[-1], file=sys.stderr)
    head = ["config", "seed", "kimg", "train s", "KID untrained", "KID trained", "ratio", "real", "PCA-Gaussian"]
    print(f"| {' | '.join(head)} |\n|{' --- |' * len(head)}")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
