"""The commands, each a function from its arguments to an Outcome. What is heavy is imported inside of them."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import GateRefused, InputError, WorkFailed
from .quiet import quiet_orchestrator

if TYPE_CHECKING:
    from pydantic import BaseModel

    from .config import RunConfig
    from .refs import Decision, EvalReport
    from .runs import RunRecord
    from .settings import Settings

log = logging.getLogger(__name__)

JOIN_SECONDS = 1800.0
JOIN_POLL_SECONDS = 2.0


@dataclass(frozen=True)
class Outcome:
    """What a command has to say."""

    result: BaseModel | dict[str, Any]
    """For `--json`."""
    text: str | Iterable[str]
    """For people; lines that come one by one."""
    exit_code: int = 0


def say(text: str) -> None:
    """Print a result."""
    sys.stdout.write(text.rstrip("\n") + "\n")
    sys.stdout.flush()


# --- stages ------------------------------------------------------------------------------------------------------


def run(args: argparse.Namespace, settings: Settings) -> Outcome:
    from .night import Night, night
    from .servers import orchestrator
    from .summary import summary

    if args.no_orchestrator:
        result = night(config_of(args), settings, started=datetime.now(UTC), where="ganpipe run --no-orchestrator")
    else:
        config_of(args)  # a wrong configuration is told before a server is started for it
        with orchestrator(settings):
            from flows.nightly import nightly

            os.environ.update(settings.to_environment())  # the flow takes its settings from there
            result = Night.model_validate(nightly(args.config, overrides=args.set, seed=args.seed))
    return Outcome(result, "\n" + summary(result, settings), _exit_code(result.decision))


def prepare(args: argparse.Namespace, settings: Settings) -> Outcome:
    from . import prepare

    ref = prepare.run(config_of(args), settings)
    rows = ", ".join(f"{count} {split}" for split, count in ref.rows.items())
    return Outcome(ref, f"data set {ref.digest}: {rows}")


def train(args: argparse.Namespace, settings: Settings) -> Outcome:
    from . import prepare, train
    from .night import new_record
    from .runs import with_seed

    if settings.node > 0:
        record, config = _joined(args.run or args.resume, settings)
    elif args.resume:
        record, config = _begun(args, settings, args.resume)
    else:
        if not args.config:
            raise InputError("name the configuration to train, or a run to continue with --resume RUN")
        config = config_of(args)
        started = _created(args.run, settings) or datetime.now(UTC)
        dataset = prepare.run(config, settings)
        config = with_seed(config, started)
        record = new_record(config, dataset, settings, started, run_id=args.run)
    args.run_id = record.run_id
    log.info("training run %s", record.run_id)
    ref = train.run(config, record, settings)
    return Outcome(ref, f"run {ref.run_id}: {ref.images_seen / 1000:g} kimg, {ref.prefix}")


def evaluate(args: argparse.Namespace, settings: Settings) -> Outcome:
    from . import evaluate
    from .evaluate.protocol import headline
    from .night import mirror_scores
    from .tables import aligned, compared, control_columns

    _, config = _begun(args, settings, args.run)
    report = evaluate.run(config, args.run, settings)
    mirror_scores(report, settings)
    columns = {"best": report.best.scores, **control_columns(report.controls)}
    best = f"best snapshot: {report.best.checkpoint.prefix}"
    page = f"{settings.store}/runs/{report.run_id}/reports/{report.protocol_hash}.html"
    table = aligned(compared(report.metric, columns, report.protocol, report.best.intervals))
    under = f"protocol: {headline(report.protocol, report.protocol_hash)}"
    return Outcome(report, "\n".join([best, "", *table, "", under, f"report: {page}"]))


def register(args: argparse.Namespace, settings: Settings) -> Outcome:
    from . import register

    _, config = _begun(args, settings, args.run)
    ref = register.run(config, _report(args.run, settings), settings)
    return Outcome(ref, f"{ref.product} version {ref.version}: {ref.checkpoint.prefix}")


def config_of(args: argparse.Namespace, base: RunConfig | None = None) -> RunConfig:
    from .config import load_config

    seed = getattr(args, "seed", None)
    overrides = [*args.set, *([] if seed is None else [f"train.seed={seed}"])]
    return load_config(base if args.config is None and base is not None else args.config, overrides)


def _begun(args: argparse.Namespace, settings: Settings, run_id: str) -> tuple[RunRecord, RunConfig]:
    """A run that exists, and its configuration: its own, or the one given, which must not differ in what trains."""
    from .runs import begin_run, open_run, with_seed
    from .storage import open_store

    store = open_store(settings.store)
    record, own = open_run(store, run_id)
    config = with_seed(config_of(args, own), record.created)
    begin_run(store, record, config)
    return record, config


def _joined(run_id: str | None, settings: Settings) -> tuple[RunRecord, RunConfig]:
    """A run that the first machine begins; waited for, as nobody starts them all at once."""
    from .runs import open_run, run_exists
    from .storage import open_store

    if not run_id:
        raise InputError("give every machine the same --run RUN: the others join the run that node 0 begins")
    store = open_store(settings.store)
    waited = 0.0
    while not run_exists(store, run_id):
        if waited == 0:
            log.info("waiting for node 0 to begin run %s in %s", run_id, store.uri)
        if waited >= JOIN_SECONDS:
            raise WorkFailed(f"node 0 did not begin run {run_id} in {store.uri} within {JOIN_SECONDS / 60:.0f} minutes")
        time.sleep(JOIN_POLL_SECONDS)
        waited += JOIN_POLL_SECONDS
    return open_run(store, run_id)


def _created(run_id: str | None, settings: Settings) -> datetime | None:
    """When the run began, if there is such a run: its `seed: auto` hangs on that."""
    from .runs import open_run, run_exists
    from .storage import open_store

    store = open_store(settings.store)
    return open_run(store, run_id)[0].created if run_id and run_exists(store, run_id) else None


def _report(run_id: str, settings: Settings) -> EvalReport:
    """Of the run's evaluations, the one that saw most of it."""
    from .runs import reports
    from .storage import open_store

    found = reports(open_store(settings.store), run_id)
    if not found:
        raise InputError(f"run {run_id} has no evaluation yet; `ganpipe evaluate --run {run_id}` makes one")
    return found[-1]


# --- models ------------------------------------------------------------------------------------------------------


def promote(args: argparse.Namespace, settings: Settings) -> Outcome:
    from . import register

    decision = register.promote(args.model, settings, version=args.version, adopt=args.adopt, where="ganpipe promote")
    checks = [f"  {'passed' if check.passed else 'failed'}  {check.name}: {check.detail}" for check in decision.checks]
    verdict = "promoted" if decision.promoted else "not promoted"
    name = f"{decision.product} version {decision.candidate.version}"
    return Outcome(decision, "\n".join([f"{name} {verdict}: {decision.reason}", *checks]), _exit_code(decision))


def rollback(args: argparse.Namespace, settings: Settings) -> Outcome:
    from . import register

    ref = register.rollback(args.model, settings, where="ganpipe rollback")
    return Outcome(ref, f"{ref.product}: version {ref.version} is champion again")


def lineage(args: argparse.Namespace, settings: Settings) -> Outcome:
    from . import register

    data = register.lineage(args.model, settings, version=args.version)
    return Outcome(data, register.lineage_markdown(data))


def generate(args: argparse.Namespace, settings: Settings) -> Outcome:
    from . import generated, register, sample

    weights = register.resolve(args.model, settings)
    path, generator = Path(args.out).expanduser(), sample.load_generator(weights)
    result = {"path": str(path.resolve()), "seed": args.seed, "truncation": args.truncation, "weights": str(weights)}
    result |= {name: asked for name in ("label", "text") if (asked := getattr(args, name))}
    asked = args.label, args.text, args.truncation, args.columns
    if args.columns is not None and not (path.suffix.lower() == ".png" or args.interpolate is not None):
        raise InputError(f"--columns is for one picture, and --out {path} is none; name a .png")
    if args.input is not None:
        _refuse_beside_input(args)
        folder = Path(args.input).expanduser()
        n = generated.translate(generator, args.seed, folder, args.direction, path, args.columns)
        direction = generator.direction(args.direction)
        return Outcome(result | {"n": n, "direction": direction}, f"{n} images translated {direction}: {path}")
    if args.direction is not None:
        raise InputError("--direction is for images that are translated; name a folder of them with --input")
    if args.interpolate is None:
        n = args.n or 64
        generated.write(generator, args.seed, n, path, *asked)
        return Outcome(result | {"n": n}, f"{n} samples: {path}")
    n, stops = args.n or 1, args.interpolate
    frames = generated.write_walks(generator, args.seed, n, stops, path, *asked)
    walks = "a walk" if n == 1 else f"{n} walks"
    text = f"{walks} through {stops} samples, {frames} frames: {path}"
    return Outcome(result | {"n": n, "interpolate": stops, "frames": frames}, text)


def _refuse_beside_input(args: argparse.Namespace) -> None:
    for flag, given in (
        ("--n", args.n is not None),
        ("--label", args.label),
        ("--text", args.text),
        ("--truncation", args.truncation != 1),
        ("--interpolate", args.interpolate is not None),
    ):
        if given:
            raise InputError(
                f"{flag} is for samples that are drawn, and --input {args.input} is translated; leave it out"
            )


def _exit_code(decision: Decision) -> int:
    return 0 if decision.promoted else GateRefused.exit_code


# --- schedules ---------------------------------------------------------------------------------------------------


def deploy(args: argparse.Namespace, settings: Settings) -> Outcome:
    quiet_orchestrator(settings)
    from flows.deploy import Nightly, deploy, nights_of, scheduled

    if bool(args.config) == bool(args.file):
        raise InputError("name a configuration, or --file with a list of deployments like infra/prefect.yaml")
    if args.file:
        nights = nights_of(Path(args.file))
    else:
        nights = [
            Nightly(
                config=config_of(args),
                schedule=scheduled(args.cron, args.timezone),
                pool=args.pool,
                num_processes=settings.num_processes,
                max_hours=args.max_hours,
                notify=args.notify,
            )
        ]
    deployed = [deploy(night) for night in nights]
    lines = [
        f"{each.name}: {each.schedule}, configuration {each.config_digest[:12]}\n  {each.url}" for each in deployed
    ]
    return Outcome({"deployments": [each.model_dump() for each in deployed]}, "\n".join(lines))


def worker(args: argparse.Namespace, settings: Settings) -> Outcome:
    quiet_orchestrator(settings)
    from flows.worker import work

    code = work(args.pool, settings)
    return Outcome({"exit_code": code}, "the worker has ended", exit_code=code)
