"""The gate as a table: every check, both directions, noise, and numbers that are none."""

from __future__ import annotations

import math
from typing import Any

import pytest

from ganpipe.errors import InputError
from ganpipe.refs import Alarm, CheckpointRef, ControlScores, Diagnostics, SnapshotScores
from ganpipe.register.gate import judge
from ganpipe.registerconfig import RegisterConfig

CHECKPOINT = CheckpointRef(run_id="r", images_seen=1, prefix="runs/r/checkpoints/kimg-1", generator_sha256="0")
CONTROLS = [
    ControlScores(name="real", n=9, scores={"fid": 2.0, "is": 9.0}),
    ControlScores(name="pca_gaussian", n=9, scores={"fid": 20.0, "is": 4.0}),
]


def scored(fid: list[float], inception: list[float] | None = None) -> SnapshotScores:
    by_seed = {"fid": fid, "is": inception or [5.0] * len(fid)}
    means = {name: sum(values) / len(values) for name, values in by_seed.items()}
    return SnapshotScores(checkpoint=CHECKPOINT, scores=means, by_seed=by_seed, seeds=list(range(len(fid))))


def config(**fields: Any) -> RegisterConfig:
    return RegisterConfig(model="digits", **fields)


def translated(fid: float, of_halves: list[float]) -> SnapshotScores:
    """The same on every seed, as translations without noise are."""
    return scored([fid, fid]).model_copy(update={"by_half": {"fid": of_halves}})


STEADY = scored([10.0, 10.2, 9.8])
NAN = math.nan
CASES = {
    "first champion": (scored([5.0, 5.0]), None, config(), True, "first champion"),
    "first loses to the Gaussian": (scored([25.0, 25.0]), None, config(), False, "not below the PCA-Gaussian"),
    "as bad as the Gaussian": (scored([20.0, 20.0]), None, config(), False, "not below"),
    "later one loses to the Gaussian": (scored([30.0] * 3), scored([60.0] * 3), config(), False, "PCA-Gaussian"),
    "nan": (scored([NAN, NAN, NAN]), STEADY, config(), False, "fid is nan"),
    "nan without a champion": (scored([NAN]), None, config(), False, "fid is nan"),
    "nan in another metric": (scored([1.0] * 3, [NAN] * 3), STEADY, config(), False, "is is nan"),
    "infinite": (scored([math.inf] * 3), STEADY, config(), False, "fid is inf"),
    "minus infinity": (scored([-math.inf] * 3), STEADY, config(), False, "fid is -inf"),
    "clearly better": (scored([5.0, 5.2, 4.8]), STEADY, config(), True, "better by 5"),
    "equal": (STEADY, STEADY, config(min_improvement=0), False, "not more than the 0 asked"),
    "worse": (scored([12.0] * 3), STEADY, config(), False, "better by -2"),
    "too little": (scored([9.9, 10.1, 9.7]), STEADY, config(), False, "2.00% = 0.2"),
    "a little, paired": (scored([9.9, 10.1, 9.7]), STEADY, config(min_improvement=0.001), True, "better by 0.1"),
    "within noise": (scored([9.0, 9.6, 9.9]), STEADY, config(min_improvement=0), False, "3 standard errors"),
    "of other images not better": (
        translated(9.0, [7.0, 9.0, 11.0]), translated(9.8, [10.0, 9.8, 9.6]), config(), False,
        "halves of the test images",
    ),
    "of other images better, paired": (
        translated(9.0, [7.0, 9.0, 11.0]), translated(9.8, [7.8, 9.8, 11.8]), config(), True, "better by 0.8",
    ),
    "one seed": (scored([5.0]), scored([10.0]), config(), False, "score_seeds"),
    "champion is nan": (scored([5.0] * 3), scored([NAN] * 3), config(), True, "cannot be defended"),
    "is goes up": (scored([9.0] * 2, [6.0, 6.1]), scored([9.0] * 2, [5.0, 5.1]), config(metric="is"), True, "is 6.05"),
    "is goes down": (scored([1.0] * 2, [4.0, 4.1]), scored([9.0] * 2, [5.0, 5.1]), config(metric="is"), False, "by -1"),
    "at_most": (scored([5.0] * 2), None, config(require={"fid": {"at_most": 4}}), False, "at most 4"),
    "at_most held": (scored([5.0] * 2), None, config(require={"fid": {"at_most": 5}}), True, ""),
    "at_least": (scored([5.0] * 2), None, config(require={"is": {"at_least": 5.5}}), False, "is 5 does not hold"),
    "times the floor": (
        scored([5.0] * 2), None, config(require={"fid": {"at_most": 2, "times": "real"}}), False, "2 x real's 2",
    ),
    "times the floor, held": (
        scored([3.9] * 2), None, config(require={"fid": {"at_most": 2, "times": "real"}}), True, "",
    ),
    "control that was not scored": (
        scored([3.9] * 2), None, config(require={"fid": {"at_most": 2, "times": "resampled_train"}}), False, "nan",
    ),
    "better, but a requirement fails": (
        scored([5.0] * 3), STEADY, config(require={"is": {"at_least": 8}}), False, "require",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_table(case: str) -> None:
    candidate, champion, rules, promoted, reason = CASES[case]
    verdict = judge(candidate, champion, CONTROLS, rules)
    assert verdict.promoted is promoted, verdict
    assert reason in verdict.reason
    assert verdict.promoted == all(check.passed for check in verdict.checks)


def test_every_failed_check_is_in_the_reason() -> None:
    rules = config(require={"is": {"at_least": 8}})
    verdict = judge(scored([30.0] * 3), STEADY, CONTROLS, rules)
    failed = [check.name for check in verdict.checks if not check.passed]
    assert failed == ["beats_pca_gaussian", "require.is", "improvement"]
    assert all(check.detail in verdict.reason for check in verdict.checks if not check.passed)


def test_without_the_gaussian_control_nobody_passes() -> None:
    assert not judge(scored([1.0] * 2), None, CONTROLS[:1], config()).promoted


@pytest.mark.parametrize(
    ("fields", "field"),
    [({"metric": "kid"}, "register.metric"), ({"require": {"kid": {"at_most": 1}}}, "register.require.kid")],
)
def test_a_metric_that_was_not_scored_is_named_with_those_that_were(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError, match=rf"{field}: .*'kid'.*fid, is"):
        judge(STEADY, None, CONTROLS, config(**fields))


def diagnosed(raised: bool) -> Diagnostics:
    alarms = [
        Alarm(name="duplicates", raised=False, statistic=0, threshold=0.05, detail="0 of 9"),
        Alarm(name="missing_class", raised=raised, statistic=0, threshold=0.05, detail="class 7: 0.0% of the samples"),
    ]
    return Diagnostics(generated=9, held_out=9, alarms=alarms, kind="classes", classes=[])


def test_an_alarm_is_named_and_keeps_a_better_candidate_out() -> None:
    better = scored([5.0, 5.2, 4.8])
    quiet = judge(better, STEADY, CONTROLS, config(), diagnosed(False))
    assert quiet.promoted and [check.name for check in quiet.checks if "alarm" in check.name] == ["no_alarm"]
    verdict = judge(better, STEADY, CONTROLS, config(), diagnosed(True))
    assert not verdict.promoted
    assert verdict.reason == "refused: alarm missing_class: class 7: 0.0% of the samples"
    assert all(check.name != "no_alarm" for check in judge(better, STEADY, CONTROLS, config()).checks)
