"""What configs reach on the digits: scores against floor and controls, and what an independent reader sees, over seeds.

    python benchmarks/quality.py [--configs configs/digits-dcgan.yaml ...] [--seeds 3] [--set section.field=value ...]

Two readers that the evaluation does not use are trained here, on the train and extractor splits, and judged on the test
split: a support vector machine on 8x8 means, with calibrated probabilities, and a convolutional network. Every run goes
through the stages that `ganpipe run` calls. Of configs with labels as many samples are drawn of each class, and the
readers say how many show the class asked for.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import trained
from sklearn.calibration import CalibratedClassifierCV
from sklearn.svm import SVC
from torch import Tensor, nn

from ganpipe import prepare, sample
from ganpipe.config import load_config
from ganpipe.prepare.manifest import Dataset
from ganpipe.storage import open_store

CONFIDENT = 0.9
SAMPLES = 2000
SAMPLE_SEED = 20_000
"""Not one of the evaluation's seeds."""


Reader = Callable[[Tensor], np.ndarray]
"""uint8 images (N, 1, 32, 32) -> probabilities (N, 10)."""


def svm_reader(images: Tensor, labels: Tensor) -> Reader:
    """Support vector machine with radial basis functions and cross-validated Platt scaling."""

    def pixels(images_uint8: Tensor) -> np.ndarray:
        return F.avg_pool2d(sample.to_float(images_uint8), 4).flatten(1).numpy()

    machine = CalibratedClassifierCV(SVC(C=10, gamma="scale"), ensemble=False, cv=5)
    machine.fit(pixels(images), labels.numpy())
    return lambda images_uint8: machine.predict_proba(pixels(images_uint8))


def cnn_reader(images: Tensor, labels: Tensor, steps: int = 1500) -> Reader:
    """Two convolutions and two linear layers, trained with shifts of up to two pixels."""
    torch.manual_seed(0)
    pixels = sample.to_float(images)
    network = nn.Sequential(
        *(nn.AvgPool2d(2), nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(0.3)),
        *(nn.Linear(64 * 16, 64), nn.ReLU(), nn.Linear(64, 10)),
    )
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=1e-3)
    for _ in range(steps):
        rows = torch.randint(len(pixels), (64,))
        shift = torch.randint(-2, 3, (2,)).tolist()
        loss = F.cross_entropy(network(torch.roll(pixels[rows], shift, (2, 3))), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    network.eval()

    def read(images_uint8: Tensor) -> np.ndarray:
        with torch.no_grad():
            return network(sample.to_float(images_uint8)).softmax(1).numpy()

    return read


READERS = {"SVM": svm_reader, "CNN": cnn_reader}


def confident(probabilities: np.ndarray) -> float:
    """Share of rows whose largest probability exceeds CONFIDENT."""
    return float((probabilities.max(1) > CONFIDENT).mean())


def read_as_asked(probabilities: np.ndarray, asked: list[int] | None) -> str:
    """Share of rows whose likeliest class is the one asked for."""
    return "-" if asked is None else f"{(probabilities.argmax(1) == asked).mean():.1%}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    nightly = str(Path(__file__).parents[1] / "configs" / "digits-dcgan.yaml")
    parser.add_argument("--configs", nargs="+", default=[nightly], help="of one data set and preparation")
    trained.add_options(parser)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)

    with trained.at_home(options.home) as settings:
        store = open_store(settings.store)
        readers: dict[str, Reader] = {}
        real_rows, rows, ratios, recalls, curves = [], [], [], [], []
        for path, seed in itertools.product(options.configs, trained.seeds(options)):
            config = load_config(path, [*options.overrides, f"train.seed={seed}"])
            dataset = prepare.run(config, settings)
            if not readers:
                data = Dataset.open(store, dataset.digest)
                splits = ("train", "extractor")
                known = torch.cat([torch.from_numpy(np.array(data.column("image", split))) for split in splits])
                labels = torch.cat([torch.from_numpy(np.array(data.column("label", split))) for split in splits])
                held_out = torch.from_numpy(np.array(data.column("image", "test")))
                for name, make in READERS.items():
                    readers[name] = make(known, labels)
                    read = readers[name](held_out)
                    accuracy = (read.argmax(1) == data.column("label", "test")).mean()
                    real_rows.append(f"| {name} | {accuracy:.1%} | {confident(read):.1%} |")
            one = trained.run(config, settings)
            best, controls = one.best, {name: control.scores for name, control in one.controls.items()}
            files = store.fetch(best.checkpoint.prefix, ["generator.safetensors"])
            generator = sample.load_generator(files["generator.safetensors"])
            asked = [row % len(generator.classes) for row in range(SAMPLES)] if generator.classes else None
            images = sample.draw_images(generator.gan, generator.module, SAMPLE_SEED, SAMPLES, label=asked)
            read_by = {name: reader(images) for name, reader in readers.items()}
            digits = np.bincount(read_by["CNN"].argmax(1), minlength=10) / SAMPLES
            ratio = best.scores["fid_domain"] / controls["pca_gaussian"]["fid_domain"]
            ratios.append(ratio)
            rows.append(
                f"| {config.name} | {seed} | {one.kimg:.0f} | {one.seconds:.0f} | {best.scores['fid_domain']:.2f} "
                f"| {ratio:.3f} | " + " | ".join(f"{confident(read):.1%}" for read in read_by.values()) + " | "
                f"{digits.min():.1%} | {digits.max():.1%} "
                f"| {best.scores['precision_domain']:.3f} | {best.scores['recall_domain']:.3f} | "
                + " | ".join(read_as_asked(read, asked) for read in read_by.values())
                + f" | {one.alarms} |"
            )
            recall = best.by_class["recall_domain"]
            recalls.append(f"| {config.name} | {seed} | {' | '.join(f'{value:.2f}' for value in recall.values())} |")
            curve = ", ".join(f"{kimg:.0f}: {fid:.2f}" for kimg, fid in one.curve)
            curves.append(f"| {config.name} | {seed} | {curve} |")
            logging.info("%s\n%s\n%s", rows[-1], recalls[-1], curves[-1])

    print(f"protocol {one.report.protocol_hash}, {one.report.protocol['n_generated']} samples a seed\n")
    print("| control | fid_domain | kid_domain | precision | recall |\n| --- | --- | --- | --- | --- |")
    for name, scores in controls.items():
        values = (scores[f"{metric}_domain"] for metric in ("fid", "kid", "precision", "recall"))
        print(f"| {name} | " + " | ".join(f"{value:.3f}" for value in values) + " |")
    print(f"\n| reader | right on held-out digits | held-out digits read with p > {CONFIDENT} |\n| --- | --- | --- |")
    print("\n".join(real_rows))
    head = [
        "config",
        "seed",
        "best at kimg",
        "train CPU s",
        "fid_domain",
        "/ PCA-Gaussian",
        *(f"{n}: p > {CONFIDENT}" for n in READERS),
    ]
    head += ["rarest digit", "commonest", "precision", "recall", *(f"{n}: the class asked for" for n in READERS)]
    head += ["alarms"]
    print(f"\n| {' | '.join(head)} |\n|{' --- |' * len(head)}")
    print("\n".join(rows))
    print(f"\n| recall of | seed | {' | '.join(recall)} |\n|{' --- |' * (len(recall) + 2)}")
    print("\n".join(recalls))
    print("\n| config | seed | kimg: fid_domain of each snapshot, as the best is chosen |\n| --- | --- | --- |")
    print("\n".join(curves))
    print(f"\nmedian of the ratios {statistics.median(ratios):.3f}, worst {max(ratios):.3f}")


if __name__ == "__main__":
    main()
