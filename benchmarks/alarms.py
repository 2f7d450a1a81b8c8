"""Which alarms which generators raise, on the digits.

    python benchmarks/alarms.py [--seeds 20] [--draws 200] [--resolution 32] [--runs RUN ...]

Each seed is another partition of the images that the feature extractor was not trained on: 360 that stand for
generated samples, 360 held-out ones, and the rest to train on. `--runs` adds the newest snapshots of runs on the digits
in GANPIPE_HOME's store, as they are and with samples of some classes only.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch_fidelity.metric_prc import KEY_METRIC_PRECISION, prc_features_to_metric

from ganpipe import prepare, sample
from ganpipe.config import load_config
from ganpipe.evaluate import domain, fidelity
from ganpipe.evaluate.diagnostics import Real, diagnose
from ganpipe.evaluate.extractors import Weights, build_extractor
from ganpipe.evaluate.neighbours import nearest
from ganpipe.prepare.manifest import Dataset
from ganpipe.ranks import Ranks
from ganpipe.runs import checkpoints
from ganpipe.seeds import derive_seed
from ganpipe.settings import Settings
from ganpipe.storage import Store, open_store

N = 360
ALARMS = ("duplicates", "missing_class", "memorised", "low_quality")
NOISE = 80
"""Standard deviation, of pixels from 0 to 255, in the matrix."""
SWEEP = (16, 32, 48, 56, 64, 72, 128)
CONFIG = Path(__file__).parents[1] / "configs" / "digits-dcgan.yaml"


@dataclass(frozen=True)
class Digits:
    """All images but the extractor's own, and what it sees in them."""

    images_NCHW: Tensor
    labels_N: Tensor
    features_ND: Tensor
    see: Callable[[Tensor], Tensor]
    """uint8 images -> features."""

    @classmethod
    def of(cls, dataset: Dataset, store: Store) -> Digits:
        extractor = build_extractor(Weights("domain", *domain.get_or_train(dataset, store)))

        def both(column: str) -> Tensor:
            return torch.cat([torch.from_numpy(np.array(dataset.column(column, split))) for split in ("test", "train")])

        def see(images: Tensor) -> Tensor:
            return fidelity.extract(extractor, len(images), fidelity.rows_of(images), Ranks(), "images").features_ND

        images = both("image")
        return cls(images, both("label"), see(images), see)


@dataclass(frozen=True)
class Trial:
    """One partition: rows of `new` stand for samples, as they are like the held-out images."""

    digits: Digits
    new: Tensor
    held_out: Tensor
    train: Tensor
    draws: torch.Generator

    @classmethod
    def of(cls, digits: Digits, seed: int) -> Trial:
        draws = torch.Generator().manual_seed(derive_seed("alarms", seed))
        order = torch.randperm(len(digits.images_NCHW), generator=draws)
        return cls(digits, order[:N], order[N : 2 * N], order[2 * N :], draws)

    def real(self, labelled: bool = True) -> Real:
        features, labels = self.digits.features_ND, self.digits.labels_N
        given = (labels[self.train], tuple(map(str, range(10)))) if labelled else (None, ())
        return Real(features[self.train], features[self.held_out], *given)

    # --- generators: features of samples ---

    def held_out_images(self) -> Tensor:
        return self.digits.features_ND[self.new]

    def one_image(self) -> Tensor:
        """The same image N times, its pixels off by 1 of 255 here and there."""
        image = self.digits.images_NCHW[self.new[:1]].repeat(N, 1, 1, 1)
        return self.digits.see(self._noisy(image, 0.5))

    def three_classes(self) -> Tensor:
        kept = torch.randperm(10, generator=self.draws)[:3]
        return self._only(torch.isin(self.digits.labels_N[self.new], kept))

    def rare_class(self) -> Tensor:
        """All classes, one of them at a fifth of its frequency in the data."""
        labels, chosen = self.digits.labels_N, torch.randint(10, (1,), generator=self.draws)
        of_it, share = labels[self.new] == chosen, float((labels == chosen).double().mean())
        keep = ~of_it
        keep[of_it.nonzero().flatten()[: round(share * N / 5)]] = True
        return self._only(keep)

    def replayed(self) -> Tensor:
        return self.digits.features_ND[self._drawn(N)]

    def replayed_in_part(self, share: float) -> Tensor:
        copies = self._drawn(round(share * N))
        return self.digits.features_ND[torch.cat([self.new[len(copies) :], copies])]

    def replayed_noisy(self, deviation: float) -> Tensor:
        return self.digits.see(self._noisy(self.digits.images_NCHW[self._drawn(N)], deviation))

    def replayed_shifted(self) -> Tensor:
        return self.digits.see(torch.roll(self.digits.images_NCHW[self._drawn(N)], 1, 3))

    def noisy(self, deviation: float) -> Tensor:
        return self.digits.see(self._noisy(self.digits.images_NCHW[self.new], deviation))

    def collapsed_in_part(self, share: float) -> Tensor:
        """One image takes the place of that share of the samples."""
        rows = self.new.clone()
        rows[: round(share * N)] = rows[0]
        return self.digits.features_ND[rows]

    def _only(self, keep: Tensor) -> Tensor:
        return self.digits.features_ND[self.new[keep]]

    def _drawn(self, n: int) -> Tensor:
        return self.train[torch.randint(len(self.train), (n,), generator=self.draws)]

    def _noisy(self, images: Tensor, deviation: float) -> Tensor:
        noise = deviation * torch.randn(images.shape, generator=self.draws)
        return (images + noise).round().clamp(0, 255).to(torch.uint8)


MATRIX: dict[str, Callable[[Trial], Tensor]] = {
    "one image only": Trial.one_image,
    "3 of 10 classes, else like real": Trial.three_classes,
    "one class at 20 % of its frequency": Trial.rare_class,
    "replays training images": Trial.replayed,
    f"real + noise of {NOISE}/255": lambda trial: trial.noisy(NOISE),
}
FURTHER: dict[str, Callable[[Trial], Tensor]] = {
    "10 % of the samples are one image": lambda trial: trial.collapsed_in_part(0.1),
    "10 % of the samples are replays": lambda trial: trial.replayed_in_part(0.1),
    "replays + noise of 8/255": lambda trial: trial.replayed_noisy(8),
    "replays + noise of 16/255": lambda trial: trial.replayed_noisy(16),
    "replays, shifted by 1 of 32 px": Trial.replayed_shifted,
    **{f"real + noise of {deviation}/255": lambda trial, d=deviation: trial.noisy(d) for deviation in SWEEP},
}


Generators = Iterable[tuple[Trial, Tensor]]
"""Partitions, and the features of samples in each."""


def table(what: str, rows: Iterable[tuple[str, Generators]], labelled: bool = True) -> None:
    """Print how often each alarm was raised, and ranges: of the share like training images, and of precision."""
    print(f"\n| {what} | samples | " + " | ".join(ALARMS) + " | like training images | precision |\n|" + " --- |" * 8)
    for name, generators in rows:
        found, precision = [], []
        for trial, features in generators:
            real = trial.real(labelled)
            found.append(diagnose(features, real))
            precision.append(precision_of(features, real.train_ND))
        rates = [sum(one.alarm(alarm).raised for one in found) / len(found) for alarm in ALARMS]
        like = [one.alarm("low_quality").statistic or 0.0 for one in found]
        cells = [f"{rate:.1%}".replace(".0%", "%") for rate in rates]
        cells += [f"{min(values):.2f} to {max(values):.2f}" for values in (like, precision)]
        print(f"| {name} | {found[0].generated} | {' | '.join(cells)} |")


def precision_of(features_ND: Tensor, train_ND: Tensor) -> float:
    return prc_features_to_metric(
        features_ND, train_ND, prc_neighborhood=3, prc_batch_size=N, save_cpu_ram=False, verbose=False
    )[KEY_METRIC_PRECISION]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--draws", type=int, default=200, help="of held-out images as samples")
    parser.add_argument("--resolution", type=int, default=32)
    parser.add_argument("--runs", nargs="*", default=[], help="whose newest snapshots are judged as well")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(home=Path(folder), store=f"file://{folder}/store", tracking_uri="off")
        store = open_store(settings.store)
        config = load_config(CONFIG, [f"prepare.resolution={options.resolution}"])
        digits = Digits.of(Dataset.open(store, prepare.run(config, settings).digest), store)
        few, many = range(options.seeds), range(options.draws)

        def rows(generators: dict[str, Callable[[Trial], Tensor]], seeds: range) -> Iterator[tuple[str, Generators]]:
            for name, generator in generators.items():
                yield name, [(trial, generator(trial)) for trial in (Trial.of(digits, seed) for seed in seeds)]

        held_out = {f"held-out real images, {options.draws} draws": Trial.held_out_images}
        table("generator", itertools.chain(rows(MATRIX, few), rows(held_out, many)))
        table("further", rows(FURTHER, few))
        table("classes unknown", itertools.chain(rows(MATRIX, few), rows(held_out, many)), labelled=False)
        for run in options.runs:
            table(run, trained(run, digits, few))


def trained(run: str, digits: Digits, seeds: range) -> Iterator[tuple[str, Generators]]:
    """A trained generator's samples, one set a seed: all of them, and those of some classes only."""
    store = open_store(Settings.from_environment().store)
    loaded = sample.load_generator(store.fetch(checkpoints(store, run)[-1].prefix)["generator.safetensors"])
    drawn = [digits.see(sample.draw_images(loaded.gan, loaded.module, seed, 5 * N)) for seed in seeds]
    trials = [Trial.of(digits, seed) for seed in seeds]
    yield "all classes", [(trial, features[:N]) for trial, features in zip(trials, drawn, strict=True)]
    for kept in ((0, 1, 6), (2, 5, 8)):
        sets = []
        for trial, features in zip(trials, drawn, strict=True):
            real = trial.real()
            assert real.labels_N is not None
            digit = real.labels_N[nearest(features, real.train_ND)[1]]
            sets.append((trial, features[torch.isin(digit, torch.tensor(kept))][:N]))
        yield f"classes {', '.join(map(str, kept))} only", sets


if __name__ == "__main__":
    main()
