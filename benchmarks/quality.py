"""What the nightly config reaches: scores against floor and controls, and what an independent reader sees, over seeds.

    python benchmarks/quality.py [--config configs/digits-dcgan.yaml] [--seeds 3] [--set section.field=value ...]

The reader is a convolutional classifier that the evaluation does not use: trained here, on the train and extractor
splits, judged on the test split. Every run goes through the stages that `ganpipe run` calls.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganpipe import evaluate, prepare, runs, sample, train
from ganpipe.config import config_digest, load_config
from ganpipe.prepare.manifest import Dataset
from ganpipe.settings import Settings
from ganpipe.storage import open_store

CONFIDENT = 0.9
SAMPLES = 2000
SAMPLE_SEED = 20_000
"""Not one of the evaluation's seeds."""


def train_reader(images: Tensor, labels: Tensor, steps: int = 1500) -> nn.Module:
    """A classifier of 32-px digits: float (N, 1, 32, 32) in [-1, 1] -> logits (N, 10)."""
    torch.manual_seed(0)
    reader = nn.Sequential(
        nn.AvgPool2d(2),
        nn.Conv2d(1, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(64 * 16, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )
    optimizer = torch.optim.AdamW(reader.parameters(), lr=1e-3, weight_decay=1e-3)
    for _ in range(steps):
        rows = torch.randint(len(images), (64,))
        shift = torch.randint(-2, 3, (2,)).tolist()
        loss = F.cross_entropy(reader(torch.roll(images[rows], shift, (2, 3))), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return reader.eval()


@torch.no_grad()
def read(reader: nn.Module, images_uint8: Tensor) -> tuple[float, np.ndarray, Tensor]:
    """(share read with p > 0.9, share of each digit, digits read)."""
    probability = reader(sample.to_float(images_uint8)).softmax(1)
    digits = probability.argmax(1)
    share = float((probability.max(1).values > CONFIDENT).float().mean())
    return share, np.bincount(digits.numpy(), minlength=10) / len(digits), digits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default=str(Path(__file__).parents[1] / "configs" / "digits-dcgan.yaml"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)

    with tempfile.TemporaryDirectory() as home:
        settings = Settings.from_environment({"GANPIPE_HOME": home, "GANPIPE_TRACKING_URI": "off"})
        store = open_store(settings.store)
        reader, rows = None, []
        for seed in range(1, options.seeds + 1):
            config = load_config(options.config, [*options.overrides, f"train.seed={seed}"])
            now = datetime.now(UTC)
            dataset = prepare.run(config, settings)
            if reader is None:
                data = Dataset.open(store, dataset.digest)
                known = [torch.from_numpy(np.array(data.column("image", split))) for split in ("train", "extractor")]
                labels = [torch.from_numpy(np.array(data.column("label", split))) for split in ("train", "extractor")]
                reader = train_reader(sample.to_float(torch.cat(known)), torch.cat(labels))
                held_out = torch.from_numpy(np.array(data.column("image", "test")))
                real_share, _, digits = read(reader, held_out)
                accuracy = float((digits.numpy() == data.column("label", "test")).mean())
            record = runs.RunRecord(
                run_id=runs.new_run_id(config, dataset, now),
                dataset=dataset,
                created=now,
                config_digest=config_digest(config),
            )
            train.run(config, record, settings)
            seconds = (datetime.now(UTC) - now).total_seconds()
            report = evaluate.run(config, record.run_id, settings)
            best = report.best
            files = store.fetch(best.checkpoint.prefix, ["generator.safetensors"])
            generator = sample.load_generator(files["generator.safetensors"])
            share, digits_share, _ = read(
                reader, sample.draw_images(generator.gan, generator.module, SAMPLE_SEED, SAMPLES)
            )
            controls = {control.name: control.scores for control in report.controls}
            fid = best.scores["fid_domain"]
            rows.append(
                {
                    "seed": seed,
                    "kimg": best.checkpoint.images_seen / 1000,
                    "seconds": seconds,
                    "fid": fid,
                    "ratio": fid / controls["pca_gaussian"]["fid_domain"],
                    "share": share,
                    "rarest": digits_share.min(),
                    "commonest": digits_share.max(),
                    "precision": best.scores["precision_domain"],
                    "recall": best.scores["recall_domain"],
                }
            )

    print(f"{config.name}: protocol {report.protocol_hash}, {report.protocol['n_generated']} samples a seed\n")
    print("| control | fid_domain | kid_domain | precision | recall |")
    print("| --- | --- | --- | --- | --- |")
    for name, scores in controls.items():
        print(
            f"| {name} | {scores['fid_domain']:.2f} | {scores['kid_domain']:.4f} | {scores['precision_domain']:.3f} | "
            f"{scores['recall_domain']:.3f} |"
        )
    print(
        "\n| seed | best at kimg | train s | fid_domain | / PCA-Gaussian | read p > 0.9 | rarest | commonest "
        "| precision | recall |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for row in rows:
        print(
            f"| {row['seed']} | {row['kimg']:.0f} | {row['seconds']:.0f} | {row['fid']:.2f} | {row['ratio']:.3f} | "
            f"{row['share']:.1%} | "
            f"{row['rarest']:.1%} | {row['commonest']:.1%} | {row['precision']:.3f} | {row['recall']:.3f} |"
        )
    ratios = [row["ratio"] for row in rows]
    print(
        f"\nmedian ratio {statistics.median(ratios):.3f}, worst {max(ratios):.3f}. The reader: {accuracy:.1%} right on "
        f"held-out digits, {real_share:.1%} of them read with p > {CONFIDENT}."
    )


if __name__ == "__main__":
    main()
