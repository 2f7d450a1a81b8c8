"""Augmentation does not leak: a part of benchmarks/leak.py, with one seed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from photo_crops import cut

from ganpipe.settings import Settings

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
from leak import FAR_AHEAD, course_of_p, rotated_share, write_digits


@pytest.mark.slow
@pytest.mark.parametrize(("p", "kimg", "low", "high"), [(0.6, 60, 0, 0.05), (1, 30, 0.4, 1)])
def test_rotations_leak_only_where_nothing_tells_them_apart(
    p: float, kimg: float, low: float, high: float, settings: Settings, tmp_path: Path
) -> None:
    share, right = rotated_share(p, kimg, 1, write_digits(tmp_path / "digits"), settings)
    assert right > 0.98
    assert low <= share <= high


@pytest.mark.slow
def test_p_falls_to_0_on_plentiful_data_and_rises_where_the_discriminator_is_far_ahead(
    settings: Settings, tmp_path: Path
) -> None:
    crops = cut(tmp_path / "crops", 2000, side=32)
    plentiful, ahead = (
        [p for p, _ in course_of_p(crops, 16, 1, settings, run_id, *changes)]
        for run_id, changes in (("plentiful", []), ("ahead", [FAR_AHEAD]))
    )
    assert plentiful[0] > 0.4 and plentiful[-1] == 0
    assert ahead[-1] > 0.6
