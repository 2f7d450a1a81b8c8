"""Whether augmentation leaks into what is generated (arXiv:2006.06676, Sec. 2.2), and whether it goes where it can.

    python benchmarks/leak.py [--parts rotations controller] [--seeds 3] [--p 0 0.6 0.8 1]

rotations: the digits 2, 3, 4, 5 and 7, whose orientation can be read, trained on with ADA's 90-degree rotations alone
at a fixed p. A support vector machine that learnt to read the orientation of training images reads samples.

controller: crops of two photographs, more than a discriminator can learn by heart, with all of ADA's transforms, p
starting at 0.5 and following the discriminator. Beside it the same crops and a discriminator that is kept far ahead.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import trained
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.svm import SVC

from ganpipe import prepare, sample
from ganpipe.config import RunConfig, load_config
from ganpipe.launch import StopSignal
from ganpipe.prepare.manifest import Dataset
from ganpipe.settings import Settings
from ganpipe.storage import open_store
from ganpipe.train.trainer import Trainer

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from photo_crops import cut

CONFIG = Path(__file__).parents[1] / "configs" / "digits-dcgan.yaml"
READABLE = (2, 3, 4, 5, 7)
SAMPLES = 2000
SAMPLE_SEED = 20_000
"""Not one of the evaluation's seeds."""
CROPS = 8000
CONTROLLER_KIMG = 40
FAR_AHEAD = "train.optimizers.generator.lr=1e-6"
"""Of a discriminator: its generator hardly learns."""


def write_digits(folder: Path) -> Path:
    """PNGs of the digits whose orientation can be read."""
    folder.mkdir()
    digits = load_digits()
    for number, (values, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        if label in READABLE:
            Image.fromarray(np.rint(values * (255 / 16)).astype(np.uint8)).save(folder / f"{number:04d}.png")
    return folder


def configuration(folder: Path, channels: int, kimg: float, augment: dict[str, Any], *more: str) -> RunConfig:
    """configs/digits-dcgan.yaml at 16 px on a folder of images, with its learning rates falling over `kimg`."""
    lr = json.dumps([{"start": 7e-4, "end": 2e-5, "over_kimg": kimg, "shape": "cosine"}])
    changes = [
        f"prepare.source={json.dumps({'name': 'folder', 'path': str(folder)})}",
        "prepare.resolution=16",
        f"prepare.channels={channels}",
        f"train.stop={{kimg: {kimg}}}",
        *(f"train.optimizers.{network}.lr={lr}" for network in ("generator", "discriminator")),
        f"train.augment={json.dumps(augment)}",
        "train.log_every_kimg=1",
        f"train.snapshot_kimg={kimg}",
    ]
    return load_config(CONFIG, [*changes, *more])


def dataset_of(config: RunConfig, settings: Settings) -> Dataset:
    return Dataset.open(open_store(settings.store), prepare.run(config, settings).digest)


def finished(config: RunConfig, seed: int, settings: Settings, run_id: str) -> Trainer:
    """A training to its end."""
    config = load_config(config, [f"train.seed={seed}"])
    (work := settings.local_folder("work") / run_id).mkdir()
    trainer = Trainer(config, dataset_of(config, settings), run_id, open_store(settings.store), work)
    trainer.fit(StopSignal())
    return trainer


Reader = Callable[[np.ndarray], np.ndarray]
"""uint8 images (N, H, W) -> quarter turns (N,) by which they look rotated."""


def turned(images_NHW: np.ndarray) -> np.ndarray:
    """All four orientations of images: first as they are, then each by 90 degrees further."""
    return np.concatenate([np.rot90(images_NHW, turns, (1, 2)) for turns in range(4)])


def orientation_reader(data: Dataset) -> tuple[Reader, float]:
    """Learnt from training images, and how often it is right on held-out ones in all four orientations."""

    def pixels(images_NHW: np.ndarray) -> np.ndarray:
        return images_NHW.reshape(len(images_NHW), -1) / 255

    train, held_out = (turned(data.column("image", split)[:, 0]) for split in ("train", "test"))
    machine = SVC(C=10, gamma="scale").fit(pixels(train), np.repeat(np.arange(4), len(train) // 4))
    right = machine.predict(pixels(held_out)) == np.repeat(np.arange(4), len(held_out) // 4)
    return lambda images_NHW: machine.predict(pixels(images_NHW)), float(right.mean())


def rotated_share(p: float, kimg: float, seed: int, folder: Path, settings: Settings) -> tuple[float, float]:
    """Share of samples that are read as rotated after a training at p; the reader's own share of right answers."""
    config = configuration(folder, 1, kimg, {"ada": {"rotate90": 1}, "p": p})
    trainer = finished(config, seed, settings, f"rotations-{p}-{seed}")
    read, right = orientation_reader(trainer.dataset)
    samples = sample.draw_images(trainer.gan, trainer.ema.module, SAMPLE_SEED, SAMPLES)
    return float((read(samples[:, 0].numpy()) != 0).mean()), right


def course_of_p(
    folder: Path, kimg: float, seed: int, settings: Settings, run_id: str, *more: str
) -> list[tuple[float, float]]:
    """p and r_t = E[sign(D(real))], mean over each thousand images, of a training from p = 0.5 on."""
    p = {"start": 0.5, "over_kimg": kimg}
    config = configuration(folder, 3, kimg, {"ada": True, "p": p}, *more)
    finished(config, seed, settings, run_id)
    path = settings.local_folder("work") / run_id / "metrics.jsonl"
    lines = [json.loads(line)["metrics"] for line in path.read_text().splitlines()]
    return [(line["augment/p"], line["augment/sign_real"]) for line in lines]


def rotations(probabilities: list[float], kimg: float, seeds: int, settings: Settings) -> None:
    folder = write_digits(settings.home / "digits")
    print("| p of 90-degree rotations | samples read as rotated, by seed | CPU s a seed |\n| --- | --- | --- |")
    for p in probabilities:
        clock = time.process_time()
        found = [rotated_share(p, kimg, seed, folder, settings) for seed in range(1, seeds + 1)]
        seconds, right = (time.process_time() - clock) / seeds, found[0][1]
        print(f"| {p:g} | {', '.join(f'{share:.1%}' for share, _ in found)} | {seconds:.0f} |", flush=True)
    print(f"\nThe reader is right on {right:.1%} of held-out images in all four orientations.\n")


def controller(seeds: int, settings: Settings) -> None:
    folder = cut(settings.home / "crops", CROPS, side=32)
    print("| discriminator | seed | p at first, and after each quarter | r_t in each quarter | CPU s |")
    print("| --- | --- | --- | --- | --- |")
    for name, changes in (("as it comes", []), ("kept far ahead", [FAR_AHEAD])):
        for seed in range(1, seeds + 1):
            clock = time.process_time()
            run_id = f"controller-{len(changes)}-{seed}"
            course = course_of_p(folder, CONTROLLER_KIMG, seed, settings, run_id, *changes)
            seconds, quarters = time.process_time() - clock, np.array_split(np.array(course), 4)
            p = [quarters[0][0, 0], *(quarter[-1, 0] for quarter in quarters)]
            signs = [quarter[:, 1].mean() for quarter in quarters]
            cells = (", ".join(f"{value:.2f}" for value in values) for values in (p, signs))
            print(f"| {name} | {seed} | {' | '.join(cells)} | {seconds:.0f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", default=["rotations", "controller"], choices=["rotations", "controller"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--p", type=float, nargs="+", default=[0, 0.6, 0.8, 1])
    parser.add_argument("--kimg", type=float, default=60)
    options = parser.parse_args()
    with trained.at_home(None) as settings:
        if "rotations" in options.parts:
            rotations(options.p, options.kimg, options.seeds, settings)
        if "controller" in options.parts:
            controller(options.seeds, settings)


if __name__ == "__main__":
    main()
