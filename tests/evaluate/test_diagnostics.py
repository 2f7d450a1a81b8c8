"""Alarms tell broken generators apart and leave real images alone; their counts and distances are exact."""

from __future__ import annotations

import importlib.util
import sys
from fractions import Fraction
from math import comb
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

from ganpipe.evaluate import diagnostics
from ganpipe.evaluate.diagnostics import Real, diagnose, fewest, most_below
from ganpipe.evaluate.neighbours import Nearness, nearest
from ganpipe.prepare.manifest import Dataset
from ganpipe.refs import Diagnostics
from ganpipe.settings import Settings
from ganpipe.storage import open_store

SEEDS, DRAWS = 2, 20
MUST = {
    "one image only": {"duplicates", "missing_class"},
    "3 of 10 classes, else like real": {"missing_class"},
    "one class at 20 % of its frequency": {"missing_class"},
    "replays training images": {"memorised"},
    "real + noise": {"low_quality"},
}
MAY = {"one image only": {"memorised", "low_quality"}, "replays training images": {"duplicates"}}


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    """benchmarks/alarms.py: this is a tenth of it, at 16 px, where the extractor sees noise somewhat later."""
    path = Path(__file__).parents[2] / "benchmarks" / "alarms.py"
    spec = importlib.util.spec_from_file_location("alarms_benchmark", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    module.MATRIX["real + noise"] = lambda trial: trial.noisy(150)
    return module


@pytest.fixture(scope="module")
def trials(benchmark: ModuleType, shared: tuple[Settings, Dataset]) -> list:
    settings, dataset = shared
    digits = benchmark.Digits.of(dataset, open_store(settings.store))
    return [benchmark.Trial.of(digits, seed) for seed in range(DRAWS)]


def raised(found: Diagnostics) -> set[str]:
    return {alarm.name for alarm in found.raised}


@pytest.mark.parametrize("generator", MUST)
def test_a_broken_generator_raises_its_alarms_and_no_other(generator: str, benchmark: ModuleType, trials: list) -> None:
    must, may = MUST[generator], MAY.get(generator, set())
    for trial in trials[:SEEDS]:
        found = diagnose(benchmark.MATRIX[generator](trial), trial.real())
        assert must <= raised(found) <= must | may, found


def test_held_out_images_raise_none(trials: list) -> None:
    for trial in trials:
        for labelled in (True, False):
            found = diagnose(trial.held_out_images(), trial.real(labelled))
            assert not found.raised, found.raised
            assert found.kind == ("classes" if labelled else "clusters")


def test_the_sentence_names_what_is_missing(trials: list) -> None:
    trial = trials[0]
    labels = trial.digits.labels_N[trial.new]
    found = diagnose(trial.digits.features_ND[trial.new[labels != 4]], trial.real())
    alarm = found.alarm("missing_class")
    (share,) = [share for share in found.classes if share.name == "class 4"]
    assert alarm.detail.startswith(f"rare or missing: class 4: {share.generated:.1%} of the samples, {share.real:.1%}")
    assert share.generated < 0.01 and share.real == pytest.approx(0.1, abs=0.02)
    assert alarm.statistic == share.generated and alarm.threshold is not None and alarm.threshold <= share.real / 2


def test_copies_are_named_by_number(trials: list) -> None:
    trial = trials[0]
    rows = torch.cat([trial.new[40:], trial.train[:40]])
    found = diagnose(trial.digits.features_ND[rows], trial.real())
    pairs = found.alarm("memorised").pairs
    assert raised(found) == {"memorised"}
    assert pairs and all(sample - image == len(trial.new) - 40 for sample, image in pairs)


def test_noise_is_no_missing_class(benchmark: ModuleType, trials: list) -> None:
    """Noise moves images from class to class: which are missing cannot be told, and the sentence says so."""
    found = diagnose(trials[0].noisy(160), trials[0].real())
    assert raised(found) == {"low_quality"}
    assert "not judged" in found.alarm("missing_class").detail and found.alarm("missing_class").statistic is None


def blobs(counts: list[int], seed: int) -> Tensor:
    """Rows around as many centres as there are counts, float32 (N, 8)."""
    draws = torch.Generator().manual_seed(seed)
    centres = 12 * torch.eye(8)[: len(counts)]
    return torch.cat([centre + torch.randn(n, 8, generator=draws) for centre, n in zip(centres, counts, strict=True)])


def test_without_labels_a_cluster_is_missed() -> None:
    real = Real(blobs([150] * 6, 1), blobs([50] * 6, 2))
    assert not diagnose(blobs([50] * 6, 3), real).raised
    found = diagnose(blobs([60, 60, 60, 60, 60, 0], 4), real)
    assert raised(found) == {"missing_class"}
    gone = [share for share in found.classes if share.generated == 0]
    assert sum(share.real for share in gone) == pytest.approx(1 / 6, abs=0.02)
    assert "around training image" in gone[0].name


def test_data_with_duplicates_of_its_own_raises_no_alarm() -> None:
    """A fifth of the images are there twice; as splits go by content, both are in one split."""

    def with_twins(n: int, seed: int) -> Tensor:
        rows = blobs([n] * 6, seed)
        return torch.cat([rows, rows[::5]])

    real = Real(with_twins(150, 1), with_twins(50, 2))
    assert not diagnose(with_twins(50, 3), real).raised
    replayed = real.train_ND[torch.randperm(len(real.train_ND), generator=torch.Generator().manual_seed(4))[:300]]
    assert "memorised" in raised(diagnose(replayed, real))
    assert "duplicates" in raised(diagnose(blobs([50] * 6, 5)[:9].repeat(40, 1), real))


def test_few_images_are_judged_cautiously() -> None:
    real = Real(blobs([3] * 4, 1), blobs([1] * 4, 2))
    assert not diagnose(blobs([1] * 4, 3), real).raised


@pytest.mark.parametrize(("n", "m", "rank"), [(360, 360, 4), (1800, 360, 4), (7, 3, 1), (500, 400, 40), (2, 5, 5)])
def test_counts_below_are_exact(n: int, m: int, rank: int) -> None:
    """By counting in whole numbers the orders of n + m draws in which so many of n lie below the rank-th of m."""
    ways = [comb(k + rank - 1, k) * comb(n + m - k - rank, n - k) for k in range(n + 1)]
    assert sum(ways) == comb(n + m, n)
    for level in (0.2, 1e-3):
        more = next(k for k in range(n + 1) if Fraction(sum(ways[k + 1 :]), comb(n + m, n)) <= level)
        assert most_below(n, m, rank, level) == more


@pytest.mark.parametrize(
    ("n", "hits", "m"), [(360, 150, 1524), (1800, 150, 1524), (20, 9, 10), (5, 1, 1000), (9, 0, 9)]
)
def test_too_few_is_fishers_test_and_less_than_half(n: int, hits: int, m: int) -> None:
    """Its probabilities are counted in whole numbers, too."""

    def chance(found: int) -> Fraction:
        kept = range(max(0, found + hits - m), found + 1)
        return Fraction(sum(comb(hits + found, k) * comb(n + m - hits - found, n - k) for k in kept), comb(n + m, n))

    wanted = [found for found in range(n + 1) if 2 * found * m < hits * n and chance(found) <= Fraction(1, 10_000)]
    assert fewest(n, hits, m, 0.5, 1e-4) == len(wanted)


def test_neighbours_are_those_of_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ganpipe.evaluate.neighbours.CHUNK", 7)
    draws = torch.Generator().manual_seed(0)
    rows, others = torch.randn(30, 64, generator=draws) + 20, torch.randn(40, 64, generator=draws) + 20
    others[5] = rows[3]
    truth = (rows.double()[:, None] - others.double()).norm(dim=2).min(1)
    distance, index = nearest(rows, others)
    torch.testing.assert_close(distance.double(), truth.values, rtol=1e-6, atol=0)
    assert torch.equal(index, truth.indices) and distance[3] == 0
    inner = (rows.double()[:, None] - rows.double()).norm(dim=2).fill_diagonal_(1e9).min(1)
    assert torch.equal(nearest(rows, rows, same=True)[1], inner.indices)


def test_quality_is_low_when_few_are_as_near_as_real_images() -> None:
    """All training images at 0, held-out ones at 1, ..., 100: 91 of those lie within 91."""
    train, own = torch.zeros(10, 1), torch.ones(10)
    held_out = Nearness.of(torch.arange(1.0, 101)[:, None], train, own)
    for near, wanted in ((17, True), (18, False), (90, False)):
        samples = torch.tensor([91.0] * near + [91.5] * (100 - near))[:, None]
        found = diagnostics.low_quality(Nearness.of(samples, train, own), held_out)
        assert (found.raised, found.statistic) == (wanted, near / 100), found
