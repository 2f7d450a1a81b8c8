from __future__ import annotations

import math

import pytest
from pydantic import TypeAdapter, ValidationError

from ganpipe.schedule import Schedule

schedule = TypeAdapter(Schedule).validate_python


def test_a_number_is_constant() -> None:
    assert [schedule(0).at(images) for images in (0, 10**9)] == [0.0, 0.0]
    assert isinstance(schedule(0).at(0), float)


def test_segments_follow_one_another_and_the_last_end_holds() -> None:
    ramp = schedule(
        [
            {"start": 0, "end": 1, "over_kimg": 10},
            {"start": 1, "end": 0.5, "over_kimg": 20, "shape": "cosine"},
            {"start": 3, "end": 4, "over_kimg": 1, "shape": "constant"},
        ]
    )
    assert ramp.at(0) == 0
    assert ramp.at(5_000) == 0.5
    assert ramp.at(10_000) == 1
    assert ramp.at(15_000) == pytest.approx(1 - 0.5 * (1 - math.cos(math.pi / 4)) / 2)
    assert ramp.at(20_000) == pytest.approx(0.75)
    assert ramp.at(30_000) == 3
    assert ramp.at(30_999) == 3
    assert ramp.at(31_000) == ramp.at(10**9) == 4


def test_round_trip() -> None:
    for value in (0.5, [{"start": 1.0, "end": 2.0, "over_kimg": 3.0, "shape": "linear"}]):
        assert schedule(value).model_dump(mode="json") == value


@pytest.mark.parametrize("value", [[], "fast", [{"start": 1, "end": 2}], [{"start": 1, "end": 2, "over_kimg": 0}]])
def test_refused(value: object) -> None:
    with pytest.raises(ValidationError):
        schedule(value)
