"""What studies of whole trainings share: a home, and the stages that `ganpipe run` calls."""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from ganpipe import evaluate, prepare, train
from ganpipe.config import RunConfig
from ganpipe.night import new_record
from ganpipe.refs import ControlScores, EvalReport, SnapshotScores
from ganpipe.settings import Settings


def add_options(parser: argparse.ArgumentParser) -> None:
    """Of every study: which seeds, what is changed of the configuration, and what `at_home` takes."""
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    parser.add_argument("--home", help="where runs stay, to look at; otherwise nothing stays")


def seeds(options: argparse.Namespace) -> range:
    """Those asked for."""
    return range(options.first_seed, options.first_seed + options.seeds)


@contextmanager
def at_home(home: str | None) -> Iterator[Settings]:
    """Settings without MLflow, and with a home: the one asked for, or one that goes away afterwards."""
    with tempfile.TemporaryDirectory() as temporary:
        yield Settings.from_environment({"GANPIPE_HOME": home or temporary, "GANPIPE_TRACKING_URI": "off"})


@dataclass(frozen=True)
class Trained:
    """A run that was prepared, trained and evaluated."""

    report: EvalReport
    seconds: float
    """CPU time of its training; the clock would also measure what else is running."""

    @property
    def best(self) -> SnapshotScores:
        return self.report.best

    @property
    def kimg(self) -> float:
        """Of the best snapshot."""
        return self.best.checkpoint.images_seen / 1000

    @property
    def controls(self) -> dict[str, ControlScores]:
        return {control.name: control for control in self.report.controls}

    @property
    def curve(self) -> list[tuple[float, float]]:
        """kimg and Frechet distance of each snapshot, as the best is chosen."""
        return [(each.checkpoint.images_seen / 1000, each.scores["fid_domain"]) for each in self.report.snapshots]

    @property
    def alarms(self) -> str:
        """Names of those that were raised."""
        assert self.report.diagnostics is not None, "points have none"
        return ", ".join(alarm.name for alarm in self.report.diagnostics.raised) or "none"


def run(config: RunConfig, settings: Settings) -> Trained:
    """Once through the stages."""
    record = new_record(config, prepare.run(config, settings), settings, datetime.now(UTC))
    before = _cpu_seconds()
    train.run(config, record, settings)
    seconds = _cpu_seconds() - before
    return Trained(evaluate.run(config, record.run_id, settings), seconds)


def _cpu_seconds() -> float:
    """Of the processes that this one has waited for."""
    times = os.times()
    return times.children_user + times.children_system
