"""Digits with sentences: what a sentence says can be measured on its image, and nothing else is said."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits

from ganpipe import prepare
from ganpipe.config import load_config
from ganpipe.errors import InputError
from ganpipe.prepare import captions
from ganpipe.prepare.captioned import ink_and_lean
from ganpipe.prepare.manifest import Dataset
from ganpipe.settings import Settings
from ganpipe.storage import open_store


def prepared(settings: Settings, resolution: int = 8, **source: Any) -> Dataset:
    raw = {
        "name": "test",
        "prepare": {"source": {"name": "captioned_digits", **source}, "resolution": resolution, "channels": 1},
        "gan": {"name": "text_to_image"},
        "train": {"batch": 4, "stop": {"kimg": 1}},
        "evaluate": {"extractor": "domain", "allow_few": True},
        "register": {"model": "test"},
    }
    return Dataset.open(open_store(settings.store), prepare.run(load_config(raw), settings).digest)


def rows(dataset: Dataset, column: str) -> np.ndarray:
    return np.concatenate([dataset.column(column, split) for split in ("test", "extractor", "train")])


def texts(dataset: Dataset) -> list[str]:
    return [text for split in ("test", "extractor", "train") for text in dataset.texts("caption", split)]


def measured(image: np.ndarray) -> tuple[float, float]:
    """Sum of the ink, and slope of the line that best tells a column from a row: how far a digit's top is to the right
    of its bottom, per row."""
    points = [(x, 7 - y, float(image[y, x])) for x, y in itertools.product(range(8), range(8))]
    x, height, mass = (np.array(values) for values in zip(*points, strict=True))
    slope = np.polyfit(height, x, 1, w=np.sqrt(mass))[0]
    return float(mass.sum()), float(slope)


def test_captions_say_what_is_measured_on_their_images(settings: Settings) -> None:
    dataset = prepared(settings)
    images, digit_N, said_N3 = rows(dataset, "image"), rows(dataset, "label"), rows(dataset, "meaning")
    assert len(images) == 1797
    values = np.array([measured(image[0]) for image in images])
    for digit in range(10):
        of_digit = np.flatnonzero(digit_N == digit)
        assert (said_N3[of_digit, 0] == digit).all()
        for attribute in (0, 1):
            rank = values[of_digit, attribute].argsort().argsort() / len(of_digit)
            said = said_N3[of_digit, 1 + attribute]
            assert (rank[said == 0] < 0.41).all() and (rank[said == 1] > 0.59).all()
            assert np.isin(rank[said == -1] // 0.01, range(38, 62)).all()
    for (digit, weight, side), text in zip(said_N3.tolist(), texts(dataset), strict=True):
        words = text.lower().replace("-", " ").replace(",", " ").replace(".", " ").replace(":", " ").split()
        assert captions.VALUES[0][digit] in words
        for number, name in ((weight, "thin"), (1 - weight, "bold")):
            said = bool({*captions.SYNONYMS[name]} & {*words})
            assert said == (weight != -1 and number == 0)
        assert ("left" in words, "right" in words) == (side == 0, side == 1)
    assert len(set(texts(dataset))) > 1000, "many phrasings"


def test_ink_and_lean_outlive_the_resolution(settings: Settings) -> None:
    """Of clear images, what is read at 32 px is what was said at 8."""
    dataset = prepared(settings, 32)
    digit_N, said_N3, read_N2 = rows(dataset, "label"), rows(dataset, "meaning"), ink_and_lean(rows(dataset, "image"))
    meanings = dataset.spec()["meaning"].meanings
    assert meanings is not None
    sides_N2 = read_N2 > np.array(meanings.medians)[digit_N]
    for attribute in (0, 1):
        clear = said_N3[:, 1 + attribute] != -1
        assert (sides_N2[clear, attribute] == said_N3[clear, 1 + attribute]).mean() > 0.98
    assert (ink_and_lean(np.zeros((1, 1, 16, 16), np.uint8)) == 0).all()


def test_left_out_combinations_have_no_image_that_reads_so(settings: Settings) -> None:
    dataset = prepared(settings, leave_out=[["seven", "bold", "left"], ["two", "thin", "right"]])
    meanings = dataset.spec()["meaning"].meanings
    assert meanings is not None and meanings.left_out == ((7, 1, 0), (2, 0, 1))
    digit_N, values = rows(dataset, "label"), ink_and_lean(rows(dataset, "image"))
    sides_N2 = (values > np.array(meanings.medians)[digit_N]).tolist()
    assert ([True, False], 7) not in zip(sides_N2, digit_N, strict=True)
    assert ([False, True], 2) not in zip(sides_N2, digit_N, strict=True)
    assert 1797 - 120 < len(digit_N) < 1797 - 60
    missing_10 = np.bincount(load_digits().target) - np.bincount(digit_N)
    assert set(np.flatnonzero(missing_10)) == {2, 7}


def test_another_seed_says_the_same_in_other_words(settings: Settings) -> None:
    first, second, again = prepared(settings), prepared(settings, seed=1), prepared(settings)
    assert first.digest == again.digest != second.digest
    np.testing.assert_array_equal(rows(first, "image"), rows(second, "image"))
    np.testing.assert_array_equal(rows(first, "meaning"), rows(second, "meaning"))
    assert np.mean([one == other for one, other in zip(texts(first), texts(second), strict=True)]) < 0.2
    examples = first.spec()["caption"].examples
    assert examples is not None and set(examples) <= set(first.texts("caption", "train")) and len(examples) == 256


def test_held_out_phrasings_are_in_no_training_caption(settings: Settings) -> None:
    trained = {text.lower().rstrip(".") for text in texts(prepared(settings))}
    everything = list(itertools.product(range(10), range(2), range(2)))
    asked = {captions.held_out_caption(meaning, number) for meaning in everything for number in range(24)}
    assert len(asked) > 900 and not {text.lower() for text in asked} & trained
    assert captions.held_out_caption((8, 1, 0), 4) == "a picture of an eight, bold, leaning left"


@pytest.mark.parametrize(
    ("combination", "message"),
    [
        (["sevn", "bold", "left"], r"prepare\.source\.leave_out\.0\.0.*'seven'"),
        (["seven", "fat", "left"], r"prepare\.source\.leave_out\.0\.1.*'thin' or 'bold'"),
        (["seven", "bold"], r"prepare\.source\.leave_out\.0"),
    ],
)
def test_words_that_are_none_are_refused(combination: list[str], message: str, settings: Settings) -> None:
    with pytest.raises(InputError, match=message):
        prepared(settings, leave_out=[combination])
