"""Stacked digits: how many of 1,000 modes each GAN makes over training time, how evenly, and how surely they are read.

    python benchmarks/stacked.py [--configs configs/stacked-digits-dcgan.yaml ...] [--minutes 15] [--seeds 1]

Every config trains for the same wall time. `ganpipe/evaluate/modes.py` defines the scores. Every snapshot is scored
with fewer samples, for the curve; best (the lowest divergence on the curve) and last are scored again with all of them,
from another seed. N real triples have a divergence of about 999 / 2N by chance alone.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
import trained
from torch import Tensor

from ganpipe import prepare, sample, train
from ganpipe.config import load_config
from ganpipe.evaluate import triples
from ganpipe.evaluate.controls import PcaGaussian
from ganpipe.evaluate.extractors import build_extractor
from ganpipe.evaluate.fidelity import extract, rows_of
from ganpipe.evaluate.modes import triple_scores
from ganpipe.evaluate.protocol import Controls
from ganpipe.evaluate.weights import Weights
from ganpipe.night import new_record
from ganpipe.prepare.manifest import Dataset
from ganpipe.ranks import Ranks
from ganpipe.refs import CheckpointRef
from ganpipe.rng import generator_for
from ganpipe.runs import checkpoints
from ganpipe.storage import Store, open_store

CONFIGS = [
    str(Path(__file__).parents[1] / "configs" / f"stacked-digits-{name}.yaml") for name in ("dcgan", "wgan-gp", "r3gan")
]
CURVE_SEED, SAMPLE_SEED = 20_000, 20_001
"""Not of the evaluation's seeds."""
HEAD = "| samples | N | at kimg | minute | modes | KL | confident |\n|" + " --- |" * 7


class Study:
    """The data set, its reader, and what is measured with it."""

    def __init__(self, dataset: Dataset, store: Store):
        self.dataset, self.store = dataset, store
        path, sha256 = triples.get_or_train(dataset, store)
        self.facts = store.manifest(f"extractors/{sha256}")
        self.extractor = build_extractor(Weights("triples", path, sha256))

    def scores(self, images_N3HW: Tensor) -> dict[str, float]:
        """Of uint8 images."""
        seen = extract(self.extractor, len(images_N3HW), rows_of(images_N3HW), Ranks(), "reading")
        return triple_scores(seen.logits_NK)

    def of_checkpoint(self, checkpoint: CheckpointRef, n: int, seed: int) -> dict[str, float]:
        """Of the moving average's samples."""
        file = self.store.fetch(checkpoint.prefix, ["generator.safetensors"])["generator.safetensors"]
        loaded = sample.load_generator(file)
        return self.scores(sample.draw_images(loaded.gan, loaded.module, seed, n))

    def channels(self, split: str) -> Tensor:
        """All digits of a split's triples, uint8 (3N, 1, H, W)."""
        return torch.from_numpy(np.array(self.dataset.column("image", split))).flatten(0, 1)[:, None]

    def real(self, split: str, n: int) -> Tensor:
        """n new triples of a split's digits."""
        digits = self.channels(split)
        rows = torch.randint(len(digits), (n, 3), generator=generator_for("cpu", "stacked", split))
        return digits[rows].squeeze(2)

    def gaussian(self, n: int) -> Tensor:
        """A normal distribution over single digits, drawn from for each channel."""
        fitted = PcaGaussian.fit(self.channels("train").numpy(), Controls())
        return self._drawn([fitted], n)

    def gaussians(self, n: int) -> Tensor:
        """The same, with a distribution of its own for each of the ten digits."""
        modes = np.array(self.dataset.column("label", "train"))
        digits = np.stack([modes // 100, modes // 10 % 10, modes % 10], 1).flatten()
        channels = self.channels("train").numpy()
        return self._drawn([PcaGaussian.fit(channels[digits == digit], Controls()) for digit in range(10)], n)

    def _drawn(self, fitted: list[PcaGaussian], n: int) -> Tensor:
        """n triples, each channel from one of the distributions."""
        draws = generator_for("cpu", "stacked", "gaussian", len(fitted))
        chosen = torch.randint(len(fitted), (3 * n,), generator=draws)
        images = torch.zeros(3 * n, 1, *self.dataset.spec()["image"].shape[1:], dtype=torch.uint8)
        for number, one in enumerate(fitted):
            rows = (chosen == number).nonzero().flatten()
            images[rows] = one.sample(len(rows), draws)
        return images.unflatten(0, (n, 3)).squeeze(2)

    def noise(self, n: int) -> Tensor:
        """Every pixel uniform."""
        shape = (n, *self.dataset.spec()["image"].shape)
        return torch.randint(256, shape, generator=generator_for("cpu", "stacked", "noise"), dtype=torch.uint8)


def row(name: str, n: int, found: dict[str, float], at: str = "- | -") -> str:
    return f"| {name} | {n:,} | {at} | {found['modes']:,.0f} | {found['mode_kl']:.3f} | {found['confident']:.1%} |"


def minute(store: Store, run_id: str, images_seen: int) -> float:
    """Of training, at which so many images had been seen."""
    lines = map(json.loads, store.read_bytes(f"runs/{run_id}/metrics.jsonl").splitlines())
    return max((line["seconds"] for line in lines if line["images_seen"] <= images_seen), default=0.0) / 60


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configs", nargs="+", default=CONFIGS)
    parser.add_argument("--minutes", type=float, default=15, help="of training, for each config")
    parser.add_argument("--samples", type=int, default=25_600, help="of controls, best and last")
    parser.add_argument("--curve", type=int, default=6_400, help="samples of every snapshot")
    trained.add_options(parser)
    parser.set_defaults(seeds=1)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    n = options.samples
    with trained.at_home(options.home) as settings:
        store = open_store(settings.store)
        limit = f"train.stop={{hours: {options.minutes / 60}}}"
        configs = [
            load_config(path, [limit, f"train.seed={seed}", *options.overrides])
            for path, seed in itertools.product(options.configs, trained.seeds(options))
        ]
        digests = {prepare.run(config, settings).digest for config in configs}
        if len(digests) > 1:
            parser.error("--configs are to be of one data set and preparation")
        study = Study(Dataset.open(store, digests.pop()), store)
        controls = {
            "real, of held-out digits": study.real("test", n),
            "real, of training digits": study.real("train", n),
            "PCA-Gaussian of all digits": study.gaussian(n),
            "PCA-Gaussian of each digit": study.gaussians(n),
            "uniform noise": study.noise(n),
        }
        table = [row(name, n, study.scores(images)) for name, images in controls.items()]
        curves = []
        for config in configs:
            record = new_record(config, study.dataset.manifest.ref, settings, datetime.now(UTC))
            train.run(config, record, settings)
            snapshots = checkpoints(store, record.run_id)
            at = {
                one.images_seen: f"{one.images_seen / 1000:.0f} | {minute(store, record.run_id, one.images_seen):.1f}"
                for one in snapshots
            }
            found = [study.of_checkpoint(one, options.curve, CURVE_SEED) for one in snapshots]
            name = f"{config.name}, seed {config.train.seed}"
            curves += [
                row(name, options.curve, scores, at[one.images_seen])
                for one, scores in zip(snapshots, found, strict=True)
            ]
            best = min(range(len(snapshots)), key=lambda number: found[number]["mode_kl"])
            for which, one in (("best", snapshots[best]), ("last", snapshots[-1])):
                scores = study.of_checkpoint(one, n, SAMPLE_SEED)
                table.append(row(f"{name}, {which}", n, scores, at[one.images_seen]))
                logging.info("%s", table[-1])
    facts = study.facts
    print(
        f"data set {study.dataset.digest[:12]}; the reader reads {facts['test_accuracy']:.2%} of held-out triples and "
        f"{facts['digit_accuracy']:.2%} of their digits right, and is confident above p = {facts['threshold']:.3f}\n"
    )
    print("\n".join([HEAD, *table, "", HEAD, *curves]))


if __name__ == "__main__":
    main()
