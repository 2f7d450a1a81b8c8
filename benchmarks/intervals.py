"""How often the 95 % intervals of scores hold the value they are of, and what they cost.

    python benchmarks/intervals.py [--repetitions 200]

Fresh samples are scored again and again against a fixed reference: of a known pair of Gaussians, and of digits, where
two generators stand for a GAN: real digits moved by a pixel with noise on them, and a Gaussian over their components.
Frechet distances must hold the closed form between Gaussians, or that of 20,000 samples; what settles with 1/n or has
no bias must hold its value on 20,000 samples (of the Gaussians the mean of five such sets); recall and coverage, which
have no such limit, their mean at this n.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import trained
from torch import Tensor
from torch_fidelity import FeatureExtractorBase
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

from ganpipe import prepare
from ganpipe.config import load_config
from ganpipe.evaluate.controls import PcaGaussian
from ganpipe.evaluate.extractors import build_extractor, find_weights
from ganpipe.evaluate.fidelity import Features, extract, rows_of
from ganpipe.evaluate.metrics import base_name
from ganpipe.evaluate.protocol import Controls, Protocol
from ganpipe.evaluate.scores import Measured, Reference, mean_of, measure
from ganpipe.prepare.manifest import Dataset
from ganpipe.ranks import Ranks
from ganpipe.storage import open_store

MANY = 20_000
AT_THIS_N = ("recall", "coverage")
CONFIG = {
    "name": "intervals",
    "prepare": {"source": {"name": "digits"}, "resolution": 16, "channels": 1},
    "gan": {"name": "classic", "network": {"name": "mlp"}},
    "train": {"stop": {"kimg": 1}},
    "register": {"model": "intervals"},
}


@dataclass(frozen=True)
class Case:
    """A generator and what it is measured against."""

    name: str
    draw: Callable[[int, torch.Generator], Features]
    real: Features
    n: int
    """Rows of one sample."""
    closed_form: float | None = None
    """Frechet distance of the distributions, where it is known."""
    large_sets: int = 1
    """Of very many samples, whose mean is the value to hold; a pool of as many has one."""

    def protocol(self, n: int) -> Protocol:
        return Protocol(
            extractor="inception", weights_sha256="", torch_fidelity="", dataset_digest="", resize="", chunk=64,
            n_reference=len(self.real), n_generated=n, kid_subsets=10, kid_subset_size=min(1000, n, len(self.real)),
            isc_splits=1, prc_neighborhood=3,
        )  # fmt: skip

    def samples(self, repetitions: int, n: int) -> Iterator[Measured]:
        protocol, draws = self.protocol(n), torch.Generator().manual_seed(n)
        reference = Reference.of(self.real, protocol)
        for _ in range(repetitions):
            yield measure(self.draw(n, draws), reference, protocol)


def gaussians(reference_rows: int = 10_000) -> Case:
    """16 features: the generator's mean is off, and its deviations run from 0.7 to 1.4 times the real ones."""
    dims, draws = 16, torch.Generator().manual_seed(1)
    deviation_D, shift, head_DK = torch.linspace(0.7, 1.4, dims), 0.2, torch.randn(dims, 10, generator=draws) / 2
    real_ND = torch.randn(reference_rows, dims, generator=draws)

    def draw(n: int, draws: torch.Generator) -> Features:
        rows_ND = torch.randn(n, dims, generator=draws) * deviation_D + shift
        return Features(rows_ND, rows_ND @ head_DK)

    distance = dims * shift**2 + float(((deviation_D - 1) ** 2).sum())
    return Case("Gaussians", draw, Features(real_ND, real_ND @ head_DK), 400, distance, large_sets=5)


def digits(dataset: Dataset, extractor: FeatureExtractorBase, pool: int = MANY) -> list[Case]:
    """Against the training digits, by the domain extractor; samples are taken from a pool drawn once."""
    train = np.asarray(dataset.column("image", "train"))
    draws = torch.Generator().manual_seed(2)

    def features(images_NCHW: Tensor | np.ndarray) -> Features:
        return extract(extractor, len(images_NCHW), rows_of(images_NCHW), Ranks(), "digits")

    def case(name: str, images_NCHW: Tensor) -> Case:
        whole = features(images_NCHW)

        def draw(n: int, draws: torch.Generator) -> Features:
            rows = torch.randperm(len(whole), generator=draws)[:n]
            return Features(whole.features_ND[rows], whole.logits_NK[rows])

        return Case(name, draw, real, 360)

    real = features(train)
    held_out = torch.from_numpy(np.array(dataset.column("image", "test")))
    moved = held_out[torch.randint(len(held_out), (pool,), generator=draws)]
    steps = torch.randint(-1, 2, (pool, 2), generator=draws).tolist()
    moved = torch.stack([image.roll(step, (1, 2)) for image, step in zip(moved, steps, strict=True)])
    noisy = moved + 20 * torch.randn(moved.shape, generator=draws)
    return [
        case("moved, noisy digits", noisy.clamp(0, 255).to(torch.uint8)),
        case("digits' PCA-Gaussian", PcaGaussian.fit(train, Controls()).sample(pool, draws)),
    ]


def held(case: Case, repetitions: int, many: int = MANY) -> dict[str, tuple[float, float, float, float]]:
    """metric -> the value to hold, mean score, mean width of the interval, share of intervals that hold the value."""
    found = list(case.samples(repetitions, case.n))
    large = list(case.samples(case.large_sets, many))
    rows = {}
    for name in found[0].estimates:
        mean = statistics.fmean(one.scores[name] for one in found)
        settled = "fid_inf" if base_name(name) == "fid" else name
        truth = mean if name in AT_THIS_N else statistics.fmean(one.scores[settled] for one in large)
        if base_name(name) in ("fid", "fid_inf") and case.closed_form is not None:
            truth = case.closed_form
        intervals = [mean_of([one]).intervals[name] for one in found]
        width = statistics.fmean(high - low for low, high in intervals)
        share = sum(low <= truth <= high for low, high in intervals) / repetitions
        rows[name] = (truth, mean, width, share)
    return rows


def seconds(case: Case) -> tuple[float, float]:
    """Of one set of samples: its metrics and intervals; torch-fidelity's functions for its fewer metrics alone."""
    from torch_fidelity.metric_isc import isc_features_to_metric
    from torch_fidelity.metric_kid import kid_features_to_metric
    from torch_fidelity.metric_prc import prc_features_to_metric

    protocol, sample = case.protocol(case.n), case.draw(case.n, torch.Generator())
    reference = Reference.of(case.real, protocol)
    real_statistics = fid_features_to_statistics(case.real.features_ND)
    size = {"kid_subsets": protocol.kid_subsets, "kid_subset_size": protocol.kid_subset_size, "verbose": False}

    def theirs() -> None:
        fid_statistics_to_metric(fid_features_to_statistics(sample.features_ND), real_statistics, verbose=False)
        kid_features_to_metric(sample.features_ND, case.real.features_ND, **size)
        prc_features_to_metric(sample.features_ND, case.real.features_ND, verbose=False)
        isc_features_to_metric(sample.logits_NK, 1)

    times: dict[str, list[float]] = {"ours": [], "theirs": []}
    for _ in range(7):
        for name, work in (("ours", lambda: measure(sample, reference, protocol)), ("theirs", theirs)):
            began = time.perf_counter()
            work()
            times[name].append(time.perf_counter() - began)
    return statistics.median(times["ours"]), statistics.median(times["theirs"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=200)
    repetitions = parser.parse_args().repetitions
    with trained.at_home(None) as settings:
        store = open_store(settings.store)
        dataset = Dataset.open(store, prepare.run(load_config(CONFIG), settings).digest)
        extractor = build_extractor(find_weights("domain", dataset, store, settings))
        cases = [gaussians(), *digits(dataset, extractor)]
    print("| samples of | n | metric | value to hold | mean score | mean width | held by |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for case in cases:
        for name, (truth, mean, width, share) in held(case, repetitions).items():
            print(f"| {case.name} | {case.n} | {name} | {truth:.4g} | {mean:.4g} | {width:.2g} | {share:.1%} |")
    print("\n| samples of | all metrics and intervals, ms | torch-fidelity's metrics, ms | ratio |")
    print("| --- | --- | --- | --- |")
    for case in cases:
        ours, theirs = seconds(case)
        print(f"| {case.name} | {1000 * ours:.0f} | {1000 * theirs:.0f} | {ours / theirs:.2f} |")


if __name__ == "__main__":
    main()
