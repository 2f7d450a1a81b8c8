"""Scores of points against closed forms: what is reached, how well, and what a single Gaussian makes of it."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import points_raw

from ganpipe import prepare
from ganpipe.config import load_config
from ganpipe.evaluate import fidelity
from ganpipe.evaluate.extractors import build_extractor, find_weights
from ganpipe.evaluate.metrics import lower_is_better, metric_names
from ganpipe.evaluate.modes import PointGaussian, mode_scores
from ganpipe.evaluate.process import Scorer
from ganpipe.evaluate.scores import measure
from ganpipe.prepare.manifest import Dataset
from ganpipe.prepare.mixtures import MIXTURES, draw_mixture
from ganpipe.ranks import Ranks
from ganpipe.settings import Settings
from ganpipe.storage import Store, open_store

WITHIN_3_SIGMA = 1 - math.exp(-9 / 2)
"""Chi-square with two degrees of freedom at 9."""


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, Scorer]:
    home = tmp_path_factory.mktemp("ring")
    settings = Settings(home=home, store=f"file://{home}/store", tracking_uri="off")
    config = load_config(points_raw(samples=4000))
    ref = prepare.run(config, settings)
    return settings, Scorer.prepare(config.evaluate, ref.digest, open_store(settings.store), settings)


def scores_of(scorer: Scorer, points: np.ndarray) -> dict[str, float]:
    features = fidelity.extract(scorer.extractor, len(points), fidelity.rows_of(points), Ranks(), "points")
    return measure(features, scorer.reference, scorer.protocol).scores


def distances(points: np.ndarray, name: str = "ring8") -> torch.Tensor:
    """In standard deviations, without the extractor."""
    mixture = MIXTURES[name]
    away = np.linalg.norm(points[:, None] - np.array(mixture.centres), axis=2)
    return torch.from_numpy(away / mixture.deviation)


@pytest.mark.parametrize(("name", "modes"), [("ring8", 8), ("grid25", 25)])
def test_the_mixture_itself_scores_what_chi_square_says(name: str, modes: int) -> None:
    points, _ = draw_mixture(MIXTURES[name], 100_000, np.random.default_rng(0))
    scores = mode_scores(distances(points, name))
    assert scores["modes"] == modes
    assert scores["high_quality"] == pytest.approx(WITHIN_3_SIGMA, abs=0.002)
    assert WITHIN_3_SIGMA - 0.02 < scores["mode_overlap"] <= scores["high_quality"]


def test_one_mode_is_one_mode_however_good(ring: tuple[Settings, Scorer]) -> None:
    points = np.random.default_rng(0).normal(0, 0.02, (2000, 2)).astype(np.float32) + np.float32([2, 0])
    scores = scores_of(ring[1], points)
    assert scores["modes"] == 1
    assert scores["high_quality"] == pytest.approx(WITHIN_3_SIGMA, abs=0.01)
    assert scores["mode_overlap"] == pytest.approx(1 / 8)


def test_a_mode_counts_from_a_tenth_of_its_fair_share_on() -> None:
    """800 samples at 8 modes: 10 are needed."""
    centres = np.array(MIXTURES["ring8"].centres)
    points = np.repeat(centres, [700, 10, 9, 0, 81, 0, 0, 0], axis=0)
    scores = mode_scores(distances(points))
    assert scores["modes"] == 3
    assert scores["high_quality"] == 1
    assert scores["mode_overlap"] == pytest.approx((100 + 10 + 9 + 81) / 800)
    assert mode_scores(distances(points + 0.05)) == {"modes": 0, "high_quality": 0, "mode_overlap": 0}


def test_the_extractor_returns_points_and_their_distances(ring: tuple[Settings, Scorer]) -> None:
    points = np.random.default_rng(0).normal(0, 2, (150, 2)).astype(np.float32)
    features = fidelity.extract(ring[1].extractor, len(points), fidelity.rows_of(points), Ranks(), "points")
    np.testing.assert_array_equal(features.features_ND.numpy(), points)
    np.testing.assert_allclose(features.logits_NK.numpy(), distances(points).numpy(), rtol=1e-4)
    assert ring[1].diagnose({1: features}, [1]) is None  # their modes are known: they need no alarms


def test_controls_stand_where_they_should(ring: tuple[Settings, Scorer]) -> None:
    """A Gaussian with the ring's mean and covariance deceives the Frechet distance and KID, and not the overlap."""
    controls = {control.name: control.scores for control in ring[1].controls}
    real, gaussian, memoriser = (controls[name] for name in ("real", "pca_gaussian", "resampled_train"))
    assert set(real) == set(metric_names("point")) and not {name for name in real if name.startswith("is")}
    assert real["modes"] == memoriser["modes"] == 8 and gaussian["modes"] == 0
    assert real["mode_overlap"] > 0.9 and gaussian["mode_overlap"] < 0.02
    assert gaussian["fid_point"] < 0.05 and gaussian["kid_point"] < 0.2
    assert real["precision_point"] > 0.9 > 0.1 > gaussian["precision_point"]


def test_a_gaussian_has_the_mean_and_covariance_it_was_fitted_to() -> None:
    rng = np.random.default_rng(0)
    points = (rng.standard_normal((5000, 2)) @ [[1, 0.5], [0, 0.2]] + [3, -1]).astype(np.float32)
    drawn = PointGaussian.fit(points).sample(200_000, torch.Generator().manual_seed(0)).numpy()
    np.testing.assert_allclose(drawn.mean(0), points.mean(0), atol=0.01)
    np.testing.assert_allclose(np.cov(drawn.T), np.cov(points.T), atol=0.01)


def test_the_protocol_names_the_mixture(settings: Settings, store: Store, tmp_path: Path) -> None:
    weights = []
    for name in ("ring8", "grid25"):
        digest = prepare.run(load_config(points_raw(name=name, samples=1000)), settings).digest
        weights.append(find_weights("point", Dataset.open(store, digest), store, settings))
        assert build_extractor(weights[-1]).feature_dim == 2
    assert weights[0].sha256 != weights[1].sha256


def test_more_modes_and_better_samples_are_better() -> None:
    assert not any(lower_is_better(name) for name in ("mode_overlap", "modes", "high_quality", "recall_point"))
    assert lower_is_better("fid_point") and lower_is_better("kid_point")
