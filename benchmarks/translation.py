"""What translators of digits reach: pix2pix by each objective, and CycleGAN, beside what is no translator, over seeds.

    python benchmarks/translation.py [--parts mask edges sides] [--seeds 3] [--set section.field=value ...]

`mask` and `edges` are configs/digits-pix2pix.yaml with either way to derive pairs, and `l1`, `gan` and `both` as
`gan.objective`; `sides` is configs/digits-cyclegan.yaml. Every run goes through the stages that `ganpipe run` calls.
The share that is read as the source's class is told by the evaluation's own classifier, which no training sees.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import sys
from collections.abc import Mapping
from pathlib import Path

import trained

from ganpipe.config import load_config

CONFIGS = Path(__file__).parents[1] / "configs"
PAIRS = ("fid_domain", "kid_domain", "l1", "ssim", "label_accuracy_domain", "precision_domain", "recall_domain")
SIDES = tuple(f"{name}_{way}" for name in ("label_accuracy_domain", "l1", "fid_domain") for way in ("AtoB", "BtoA"))
SIDES += ("cycle_l1",)
HEAD = ("of", "objective", "seed", "best at kimg", "train CPU s")


def line(scores: Mapping[str, float], metrics: tuple[str, ...]) -> list[str]:
    """Cells of the table."""
    return [f"{scores[name]:.3f}" if name in scores else "-" for name in metrics]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=("mask", "edges", "sides"), default=["mask", "edges", "sides"])
    parser.add_argument("--objectives", nargs="+", choices=("l1", "gan", "both"), default=["l1", "gan", "both"])
    trained.add_options(parser)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)

    with trained.at_home(options.home) as settings:
        for part in options.parts:
            metrics = SIDES if part == "sides" else PAIRS
            name = "cyclegan" if part == "sides" else "pix2pix"
            rows: list[list[str]] = []
            for objective in ["-"] if part == "sides" else options.objectives:
                chosen = [] if part == "sides" else [f"prepare.derive={part}", f"gan.objective={objective}"]
                found: list[dict[str, float]] = []
                for seed in trained.seeds(options):
                    overrides = [*chosen, f"train.seed={seed}", *options.overrides]
                    one = trained.run(load_config(CONFIGS / f"digits-{name}.yaml", overrides), settings)
                    if not rows:
                        none = ("-",) * 3
                        rows += [[key, *none, "-", *line(it.scores, metrics)] for key, it in one.controls.items()]
                    found.append(one.best.scores)
                    said = (f"{one.kimg:.0f}", f"{one.seconds:.0f}")
                    rows.append([part, objective, str(seed), *said, *line(one.best.scores, metrics)])
                    logging.info("%s", " | ".join(rows[-1]))
                    logging.info("%s", ", ".join(f"{kimg:g}: {distance:.2f}" for kimg, distance in one.curve))
                middle = {metric: statistics.median(scores[metric] for scores in found) for metric in metrics}
                rows.append([part, objective, "median", "-", "-", *line(middle, metrics)])
            head = [*HEAD, *(metric.replace("_domain", "") for metric in metrics)]
            print(f"protocol {one.report.protocol_hash}, {len(one.best.seeds)} sample seeds\n")
            print(f"| {' | '.join(head)} |\n|{' --- |' * len(head)}")
            print("\n".join(f"| {' | '.join(cells)} |" for cells in rows) + "\n", flush=True)


if __name__ == "__main__":
    main()
