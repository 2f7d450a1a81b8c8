"""Intervals: exact where they can be, and as often right as they say."""

from __future__ import annotations

import math
import statistics
import sys
from pathlib import Path

import pytest
import torch

from ganpipe.evaluate import resampling
from ganpipe.evaluate.domain import get_or_train
from ganpipe.evaluate.extractors import Weights, build_extractor
from ganpipe.evaluate.resampling import Estimate
from ganpipe.evaluate.scores import Measured, mean_of
from ganpipe.prepare.manifest import Dataset
from ganpipe.settings import Settings
from ganpipe.storage import open_store

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
import intervals

REPETITIONS = 20
"""A tenth of the benchmark's."""


def test_half_samples_of_a_mean_give_its_standard_error() -> None:
    """That of the means of blocks, exactly."""
    values_N = torch.randn(160, generator=torch.Generator().manual_seed(0)).double()
    halves = resampling.half_samples(16)
    assert halves is not None and halves.shape == (15, 16) and bool((halves.sum(1) == 8).all())
    means_B = torch.stack([values_N[block::16].mean() for block in range(16)])
    found = resampling.estimate(0.0, resampling.shares(values_N, halves))
    assert found.error == pytest.approx(float(means_B.std()) / 4, rel=0.1)
    assert resampling.jackknife(0.0, (means_B.sum() - means_B) / 15).error == pytest.approx(float(means_B.std()) / 4)
    assert resampling.half_samples(12) is None and resampling.half_samples(2) is None


def test_a_bias_of_1_over_n_is_taken_off() -> None:
    assert resampling.without_bias(5 + 3 / 100, [5 + 3 / 50, 5 + 3 / 50]).centre == pytest.approx(5)


def test_a_score_at_its_extreme_has_the_error_of_its_squares() -> None:
    """|mean|^2 of standard normal rows, times their number, has chi-squared's variance of two for each dimension.

    Halves alone show three times of it; what is never below the squares' own, of so few halves, may be somewhat above.
    """
    halves = resampling.half_samples(16)
    assert halves is not None
    variances = []
    for seed in range(200):
        rows_ND = torch.randn(320, 8, generator=torch.Generator().manual_seed(seed)).double()
        blocks_BD = torch.stack([rows_ND[block::16].mean(0) for block in range(16)])
        of_halves, of_rest = ((side.double() @ blocks_BD / 8).square().sum(1) for side in (halves, ~halves))
        found = resampling.with_complements(float(rows_ND.mean(0).square().sum()), of_halves, of_rest)
        variances.append((320 * found.error) ** 2)
    assert 2 * 8 < statistics.fmean(variances) < 2 * 2 * 8


def test_seeds_shrink_an_interval_which_stays_in_its_bounds() -> None:
    """By the quantiles of Student's distribution as tables have them, of 14 and 56 degrees of freedom."""
    one = Measured({"precision": 0.9, "kid": 0.0}, {name: Estimate(0.9, 0.1, 14) for name in ("precision", "kid")})
    low, high = mean_of([one]).intervals["precision"]
    assert low == pytest.approx(0.9 - 0.1 * 2.144787) and high == 1
    assert mean_of([one]).intervals["kid"][1] > 1
    low, high = mean_of([one] * 4).intervals["kid"]
    assert high - low == pytest.approx(2 * 0.05 * 2.003241)
    assert mean_of([one, Measured({"precision": math.nan, "kid": 0.1})]).intervals == {}


def test_kernel_distances_of_halves_are_those_of_their_rows() -> None:
    made, real = (torch.randn(n, 5, generator=torch.Generator().manual_seed(n)) for n in (70, 90))
    halves = resampling.half_samples(16)
    assert halves is not None
    found = resampling.kernel_distances(made, real, halves)
    rows = made[halves[3][torch.arange(70) % 16]].double()
    within = sum(
        sum(float((a @ b / 5 + 1) ** 3) for i, a in enumerate(side) for j, b in enumerate(side) if i != j)
        / (len(side) * (len(side) - 1))
        for side in (rows, real.double())
    )
    across = float(((rows @ real.double().T / 5 + 1) ** 3).mean())
    assert float(found[3]) == pytest.approx(within - 2 * across, rel=1e-4)


def require_held(case: intervals.Case, metrics: set[str]) -> None:
    """Of 20 intervals that hold their value with a probability of 0.95, 16 or more do but in one case in 400."""
    found = intervals.held(case, REPETITIONS, many=5000)
    assert set(found) == metrics
    assert {name: row for name, row in found.items() if row[3] < 0.8} == {}


EVERY = {
    "fid", "fid_inf", "kid", "is", "entropy_marginal", "entropy_conditional", "precision", "recall", "density",
    "coverage",
}  # fmt: skip


def test_intervals_of_gaussians_hold_the_closed_form() -> None:
    require_held(intervals.gaussians(2000), EVERY)


def test_intervals_on_digits_hold_what_many_samples_score(shared: tuple[Settings, Dataset]) -> None:
    settings, dataset = shared
    path, sha256 = get_or_train(dataset, open_store(settings.store))
    for case in intervals.digits(dataset, build_extractor(Weights("domain", path, sha256)), pool=5000):
        require_held(case, EVERY)
