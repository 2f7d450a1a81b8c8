"""Numbers from features: torch-fidelity's, closed forms of Gaussians, and slow second implementations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, isc_features_to_metric
from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, kid_features_to_metric
from torch_fidelity.metric_prc import KEY_METRIC_PRECISION, KEY_METRIC_RECALL, prc_features_to_metric

from ganpipe.errors import InputError
from ganpipe.evaluate import manifold, resampling
from ganpipe.evaluate.fidelity import Features
from ganpipe.evaluate.frechet import Distances, Gaussian, at_infinity, frechet_distance, moments
from ganpipe.evaluate.protocol import Protocol
from ganpipe.evaluate.scores import Measured, Reference, mean_of, measure


def protocol(n: int, m: int, **fields: int) -> Protocol:
    given = {"kid_subsets": 4, "kid_subset_size": min(n, m) - 1, "isc_splits": 3, "prc_neighborhood": 3, **fields}
    return Protocol(
        extractor="inception", weights_sha256="", torch_fidelity="", dataset_digest="", resize="", n_reference=m,
        n_generated=n, chunk=64, **given,
    )  # fmt: skip


def features(n: int, dims: int, seed: int, scale: float = 1.0, shift: float = 0.0) -> Features:
    draws = torch.Generator().manual_seed(seed)
    mixing_DD = torch.randn(dims, dims, generator=torch.Generator().manual_seed(99)) / dims**0.5
    rows_ND = torch.randn(n, dims, generator=draws) * scale @ mixing_DD + shift
    return Features(rows_ND, 3 * rows_ND[:, :10])


def theirs(generated: Features, real: Features, used: Protocol) -> dict[str, float]:
    """By torch-fidelity's own functions."""
    statistics = [fid_features_to_statistics(side.features_ND) for side in (generated, real)]
    size = {"kid_subsets": used.kid_subsets, "kid_subset_size": used.kid_subset_size}
    both = (generated.features_ND, real.features_ND)
    manifolds = prc_features_to_metric(*both, prc_neighborhood=used.prc_neighborhood, verbose=False)
    return {
        "fid": fid_statistics_to_metric(*statistics, verbose=False)[KEY_METRIC_FID],
        "kid": kid_features_to_metric(*both, verbose=False, **size)[KEY_METRIC_KID_MEAN],
        "is": isc_features_to_metric(generated.logits_NK, used.isc_splits)[KEY_METRIC_ISC_MEAN],
        "precision": manifolds[KEY_METRIC_PRECISION],
        "recall": manifolds[KEY_METRIC_RECALL],
    }


@pytest.mark.parametrize(
    ("n", "m", "dims", "shift"),
    [(300, 500, 32, 0.1), (2000, 700, 64, 0.0), (200, 150, 192, 0.2), (100, 400, 192, 0.2), (400, 100, 192, 5.0)],
    ids=["usual", "near", "both singular", "generated singular", "real singular, far"],
)
def test_scores_equal_torch_fidelitys(n: int, m: int, dims: int, shift: float) -> None:
    generated, real, used = features(n, dims, 0, 1.2, shift), features(m, dims, 1), protocol(n, m)
    expected = theirs(generated, real, used)
    scores = measure(generated, Reference.of(real, used), used).scores
    assert {name: scores[name] for name in expected} == pytest.approx(expected, rel=1e-6)
    assert all(map(math.isfinite, scores.values()))


def test_matrices_in_bands_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    generated, real, used = features(300, 16, 0, 1.1), features(500, 16, 1), protocol(300, 500)
    whole = measure(generated, Reference.of(real, used), used)
    monkeypatch.setattr(manifold, "ELEMENTS", 300 * 70)
    assert measure(generated, Reference.of(real, used), used).scores == pytest.approx(whole.scores, rel=1e-6)


# --- Frechet distances -------------------------------------------------------------------------------------------


def test_a_distance_is_the_closed_form() -> None:
    """Covariances R diag R^T with common R: the distance is that of the deviations along R's axes."""
    rng = np.random.default_rng(0)
    turned, _ = np.linalg.qr(rng.standard_normal((6, 6)))
    one, other = rng.uniform(0.5, 2, 6), rng.uniform(0.5, 2, 6)
    # Twice the rows of a square root, once with either sign, have exactly this covariance and no mean.
    root = turned @ np.diag(one) * np.sqrt((12 - 1) / 2)
    rows = torch.from_numpy(np.concatenate([root.T, -root.T])).float()
    shift = np.full(6, 0.3, np.float32)
    distance = frechet_distance(rows, shift, turned @ np.diag(other**2) @ turned.T)
    assert distance == pytest.approx(6 * 0.09 + ((one - other) ** 2).sum(), rel=1e-6)


def test_few_rows_have_the_distance_of_their_singular_values() -> None:
    """tr (S S_r)^(1/2) is the sum of those of X X_r^T; general eigenvalues are off by 1e-5 of the distance here."""
    draws = torch.Generator().manual_seed(0)
    axes = torch.randn(6, 1024, generator=draws) / 20
    one, other = (
        torch.randn(n, 6, generator=draws) @ axes + torch.randn(n, 1024, generator=draws) / 100 for n in (32, 48)
    )
    centred = [side.double() - side.double().mean(0) for side in (one, other)]
    root = torch.linalg.svdvals(centred[0] @ centred[1].T).sum() / (31 * 47) ** 0.5
    traces = sum(side.square().sum() / (len(side) - 1) for side in centred)
    means = (one.double().mean(0) - other.double().mean(0)).square().sum()
    assert frechet_distance(one, *moments(other)) == pytest.approx(float(means + traces - 2 * root), rel=1e-6)


@pytest.mark.parametrize("dims", [8, 80])
def test_unions_of_blocks_are_measured_as_their_rows_are(dims: int) -> None:
    """With more rows than features by their moments, with fewer by their Gram matrix."""
    rows_ND, real = features(100, dims, 0, 1.3, 0.2).features_ND, moments(features(300, dims, 1).features_ND)
    distances = Distances(rows_ND, Gaussian.of(*real), 16)
    for chosen in resampling.random_unions(16, 9, 3, seed=0):
        rows = rows_ND[chosen[torch.arange(100) % 16]]
        assert distances.rows(chosen) == len(rows)
        statistics = fid_features_to_statistics(rows.double()), {"mu": real[0].astype(float), "sigma": real[1]}
        expected = fid_statistics_to_metric(*statistics, verbose=False)[KEY_METRIC_FID]
        assert distances.distance(chosen) == pytest.approx(expected, rel=1e-6)


def test_the_limit_is_a_straight_line_through_distances_of_fewer_rows() -> None:
    rows_ND, real = features(400, 8, 0, 1.3).features_ND, moments(features(900, 8, 1).features_ND)
    inverse, means = [], []
    for kept in (8, 10, 12, 16):
        unions = resampling.random_unions(16, kept, 4, seed=7)
        of_unions = [rows_ND[chosen[torch.arange(400) % 16]] for chosen in unions]
        inverse.append(np.mean([1 / len(rows) for rows in of_unions]))
        means.append(np.mean([frechet_distance(rows, *real) for rows in of_unions]))
    expected = np.linalg.lstsq(np.stack([np.ones(4), inverse], 1), np.array(means), rcond=None)[0][0]
    assert at_infinity(Distances(rows_ND, Gaussian.of(*real), 16), 4, 4, seed=7) == pytest.approx(expected, rel=1e-5)


def test_the_limit_has_not_the_bias_of_few_rows() -> None:
    """Of the closed form, on average over samples; the distance itself is far above it."""
    dims, deviation = 16, torch.linspace(0.8, 1.3, 16)
    real = Gaussian.of(np.zeros(dims, np.float32), np.eye(dims))
    closed = float(((deviation - 1) ** 2).sum()) + dims * 0.01
    limits, plain = [], []
    for seed in range(40):
        rows = torch.randn(200, dims, generator=torch.Generator().manual_seed(seed)) * deviation + 0.1
        distances = Distances(rows, real, 16)
        limits.append(at_infinity(distances, 4, 4, seed=0))
        plain.append(distances.distance(torch.ones(16, dtype=torch.bool)))
    error = np.std(limits) / 40**0.5
    assert abs(np.mean(limits) - closed) < 3 * error < 0.1
    assert np.mean(plain) > closed + 0.3


def test_few_rows_have_a_limit_too() -> None:
    real = Gaussian.of(*moments(features(50, 4, 1).features_ND))
    for n in (2, 3, 5, 20):
        assert math.isfinite(at_infinity(Distances(features(n, 4, 0).features_ND, real, min(n, 16)), 4, 4, seed=0))


# --- nearest neighbours ------------------------------------------------------------------------------------------


def test_density_and_coverage_equal_their_definitions() -> None:
    """Eq. 6 and 7 of arXiv:2002.09797, ball by ball."""
    generated, real = features(60, 5, 0, 1.4), features(80, 5, 1)
    used = protocol(60, 80, density_neighborhood=4)
    scores = measure(generated, Reference.of(real, used), used).scores
    made, known = generated.features_ND.double().numpy(), real.features_ND.double().numpy()
    inside = np.zeros((80, 60))
    for i, centre in enumerate(known):
        radius = sorted(float(np.linalg.norm(centre - other)) for other in known)[4]
        inside[i] = [np.linalg.norm(centre - row) <= radius for row in made]
    assert scores["density"] == pytest.approx(inside.sum() / (4 * 60))
    assert scores["coverage"] == pytest.approx(inside.any(1).mean())


def test_equals_have_the_density_and_coverage_that_theory_says() -> None:
    """Sec. 3.3 of arXiv:2002.09797: 1, and 1 - (N - 1) ... (N - k) / ((M + N - 1) ... (M + N - k))."""
    n, m, k, density, coverage = 120, 200, 5, [], []
    for seed in range(30):
        used = protocol(n, m)
        found = measure(features(n, 6, 2 * seed), Reference.of(features(m, 6, 2 * seed + 1), used), used).scores
        density.append(found["density"])
        coverage.append(found["coverage"])
    expected = 1 - math.prod((m - j) / (n + m - j) for j in range(1, k + 1))
    assert np.mean(density) == pytest.approx(1, abs=3 * np.std(density) / 30**0.5)
    assert np.mean(coverage) == pytest.approx(expected, abs=3 * np.std(coverage) / 30**0.5)
    assert np.std(coverage) / 30**0.5 < 0.01


def test_recall_of_halves_is_that_of_the_rows_alone() -> None:
    generated, real = features(160, 6, 0, 1.3), features(200, 6, 1)
    halves = resampling.half_samples(16)
    assert halves is not None
    near = manifold.radii(real.features_ND, (3, 5))
    found = manifold.manifold(generated.features_ND, real.features_ND, near, (3, 5), 16, halves)
    block_N = torch.arange(160) % 16
    for half, recall in list(zip(halves, found.recall_J, strict=True))[:5]:
        rows = generated.features_ND[half[block_N]]
        expected = prc_features_to_metric(rows, real.features_ND, prc_neighborhood=3, verbose=False)
        assert float(recall) == pytest.approx(expected[KEY_METRIC_RECALL])
    without = found.coverage_without()
    rest = Features(generated.features_ND[block_N != 3], generated.logits_NK[block_N != 3])
    used = protocol(150, 200)
    assert float(without[3]) == pytest.approx(measure(rest, Reference.of(real, used), used).scores["coverage"])


# --- entropies, classes, bad input -------------------------------------------------------------------------------


def test_entropies_make_the_inception_score() -> None:
    """Of one split exactly; of several they are means, as the score is."""
    generated, real = features(90, 12, 0), features(90, 12, 1)
    once = protocol(90, 90, isc_splits=1)
    scores = measure(generated, Reference.of(real, once), once).scores
    assert math.exp(scores["entropy_marginal"] - scores["entropy_conditional"]) == pytest.approx(scores["is"])
    p = generated.logits_NK.double().softmax(1).numpy()
    assert scores["entropy_marginal"] == pytest.approx(-(p.mean(0) * np.log(p.mean(0))).sum())
    assert scores["entropy_conditional"] == pytest.approx(-(p * np.log(p)).sum(1).mean())
    split = protocol(90, 90, isc_splits=3)
    parts = np.array_split(p[np.random.RandomState(2020).permutation(90)], 3)
    marginal = np.mean([-(part.mean(0) * np.log(part.mean(0))).sum() for part in parts])
    assert measure(generated, Reference.of(real, split), split).scores["entropy_marginal"] == pytest.approx(marginal)


def test_each_class_is_scored_by_itself() -> None:
    """Class 1 is made badly, class 2 hardly ever; class 3 is rare on the real side."""
    draws = torch.Generator().manual_seed(0)

    def of_classes(counts: list[int], shift: float) -> Features:
        labels = torch.repeat_interleave(torch.arange(4), torch.tensor(counts))
        rows = torch.randn(len(labels), 4, generator=draws) + 10 * labels[:, None] + shift * (labels == 1)[:, None]
        return Features(rows, 9 * torch.nn.functional.one_hot(labels, 4).float())

    real, generated = of_classes([100, 100, 100, 5], 0), of_classes([100, 100, 4, 20], 4)
    used = protocol(len(generated), len(real), kid_subset_size=20)
    found = measure(generated, Reference.of(real, used, classes=("a", "b", "c", "d")), used).by_class
    assert set(found["recall"]) == {"a", "b", "c"} and set(found["kid"]) == set(found["fid"]) == {"a", "b"}
    assert found["recall"]["a"] > 0.5 > 0.1 > found["recall"]["b"]
    rows = [side.features_ND[side.logits_NK.argmax(1) == 1] for side in (generated, real)]
    statistics = [fid_features_to_statistics(side) for side in rows]
    expected = fid_statistics_to_metric(*statistics, verbose=False)[KEY_METRIC_FID]
    assert found["fid"]["b"] == pytest.approx(expected, rel=1e-6)
    whole = kid_features_to_metric(*(side.double() for side in rows), kid_subsets=1, kid_subset_size=100, verbose=False)
    assert found["kid"]["b"] == pytest.approx(whole[KEY_METRIC_KID_MEAN], rel=1e-6)
    assert measure(generated, Reference.of(real, used), used).by_class == {}
    assert mean_of([Measured({}, by_class=found)] * 2).by_class == found


def test_one_image_over_and_over_is_scored_and_no_reference() -> None:
    """A generator that has collapsed is as bad as it is; data that has measures nothing."""
    same = Features(torch.ones(100, 8), torch.ones(100, 10))
    used = protocol(100, 100)
    found = measure(same, Reference.of(features(100, 8, 1), used), used)
    assert all(map(math.isfinite, found.scores.values()))
    assert found.scores["recall"] < 0.1 and found.scores["entropy_conditional"] == pytest.approx(math.log(10))
    with pytest.raises(InputError, match="all 100 real images have the same features"):
        Reference.of(same, used)
