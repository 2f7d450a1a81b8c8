"""Stacked digits are read right, and their modes counted, against histograms made by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tiny import stacked_raw, tiny_raw

from ganpipe import prepare
from ganpipe.config import load_config
from ganpipe.errors import InputError
from ganpipe.evaluate import fidelity, triples
from ganpipe.evaluate.extractors import find_weights
from ganpipe.evaluate.metrics import lower_is_better, metric_names
from ganpipe.evaluate.modes import triple_scores
from ganpipe.evaluate.process import Scorer
from ganpipe.evaluate.scores import measure
from ganpipe.prepare.manifest import Dataset
from ganpipe.ranks import Ranks
from ganpipe.settings import Settings
from ganpipe.storage import Store, open_store


def read(modes: list[int], log_ratio: float = 0.1) -> torch.Tensor:
    """What the extractor returns of triples that it is as sure of."""
    digits_N3 = torch.tensor([[mode // 100, mode // 10 % 10, mode % 10] for mode in modes])
    log_ratios_N3K = torch.full((len(modes), 3, 10), -5.0)
    return log_ratios_N3K.scatter(2, digits_N3[:, :, None], log_ratio).flatten(1)


def test_all_modes_alike_have_no_divergence() -> None:
    assert triple_scores(read([*range(1000)] * 2)) == {"modes": 1000, "mode_kl": pytest.approx(0), "confident": 1}


def test_lost_modes_and_uneven_ones_are_told() -> None:
    """Of p = (1/2, 1/4, 1/4) over three modes, KL is sum p log 1000 p."""
    scores = triple_scores(read([7, 7, 123, 999]))
    assert scores["modes"] == 3
    assert scores["mode_kl"] == pytest.approx(math.log(1000) - 1.5 * math.log(2))
    assert triple_scores(read([5] * 100))["mode_kl"] == pytest.approx(math.log(1000))


def test_one_unsure_channel_takes_a_sample_s_confidence_and_not_its_mode() -> None:
    log_ratios = read([1, 2, 3, 4])
    log_ratios[0, 20 + 1] = -0.01  # the blue channel's 1, below the threshold and still the likeliest
    assert triple_scores(log_ratios) == triple_scores(read([1, 2, 3, 4])) | {"confident": 0.75}


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> Scorer:
    home = tmp_path_factory.mktemp("stacked")
    settings = Settings(home=home, store=f"file://{home}/store", tracking_uri="off")
    config = load_config(stacked_raw())
    ref = prepare.run(config, settings)
    return Scorer.prepare(config.evaluate, ref.digest, open_store(settings.store), settings)


def scores_of(scorer: Scorer, images: np.ndarray) -> dict[str, float]:
    features = fidelity.extract(scorer.extractor, len(images), fidelity.rows_of(images), Ranks(), "images")
    return measure(features, scorer.reference, scorer.protocol).scores


def test_held_out_triples_are_read_right(scorer: Scorer) -> None:
    sha256 = scorer.protocol.weights_sha256
    facts = scorer.store.manifest(f"extractors/{sha256}")
    assert facts["test_accuracy"] > 0.9 and facts["digit_accuracy"] > 0.97  # of 8 px; benchmarks/stacked.py has 32
    images, labels = (np.array(scorer.dataset.column(name, "test")) for name in ("image", "label"))
    _, log_ratios = scorer.extractor(torch.from_numpy(images))
    digits = log_ratios.unflatten(1, (3, 10)).argmax(2).numpy()
    assert (digits @ (100, 10, 1) == labels).mean() == pytest.approx(facts["test_accuracy"], abs=1e-3)


def test_confidence_is_that_of_held_out_channels(scorer: Scorer) -> None:
    images = torch.from_numpy(np.array(scorer.dataset.column("image", "test")))
    _, log_ratios = scorer.extractor(images)
    sure_N3 = log_ratios.unflatten(1, (3, 10)).amax(2) >= 0
    assert sure_N3.double().mean() == pytest.approx(0.95, abs=0.01)


def test_controls_stand_where_they_should(scorer: Scorer) -> None:
    controls = {control.name: control.scores for control in scorer.controls}
    real, gaussian, memoriser = (controls[name] for name in ("real", "pca_gaussian", "resampled_train"))
    assert set(real) == set(metric_names("triples")) >= {"modes", "mode_kl", "confident", "fid_triples"}
    assert real["mode_kl"] < gaussian["mode_kl"] and real["modes"] > gaussian["modes"]
    assert gaussian["confident"] < real["confident"] <= memoriser["confident"]
    assert real["fid_triples"] < gaussian["fid_triples"]
    assert lower_is_better("mode_kl") and not lower_is_better("modes") and not lower_is_better("confident")


def test_noise_is_nothing_that_the_reader_is_sure_of(scorer: Scorer) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (700, 3, 8, 8), np.uint8)
    scores, real = scores_of(scorer, noise), scorer.controls[0].scores
    assert scores["confident"] < 0.1 < real["confident"] and scores["mode_kl"] > 2 * real["mode_kl"]


def test_another_data_set_has_no_triples(settings: Settings, store: Store) -> None:
    dataset = Dataset.open(store, prepare.run(load_config(tiny_raw()), settings).digest)
    with pytest.raises(InputError, match=r"reads stacked digits, and data set .* holds none"):
        find_weights("triples", dataset, store, settings)
    assert not store.exists(f"extractors/triples-{dataset.digest}.json")


def test_the_same_data_set_gives_the_same_reader(scorer: Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triples, "STEPS", 5)
    torch.manual_seed(3)
    before, _ = triples.train(scorer.dataset)
    torch.manual_seed(4)
    after, _ = triples.train(scorer.dataset)
    assert before == after
