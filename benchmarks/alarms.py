"""Which alarms which generators raise, on the digits.

    python benchmarks/alarms.py [--seeds 20] [--draws 200] [--run RUN]

Each seed is another partition of the images that the feature extractor was not trained on: 360 that stand for
generated samples, 360 held-out ones, and the rest to train on. `--run` adds the best snapshot of a run of
configs/digits-dcgan.yaml in GANPIPE_HOME, as it is and rejected down to some of the classes.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ganpipe import prepare, sample
from ganpipe.config import load_config
from ganpipe.evaluate import domain, fidelity
from ganpipe.evaluate.diagnostics import Groups, Real, diagnose
from ganpipe.evaluate.extractors import Weights, build_extractor
from ganpipe.prepare.manifest import Dataset
from ganpipe.ranks import Ranks
from ganpipe.refs import Diagnostics
from ganpipe.rng import derive_seed
from ganpipe.runs import reports
from ganpipe.settings import Settings
from ganpipe.storage import open_store

N = 360
ALARMS = ("duplicates", "missing_class", "memorised", "low_quality")
NOISE = 64
"""Standard deviation, of pixels from 0 to 255, in the matrix."""
SWEEP = (16, 32, 48, 56, 64, 72, 80, 128)
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
    def prepare(cls, home: Path) -> Digits:
        settings = Settings(home=home, store=f"file://{home}/store", tracking_uri="off")
        store = open_store(settings.store)
        dataset = Dataset.open(store, prepare.run(load_config(CONFIG), settings).digest)
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
        """All classes, one of them at a fifth of its frequency."""
        of_it = self.digits.labels_N[self.new] == torch.randint(10, (1,), generator=self.draws)
        keep = ~of_it
        keep[of_it.nonzero().flatten()[: round(int(of_it.sum()) / 5)]] = True
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


def row(name: str, found: Iterable[Diagnostics]) -> str:
    """A line of the table: how often each alarm was raised, and the range of precisions."""
    found = list(found)
    rates = [sum(one.alarm(name).raised for one in found) / len(found) for name in ALARMS]
    precisions = sorted(one.alarm("low_quality").statistic or 0 for one in found)
    cells = [*(f"{rate:.1%}".replace(".0%", "%") for rate in rates), f"{precisions[0]:.2f} to {precisions[-1]:.2f}"]
    return f"| {name} | {found[0].generated} | " + " | ".join(cells) + " |"


def head(what: str) -> str:
    return f"\n| {what} | samples | " + " | ".join(ALARMS) + " | precision |\n|" + " --- |" * (len(ALARMS) + 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--draws", type=int, default=200, help="of held-out images as samples")
    parser.add_argument("--run", help="run of configs/digits-dcgan.yaml whose best snapshot is judged as well")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        digits = Digits.prepare(Path(home))
        trials = [Trial.of(digits, seed) for seed in range(max(options.seeds, options.draws))]
        few = trials[: options.seeds]
        print(head("generator"))
        for name, generator in MATRIX.items():
            print(row(name, (diagnose(generator(trial), trial.real()) for trial in few)))
        good = [diagnose(trial.held_out_images(), trial.real()) for trial in trials[: options.draws]]
        print(row(f"held-out real images, {options.draws} draws", good))
        print(head("further"))
        for name, generator in FURTHER.items():
            print(row(name, (diagnose(generator(trial), trial.real()) for trial in few)))
        print(head("without labels"))
        for name, generator in MATRIX.items():
            print(row(name, (diagnose(generator(trial), trial.real(labelled=False)) for trial in few)))
        good = [diagnose(trial.held_out_images(), trial.real(labelled=False)) for trial in trials[: options.draws]]
        print(row(f"held-out real images, {options.draws} draws", good))
        if options.run:
            print(head(f"best snapshot of {options.run}"))
            for name, rows in trained(options.run, digits, trials[0], options.seeds):
                print(row(name, (diagnose(features, trials[0].real()) for features in rows)))


def trained(run: str, digits: Digits, trial: Trial, seeds: int) -> Iterator[tuple[str, list[Tensor]]]:
    """Features of a trained generator's samples, one set a seed: all of them, and those of some classes only."""
    store = open_store(Settings.from_environment().store)
    best = reports(store, run)[-1].best.checkpoint
    loaded = sample.load_generator(store.fetch(best.prefix)["generator.safetensors"])
    drawn = [digits.see(sample.draw_images(loaded.gan, loaded.module, seed, 5 * N)) for seed in range(seeds)]
    yield "all classes", [features[:N] for features in drawn]
    groups = Groups.of(trial.real(), N)
    for kept in ((0, 1, 6), (2, 5, 8)):
        digit = [groups.of_rows(features) for features in drawn]
        yield (
            f"classes {', '.join(map(str, kept))} only",
            [features[torch.isin(of, torch.tensor(kept))][:N] for features, of in zip(drawn, digit, strict=True)],
        )


if __name__ == "__main__":
    main()
