"""Stacked digits: three digits a triple, as its label says, and no digit on both sides of a split."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tiny import stacked_raw

from ganpipe import prepare
from ganpipe.config import config_to_json, load_config
from ganpipe.errors import InputError
from ganpipe.prepare.manifest import SPLITS, Dataset
from ganpipe.settings import Settings
from ganpipe.storage import open_store


def prepared(settings: Settings, *overrides: str, **source: Any) -> Dataset:
    config = load_config(stacked_raw(**source), overrides)
    return Dataset.open(open_store(settings.store), prepare.run(config, settings).digest)


def singles(settings: Settings) -> dict[bytes, tuple[str, int]]:
    """Pixels of each digit -> its split in the data set `digits`, and its label."""
    raw = stacked_raw()
    raw["prepare"] = {"source": {"name": "digits"}, "resolution": 8, "channels": 1}
    config = load_config(raw, ["evaluate.extractor=domain"])
    digits = Dataset.open(open_store(settings.store), prepare.run(config, settings).digest)
    return {
        image.tobytes(): (split, int(label))
        for split in SPLITS
        for image, label in zip(digits.column("image", split), digits.column("label", split), strict=True)
    }


def test_triples_are_made_of_their_own_splits_digits_and_labelled_by_them(settings: Settings) -> None:
    dataset, known = prepared(settings), singles(settings)
    assert dataset.spec()["image"].shape == (3, 8, 8)
    assert dataset.spec()["label"].vocabulary == tuple(f"{mode:03d}" for mode in range(1000))
    used: dict[str, set[bytes]] = {}
    for split in SPLITS:
        labels = dataset.column("label", split)
        for image, mode in zip(dataset.column("image", split), labels, strict=True):
            found = [known[channel.tobytes()] for channel in image]
            assert {of_split for of_split, _ in found} == {split}
            assert "".join(str(label) for _, label in found) == f"{mode:03d}"
        used[split] = {channel.tobytes() for image in dataset.column("image", split) for channel in image}
    assert not used["train"] & used["test"] and not used["train"] & used["extractor"]
    rows = dataset.manifest.ref.rows
    assert sum(rows.values()) == 3000
    assert rows["test"] / 3000 == pytest.approx(0.2, abs=0.03) and rows["train"] / 3000 == pytest.approx(0.65, abs=0.03)


def test_every_digit_is_as_frequent_as_any_other(settings: Settings) -> None:
    dataset = prepared(settings)
    modes = np.concatenate([dataset.column("label", split) for split in SPLITS])
    for place in (100, 10, 1):
        assert np.abs(np.bincount(modes // place % 10, minlength=10) - 300).max() < 4 * (300 * 0.9) ** 0.5


def test_a_seed_is_one_data_set_and_it_is_found_again(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    digest = prepared(settings).digest
    assert digest == "1c4f3712c2def2275a6f20b915bc85a9"
    caplog.set_level("INFO")
    assert prepared(settings).digest == digest
    assert "already prepared" in caplog.text
    assert prepared(settings, seed=1).digest != digest
    assert not list((settings.home / "work").glob("*"))


def test_without_an_extractor_split_there_are_two(settings: Settings) -> None:
    rows = prepared(settings, "prepare.extractor_fraction=0").manifest.ref.rows
    assert rows["extractor"] == 0 and rows["test"] / 3000 == pytest.approx(0.2, abs=0.03)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("prepare.channels=1", r"prepare\.channels is 1, and prepare\.source stacked_digits"),
        ("prepare.source.images=10", r"prepare\.source\.images"),
        ("prepare.source.path=x", r"prepare\.source\.path"),
        ("evaluate.extractor=point", r"evaluate\.extractor point does not fit prepare\.source stacked_digits"),
        ("register.require={label_accuracy_domain: {at_least: 1}}", r"register\.require\.label_accuracy_domain"),
        ("register.metric=high_quality", r"register\.metric: 'high_quality' is not measured"),
    ],
)
def test_what_does_not_fit_is_refused_by_its_field(override: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_config(stacked_raw(), [override])


def test_only_stacked_digits_have_triples() -> None:
    raw = stacked_raw()
    raw["prepare"]["source"] = {"name": "digits"}
    with pytest.raises(InputError, match=r"evaluate\.extractor triples reads stacked digits.* is digits"):
        load_config(raw, ["evaluate.extractor=triples"])


def test_the_default_extractor_reads_triples_and_another_may_be_asked_for() -> None:
    config = load_config(stacked_raw())
    assert config.evaluate.extractor == "triples"
    assert load_config(config_to_json(config)) == config
    assert load_config(stacked_raw(), ["evaluate.extractor=domain"]).evaluate.extractor == "domain"
    assert load_config(stacked_raw(), ["evaluate.protocol=fid10k-train"]).evaluate.extractor == "inception"


def test_a_split_that_lacks_a_digit_is_refused(settings: Settings) -> None:
    with pytest.raises(InputError, match=r"prepare\.test_fraction 0\.002 leaves no \d among the digits of the test"):
        prepared(settings, "prepare.test_fraction=0.002")
    assert not list(open_store(settings.store).list())
