"""Whether digits drawn from sentences are what the sentences say, with wrong texts in training and without, over seeds.

    python benchmarks/text.py [--seeds 3] [--minutes M] [--wrong-text 0.3 0] [--set section.field=value ...]

Every run goes through the stages that `ganpipe run` calls; its best snapshot is asked in phrasings that training never
saw (`ganpipe/evaluate/told.py`). The digit is read by the `domain` classifier, which no training saw, weight and slant
by the measure that real digits were captioned by; `real` is what these readers say of held-out digits and captions.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import sys
from pathlib import Path

import trained

from ganpipe.config import load_config

CONFIG = Path(__file__).parents[1] / "configs" / "digits-text.yaml"
SEEN = ("text_digit", "text_weight", "text_slant", "text_all")
UNSEEN = tuple(f"{name}_unseen" for name in SEEN)
METRICS = tuple(f"{name}_domain" for name in (*SEEN, *UNSEEN, "text_diversity"))


def row(first: str, seed: str, scores: dict[str, float], rest: tuple[str, ...]) -> str:
    """Of the table."""
    shares = [f"{scores[name]:.1%}" if name in scores else "-" for name in METRICS[:-1]]
    variety = f"{scores[METRICS[-1]]:.2f}" if METRICS[-1] in scores else "-"
    return f"| {' | '.join((first, seed, *shares, variety, *rest))} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, help="of each training, at most; otherwise as the configuration says")
    parser.add_argument("--wrong-text", type=float, nargs="+", default=[0.3, 0.0], help="values of gan.wrong_text")
    trained.add_options(parser)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    limits = [] if options.minutes is None else [f"train.stop.hours={options.minutes / 60}"]

    rows: list[str] = []
    with trained.at_home(options.home) as settings:
        for wrong_text in options.wrong_text:
            found: list[dict[str, float]] = []
            for seed in trained.seeds(options):
                overrides = [*options.overrides, *limits, f"gan.wrong_text={wrong_text}", f"train.seed={seed}"]
                one = trained.run(load_config(CONFIG, overrides), settings)
                scores, controls = one.best.scores, one.controls
                if not rows:
                    rows.append(row("real", "-", controls["real"].scores, ("-", "-", "-", "-")))
                ratio = scores["fid_domain"] / controls["pca_gaussian"].scores["fid_domain"]
                rest = (f"{one.kimg:.0f}", f"{one.seconds:.0f}", f"{ratio:.3f}", one.alarms)
                found.append(scores)
                rows.append(row(f"{wrong_text:g}", str(seed), scores, rest))
                logging.info("%s", rows[-1])
            middle = {name: statistics.median(scores[name] for scores in found) for name in METRICS}
            rows.append(row(f"{wrong_text:g}", "median", middle, ("-", "-", "-", "-")))

    asked = [name.removeprefix("text_") for name in SEEN]
    head = ["wrong_text", "seed", *asked, *(f"unseen: {name}" for name in asked), "diversity", "best at kimg"]
    head += ["train CPU s", "fid_domain / PCA-Gaussian", "alarms"]
    print(f"protocol {one.report.protocol_hash}, {len(one.best.seeds)} sample seeds\n")
    print(f"| {' | '.join(head)} |\n|{' --- |' * len(head)}")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
