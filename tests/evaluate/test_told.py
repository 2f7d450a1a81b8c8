"""Generators of sentences are scored by what they were told: in unknown phrasings, attribute by attribute."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from evaluate_data import publish_checkpoints
from tiny import SMALL_TEXT
from torch import Tensor, nn

from ganpipe import evaluate, prepare
from ganpipe.config import RunConfig, load_config
from ganpipe.errors import InputError
from ganpipe.evaluate import process
from ganpipe.evaluate.asked import captions_asked
from ganpipe.evaluate.metrics import gate_metric, lower_is_better
from ganpipe.evaluate.scorer import Scorer
from ganpipe.evaluate.told import text_scores
from ganpipe.gans.base import Request
from ganpipe.gans.text_to_image import TextToImage
from ganpipe.prepare.captions import SYNONYMS, VALUES
from ganpipe.prepare.manifest import Dataset
from ganpipe.refs import EvalReport
from ganpipe.sample import LoadedGenerator, load_generator, to_float
from ganpipe.settings import Settings
from ganpipe.storage import open_store

Combination = tuple[int, int, int]
LEFT_OUT = {(7, 1, 0), (2, 0, 1)}
TEXT_ALL = "text_all_domain"


def config_of(*overrides: str) -> RunConfig:
    source = {"name": "captioned_digits", "leave_out": [["seven", "bold", "left"], ["two", "thin", "right"]]}
    return load_config(
        overrides=overrides,
        config={
            "name": "told",
            "prepare": {"source": source, "resolution": 16, "channels": 1},
            "gan": SMALL_TEXT,
            "train": {"stop": {"kimg": 1}, "seed": 1},
            "evaluate": {"select_seeds": 1, "score_seeds": 2, "num_samples": 100},
            "register": {"model": "told", "require": {TEXT_ALL: {"at_least": 0.8}}},
        },
    )


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, Dataset, Scorer]:
    home = tmp_path_factory.mktemp("told")
    settings, config = Settings(home=home, store=f"file://{home}/store", tracking_uri="off"), config_of()
    store = open_store(settings.store)
    dataset = Dataset.open(store, prepare.run(config, settings).digest)
    publish_checkpoints(store, dataset, config, home, 1, run_id="told-run")
    return settings, dataset, Scorer.prepare(config.evaluate, dataset.digest, store, settings)


@pytest.fixture(scope="module")
def report(told: tuple[Settings, Dataset, Scorer]) -> EvalReport:
    return process.evaluate_run(config_of(), "told-run", told[0])


class Painter(TextToImage):
    """Hands out real images by what it is told."""

    def __init__(self, dataset: Dataset, painted: Callable[[Combination, int], Combination], different: bool = True):
        """`painted` are combination and number to the combination that is handed out, some image of it or the first."""
        super().__init__(config_of().gan)
        self.painted, self.different, self.heard = painted, different, set[str]()
        said_N3, images = np.array(dataset.column("meaning", "train")), np.array(dataset.column("image", "train"))
        full = (said_N3 != -1).all(1)
        self.rows = {
            combination: to_float(torch.from_numpy(images[(said_N3 == combination).all(1)]))
            for combination in set(map(tuple, said_N3[full].tolist()))
        }

    def sample(self, generator: nn.Module, request: Request) -> Tensor:
        assert request.caption is not None
        self.heard |= set(request.caption)
        latent_N = request.rng.integers("which", request.n, 0, 10_000).tolist()
        images = []
        for number, (text, latent) in enumerate(zip(request.caption, latent_N, strict=True)):
            rows = self.rows.get(self.painted(meaning(text), number), torch.full((1, 1, 16, 16), -1.0))
            images.append(rows[latent % len(rows) if self.different else 0])
        return torch.stack(images)


def meaning(text: str) -> Combination:
    """By the words of the sentence."""
    words = set(text.lower().replace("-", " ").replace(",", " ").replace(":", " ").split())
    (digit,) = words & {*VALUES[0]} - ({"one"} if text.startswith("one ") and len(words & {*VALUES[0]}) > 1 else set())
    (weight,) = (number for number, name in enumerate(VALUES[1]) if words & {*SYNONYMS[name]})
    return VALUES[0].index(digit), weight, int("right" in words)


def scores(told: tuple[Settings, Dataset, Scorer], painter: Painter, seed: int = 3) -> dict[str, float]:
    _, dataset, scorer = told
    loaded = LoadedGenerator(painter, nn.Identity(), dataset.spec(), {})
    return text_scores(loaded, dataset, scorer.extractor, scorer.reference.classes, scorer.ranks, seed)


def test_who_paints_what_is_said_is_told_so(told: tuple[Settings, Dataset, Scorer]) -> None:
    painter = Painter(told[1], lambda combination, _: combination)
    found = scores(told, painter)
    assert len(painter.heard) == 40 and not painter.heard & set(told[1].texts("caption", "train"))
    assert {meaning(text) for text in painter.heard} == {(d, w, s) for d in range(10) for w in (0, 1) for s in (0, 1)}
    assert found["text_digit"] > 0.95 and found["text_weight"] > 0.97 and found["text_slant"] > 0.97
    assert 0.93 < found["text_all"] <= min(found["text_digit"], found["text_weight"], found["text_slant"])
    assert 0.8 < found["text_diversity"] < 1.1, "64 draws of a dozen images have some of them twice"
    assert found["text_all_unseen"] < 0.1, "there is no image of these"


@pytest.mark.parametrize(("attribute", "name"), [(1, "weight"), (2, "slant")])
def test_an_attribute_that_is_painted_wrong_is_found_out(
    attribute: int, name: str, told: tuple[Settings, Dataset, Scorer]
) -> None:
    """In the odd ones of the samples."""

    def painted(combination: Combination, number: int) -> Combination:
        values = list(combination)
        values[attribute] ^= number % 2
        return values[0], values[1], values[2]

    found, right = scores(told, Painter(told[1], painted)), scores(told, Painter(told[1], lambda each, _: each))
    assert found[f"text_{name}"] == pytest.approx(0.5, abs=0.06) and found["text_all"] < 0.55
    other = "slant" if name == "weight" else "weight"
    assert found[f"text_{other}"] > 0.95 * right[f"text_{other}"] and found["text_digit"] > 0.9


def test_one_image_for_each_sentence_has_no_variety(told: tuple[Settings, Dataset, Scorer]) -> None:
    found = scores(told, Painter(told[1], lambda combination, _: combination, different=False))
    assert found["text_diversity"] == 0 and found["text_weight"] > 0.97


def test_a_report_tells_what_real_digits_are_read_as_beside(
    told: tuple[Settings, Dataset, Scorer], report: EvalReport
) -> None:
    settings, dataset, scorer = told
    seed = report.snapshots[0].seeds[0]
    loaded = load_generator(scorer.file(report.best.checkpoint))
    found = text_scores(loaded, dataset, scorer.extractor, scorer.reference.classes, scorer.ranks, seed)
    assert {name: report.snapshots[0].scores[f"{name}_domain"] for name in found} == pytest.approx(found)
    assert found["text_all"] < 0.3, "it is untrained"
    real = report.control("real").scores
    assert real["text_digit_domain"] > 0.9 and real["text_weight_domain"] > 0.97 and real["text_slant_domain"] > 0.97
    assert not any(name.startswith("text") for name in report.control("pca_gaussian").scores)
    page = open_store(settings.store).read_bytes(f"runs/told-run/reports/{report.protocol_hash}.html").decode()
    assert "Samples by caption" in page and all(text in page for text in dataset.texts("caption", "test", 20))


@pytest.mark.slow
def test_what_is_told_does_not_depend_on_the_number_of_processes(
    told: tuple[Settings, Dataset, Scorer], report: EvalReport
) -> None:
    assert evaluate.run(config_of(), "told-run", told[0].model_copy(update={"num_processes": 2})) == report


def test_other_scores_are_of_captions_of_held_out_images(
    told: tuple[Settings, Dataset, Scorer], report: EvalReport
) -> None:
    _, dataset, scorer = told
    loaded = load_generator(scorer.file(report.best.checkpoint))
    asked = captions_asked(loaded, dataset, 7, range(2000))
    assert asked is not None and set(asked) == set(dataset.texts("caption", "test"))
    assert captions_asked(loaded, dataset, 7, range(30, 40)) == asked[30:40]


def test_the_gate_can_ask_for_it(report: EvalReport) -> None:
    assert gate_metric(config_of("register.metric=text_all_domain")) == TEXT_ALL and not lower_is_better(TEXT_ALL)
    assert all(not lower_is_better(name) for name in report.best.scores if name.startswith("text"))
    assert math.isfinite(report.best.scores["text_all_unseen_domain"])
    with pytest.raises(InputError, match=r"register\.require\.text_all_domain .* evaluate\.extractor inception"):
        config_of("evaluate.extractor=inception", "evaluate.allow_few=true")
