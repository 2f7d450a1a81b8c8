"""The promotion gate: from numbers to a verdict. Pure: who is scored on what seeds is `promotion.py`'s part."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass

from ..errors import InputError
from ..evaluate.metrics import default_metric, lower_is_better
from ..refs import Check, ControlScores, Diagnostics, SnapshotScores
from ..registerconfig import RegisterConfig, Requirement

STANDARD_ERRORS = 3
"""By so many standard errors a candidate must be ahead: gates run every night, and 5 % of them wrong is too many."""


@dataclass(frozen=True)
class Verdict:
    """What the gate says, and why."""

    promoted: bool
    reason: str
    metric: str
    """What candidate and champion were compared by."""
    checks: list[Check]


def judge(
    candidate: SnapshotScores,
    champion: SnapshotScores | None,
    controls: list[ControlScores],
    config: RegisterConfig,
    diagnostics: Diagnostics | None = None,
) -> Verdict:
    """Compare scores that were made under one protocol, candidate and champion on the same seeds in the same order.

    `diagnostics` are of the candidate's samples; points have none. Without a champion the candidate must still hold
    every absolute bound. Raises InputError when `register.metric` or `register.require` names a metric that was not
    scored.
    """
    default = default_metric(candidate.scores)
    metric = config.metric or default
    for field, name in [("register.metric", metric), *((f"register.require.{name}", name) for name in config.require)]:
        if name not in candidate.scores:
            raise InputError(f"{field}: no metric {name!r} was scored; there is {', '.join(sorted(candidate.scores))}")
    named = {control.name: control for control in controls}
    checks = [
        _finite(candidate),
        _better_than_trivial(candidate, default, named),
        *(_requirement(candidate, name, bound, named) for name, bound in config.require.items()),
    ]
    if diagnostics is not None:
        checks.append(_no_alarm(diagnostics))
    if champion is not None:
        checks.append(_improvement(candidate, champion, metric, config.min_improvement))
    failed = [check for check in checks if not check.passed]
    if failed:
        return Verdict(False, "refused: " + "; ".join(check.detail for check in failed), metric, checks)
    why = checks[-1].detail if champion is not None else f"first champion: {checks[1].detail}"
    return Verdict(True, why, metric, checks)


def _finite(candidate: SnapshotScores) -> Check:
    wrong = [f"{name} is {value}" for name, value in candidate.scores.items() if not math.isfinite(value)]
    wrong += [
        f"{name} is {value} on seed {seed}"
        for name, values in candidate.by_seed.items()
        for seed, value in zip(candidate.seeds, values, strict=True)
        if not math.isfinite(value) and math.isfinite(candidate.scores.get(name, math.nan))
    ]
    detail = f"the candidate's {', '.join(wrong)}" if wrong else f"all {len(candidate.scores)} scores are finite"
    return Check(name="finite", passed=not wrong, detail=detail)


TRIVIAL = {"pca_gaussian": "PCA-Gaussian", "identity": "identity", "constant_mean": "constant mean"}
"""Controls of which the best must be beaten: a generator that loses to a Gaussian over principal components, or a
translation to the source itself or to the mean target, has learnt next to nothing."""


def _better_than_trivial(candidate: SnapshotScores, metric: str, controls: dict[str, ControlScores]) -> Check:
    value, lower = candidate.scores[metric], lower_is_better(metric)
    bounds = {name: controls[name].scores[metric] for name in TRIVIAL if name in controls}
    name = (min if lower else max)(bounds, key=bounds.__getitem__, default="pca_gaussian")
    bound = bounds.get(name, math.nan)
    passed, side = (value < bound, "below") if lower else (value > bound, "above")
    detail = f"{metric} {value:.4g} is {side if passed else f'not {side}'} the {TRIVIAL[name]} control's {bound:.4g}"
    return Check(name=f"beats_{name}", passed=passed, detail=detail)


def _no_alarm(diagnostics: Diagnostics) -> Check:
    """A good score is no excuse for samples that are copies, of some of the classes only, or unlike anything real."""
    raised = [f"alarm {alarm.name}: {alarm.detail}" for alarm in diagnostics.raised]
    asked = ", ".join(alarm.name for alarm in diagnostics.alarms)
    return Check(name="no_alarm", passed=not raised, detail="; ".join(raised) or f"no alarm ({asked})")


def _requirement(
    candidate: SnapshotScores, metric: str, wanted: Requirement, controls: dict[str, ControlScores]
) -> Check:
    value = candidate.scores[metric]
    unit, times = 1.0, ""
    if wanted.times is not None:
        control = controls.get(wanted.times)
        unit = control.scores.get(metric, math.nan) if control else math.nan
        times = f" x {wanted.times}'s {unit:.4g}"
    passed, sentences = True, []
    if wanted.at_most is not None:
        passed &= value <= wanted.at_most * unit
        sentences.append(f"at most {wanted.at_most:.4g}{times}")
    if wanted.at_least is not None:
        passed &= value >= wanted.at_least * unit
        sentences.append(f"at least {wanted.at_least:.4g}{times}")
    verb = "holds" if passed else "does not hold"
    detail = f"{metric} {value:.4g} {verb} register.require ({' and '.join(sentences)})"
    return Check(name=f"require.{metric}", passed=passed, detail=detail)


def _improvement(candidate: SnapshotScores, champion: SnapshotScores, metric: str, min_improvement: float) -> Check:
    """Mean gain over the common seeds against the larger of what is wanted and what noise alone could give.

    Translations are of the same images on every seed: what other images would give, only halves of these tell.
    """
    assert candidate.seeds == champion.seeds, "candidate and champion are scored on the same seeds"
    old, new = champion.scores[metric], candidate.scores[metric]
    both = f"{metric} {new:.4g} against the champion's {old:.4g}"
    if not math.isfinite(old):
        detail = f"{both}: a champion without a finite score cannot be defended"
        return Check(name="improvement", passed=math.isfinite(new), detail=detail)
    sign = 1 if lower_is_better(metric) else -1
    gains = [sign * (b - a) for a, b in zip(candidate.by_seed[metric], champion.by_seed[metric], strict=True)]
    if not all(map(math.isfinite, gains)):
        return Check(name="improvement", passed=False, detail=f"{both}: not finite on every seed")
    if len(gains) < 2:
        detail = f"{both}: one seed says nothing about noise; set evaluate.score_seeds to 2 or more"
        return Check(name="improvement", passed=False, detail=detail)
    gain = statistics.fmean(gains)
    error, source = statistics.stdev(gains) / len(gains) ** 0.5, f"{len(gains)} seeds"
    if metric in candidate.by_half and metric in champion.by_half:
        of_halves = statistics.stdev(
            b - a for a, b in zip(candidate.by_half[metric], champion.by_half[metric], strict=True)
        )
        error, source = max((error, source), (of_halves, "halves of the test images"))
    noise = STANDARD_ERRORS * error
    wanted = max(min_improvement * abs(old), noise)
    passed = gain > wanted
    detail = (
        f"{both}: better by {gain:.4g}, {'more' if passed else 'not more'} than the {wanted:.4g} asked for "
        f"(the larger of {min_improvement:.2%} = {min_improvement * abs(old):.4g} and "
        f"{STANDARD_ERRORS} standard errors = {noise:.4g} over {source})"
    )
    return Check(name="improvement", passed=passed, detail=detail)
