"""Translators learn: a tenth of benchmarks/translation.py, with one seed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from ganpipe.config import load_config
from ganpipe.settings import Settings

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
import trained

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.slow
def test_half_a_digit_becomes_a_whole_one(settings: Settings) -> None:
    overrides = ["train.seed=1", "train.stop.kimg=4", "train.snapshot_kimg=4"]
    one, blurred = (
        trained.run(load_config(CONFIGS / "digits-pix2pix.yaml", [*overrides, f"gan.objective={name}"]), settings)
        for name in ("both", "l1")
    )
    found, controls = one.best.scores, {name: control.scores for name, control in one.controls.items()}
    assert found["fid_domain"] < 0.85 * blurred.best.scores["fid_domain"]
    assert found["label_accuracy_domain"] > 0.8
    assert 1 - found["label_accuracy_domain"] < 0.5 * (1 - controls["identity"]["label_accuracy_domain"])
    assert found["l1"] < 0.5 * controls["constant_mean"]["l1"]
    assert found["fid_domain"] < 0.2 * controls["identity"]["fid_domain"]


@pytest.mark.slow
def test_two_styles_become_one_another(settings: Settings) -> None:
    overrides = ["train.seed=1", "train.stop.kimg=2.4", "train.snapshot_kimg=2.4"]
    one = trained.run(load_config(CONFIGS / "digits-cyclegan.yaml", overrides), settings)
    found, controls = one.best.scores, {name: control.scores for name, control in one.controls.items()}
    for direction in ("AtoB", "BtoA"):
        assert found[f"l1_{direction}"] < 0.5 * controls["identity"][f"l1_{direction}"]
        assert found[f"fid_domain_{direction}"] < controls["inversion"][f"fid_domain_{direction}"]
    assert found["cycle_l1"] < 0.2
