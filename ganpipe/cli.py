"""The command line: arguments in, one result or one message out, and the exit code."""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import math
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import NoReturn

from . import __version__, commands, looking, measuring
from .commands import Outcome, say
from .errors import GanpipeError, InputError, of_the_disk
from .quiet import keep_to_ourselves, set_up_logging

LARGEST_TRUNCATION = 100


class Terminated(BaseException):
    """SIGTERM, as an exception: what runs is stopped the way that Ctrl-C stops it."""


class Parser(argparse.ArgumentParser):
    """Wrong usage is wrong input like any other: one message, or one JSON object."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see `{self.prog} --help`")


def build_parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    parser = Parser(prog="ganpipe", description="Trains GANs every night and keeps the best one in production.")
    parser.add_argument("--version", action="version", version=f"ganpipe {__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, function: Callable[..., Outcome], text: str) -> argparse.ArgumentParser:
        added: argparse.ArgumentParser = subparsers.add_parser(name, help=text, description=text)
        added.set_defaults(function=function)
        added.add_argument("--json", action="store_true", help="print one JSON object on stdout, all else on stderr")
        return added

    def of_config(added: argparse.ArgumentParser, needed: bool = True) -> None:
        added.add_argument("config", metavar="CONFIG", nargs=None if needed else "?", help="YAML file")
        added.add_argument("--set", metavar="SECTION.FIELD=VALUE", action="append", default=[], help="override a field")

    def on_processes(added: argparse.ArgumentParser) -> None:
        added.add_argument("--num-processes", metavar="N", type=_positive, help="on this machine: one for each GPU")

    added = command("run", commands.run, "the whole chain: prepare, train, evaluate, register, promote")
    of_config(added)
    added.add_argument("--seed", type=int, help="short for --set train.seed=SEED")
    added.add_argument("--no-orchestrator", action="store_true", help="without Prefect")
    on_processes(added)

    of_config(command("prepare", commands.prepare, "make the data set"))

    added = command("train", commands.train, "train a new run, or continue one from its newest checkpoint")
    of_config(added, needed=False)
    added.add_argument("--seed", type=int, help="short for --set train.seed=SEED")
    which = added.add_mutually_exclusive_group()
    which.add_argument("--run", metavar="RUN", type=_run_id, help="the run's id: created when new, continued otherwise")
    which.add_argument("--resume", metavar="RUN", help="continue this run, with its own configuration")
    on_processes(added)
    added.add_argument("--nodes", metavar="N", type=_positive, help="machines that train together")
    added.add_argument("--node", metavar="K", type=int, help="which of them this is; 0 begins the run, others join it")
    added.add_argument("--rendezvous", metavar="HOST:PORT", help="of node 0")

    for name, function, text in (
        ("evaluate", commands.evaluate, "score the snapshots of a run"),
        ("register", commands.register, "make a run's best snapshot a version of its product"),
    ):
        added = command(name, function, text)
        of_config(added, needed=False)
        added.add_argument("--run", metavar="RUN", required=True, help="the run's id; CONFIG is its own unless given")
        if name == "evaluate":
            on_processes(added)

    added = command("promote", commands.promote, "ask the gate whether a version becomes champion")
    added.add_argument("model", metavar="MODEL", help="the product")
    added.add_argument("--version", help="the candidate; otherwise the best comparable version")
    added.add_argument("--adopt", action="store_true", help="take what was given the alias champion by hand in MLflow")
    command("rollback", commands.rollback, "make the previous champion champion again").add_argument(
        "model", metavar="MODEL"
    )
    added = command("lineage", commands.lineage, "where a version comes from, and what was decided about it")
    added.add_argument("model", metavar="MODEL", help="the product")
    added.add_argument("--version", help="otherwise the champion")

    added = command("generate", commands.generate, "draw samples, or translate images")
    added.add_argument("model", metavar="MODEL", help="models:/NAME@champion, a run's id, or a .safetensors file")
    added.add_argument("--n", type=_positive, help="how many; otherwise 64, and one that moves")
    added.add_argument("--seed", type=int, default=0)
    meaning = "by name or number; several times: each has its share; never: drawn, each as likely as any other"
    added.add_argument("--label", metavar="CLASS", action="append", default=[], help=meaning)
    meaning = "like 'a bold seven leaning left'; several times: each has its share; never: some that it was trained on"
    added.add_argument("--text", metavar="TEXT", action="append", default=[], help=meaning)
    meaning = "scales latents, or StyleGAN2's styles, about their mean: below 1 more typical, less varied"
    added.add_argument("--truncation", metavar="PSI", type=_truncation, default=1.0, help=meaning)
    meaning = "a moving picture: a closed walk through the latents of N samples; its class or text stays"
    added.add_argument("--interpolate", metavar="N", type=_several, help=meaning)
    meaning = "images to translate, of a generator that translates: each in its own size"
    added.add_argument("--input", metavar="FOLDER", help=meaning)
    meaning = "which way; needed where a generator knows both"
    added.add_argument("--direction", choices=("AtoB", "BtoA"), help=meaning)
    meaning = "images, or pairs of an image and its translation, in a row of one picture"
    added.add_argument("--columns", type=_positive, help=meaning)
    meaning = "x.png: one picture; x.csv: points; otherwise a folder of files. What moves: .gif, .webp or .mp4"
    added.add_argument("--out", metavar="PATH", required=True, help=meaning)

    added = command("score", measuring.score, "score any images against any others, under a protocol")
    images = "a folder, an archive, s3://bucket/prefix, or a data set's digest"
    added.add_argument("real", metavar="REAL", help=images)
    added.add_argument("generated", metavar="GENERATED", help=f"{images}; or a model, as for `ganpipe generate`")
    added.add_argument("--extractor", metavar="NAME", help="of features; inception unless given")
    added.add_argument("--weights", metavar="FILE", help="the extractor's, when they are not in the store")
    added.add_argument("--protocol", metavar="NAME", help="a named one, like fid50k-train")
    added.add_argument(
        "--n", type=_positive, help="images of GENERATED; otherwise all, and a model draws as many as REAL"
    )
    added.add_argument("--seed", type=int, default=0, help="of what a model draws")
    added.add_argument("--allow-few", action="store_true", help="even with fewer images than features")

    added = command("weights", measuring.weights, "list the weights of extractors in the store, or add a file to them")
    added.add_argument("action", metavar="add", nargs="?", choices=("add",), help="keep FILE for all machines")
    added.add_argument("file", metavar="FILE", nargs="?", help="safetensors, or a state dictionary in torch's format")
    added.add_argument("--extractor", metavar="NAME", help="whose they are, for a file that is no official one")

    command("runs", looking.runs, "list the runs of the store")

    added = command("compare", looking.compare, "runs side by side: what they are, and how they score")
    added.add_argument("runs", metavar="RUN", nargs="+", help="two runs or more")

    added = command("trend", looking.trend, "score, speed and cost of a product over its nights")
    added.add_argument("model", metavar="MODEL", help="the product")
    added.add_argument("--out", metavar="PATH", required=True, help="x.html: picture and table; x.png: the picture")
    added.add_argument("--nights", metavar="N", type=_positive, default=60, help="how many, the newest")

    added = command("logs", looking.logs, "what happened in a run")
    added.add_argument("run", metavar="RUN")
    added.add_argument("--follow", action="store_true", help="until its training ends, or Ctrl-C")

    added = command("pull", looking.pull, "all of a model that is needed elsewhere, as files")
    added.add_argument("model", metavar="MODEL", help="models:/NAME@champion, or a run's id")
    added.add_argument("--out", metavar="DIR", required=True, help="a new folder")

    added = command("gc", looking.gc, "remove checkpoints beyond register.keep, and what killed writers left")
    added.add_argument("--dry-run", action="store_true", help="only list it")
    for kind in ("last", "best"):
        meaning = f"how many of the {kind} checkpoints stay, in runs whose register.keep is null"
        added.add_argument(f"--keep-{kind}", metavar="N", type=_positive, help=meaning)

    added = command("deploy", commands.deploy, "schedule a configuration as it is now, on Prefect's server")
    of_config(added, needed=False)
    added.add_argument(
        "--cron", metavar="'M H D M W'", help="when a night begins, like '0 22 * * *'; by hand otherwise"
    )
    added.add_argument("--timezone", default="UTC", help="of --cron and train.stop.at, like Europe/Berlin")
    added.add_argument("--pool", default="ganpipe", help="whose worker trains it")
    added.add_argument("--max-hours", metavar="H", type=float, default=20.0, help="after which a night is stopped")
    added.add_argument("--notify", metavar="TYPE/NAME", help="Prefect block for the morning's message")
    added.add_argument(
        "--file", metavar="FILE", help="instead of CONFIG: all deployments of a file like infra/prefect.yaml"
    )
    on_processes(added)

    added = command("worker", commands.worker, "carry out the nights of a pool on this machine")
    added.add_argument("--pool", default="ganpipe")

    meaning = "whether all is there that a night needs, and how to mend what is not; exits with 2 for a problem"
    of_config(command("doctor", looking.doctor, meaning), needed=False)
    added = command("ui", looking.ui, "serve MLflow's and Prefect's pages on this machine")
    added.add_argument("--port", type=int, default=5000, help="of MLflow's")
    added.add_argument("--prefect-port", metavar="PORT", type=int, default=4200)
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least 1 is wanted")
    return number


def _several(text: str) -> int:
    number = int(text)
    if number < 2:
        raise argparse.ArgumentTypeError("at least 2 are wanted")
    return number


def _truncation(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number <= LARGEST_TRUNCATION:
        raise argparse.ArgumentTypeError(f"a number from 0 to {LARGEST_TRUNCATION} is wanted")
    return number


def _run_id(text: str) -> str:
    if not text or not all(part.isalnum() for part in text.replace("_", "-").replace(".", "-").split("-")):
        raise argparse.ArgumentTypeError(f"{text!r} is no run id: use letters, digits and dashes")
    return text


def main(argv: Sequence[str] | None = None) -> int:
    """Carry out one command. Returns its exit code."""
    argv = sys.argv[1:] if argv is None else argv
    as_json = "--json" in argv
    args = argparse.Namespace()
    try:
        args = build_parser().parse_args(argv)
        set_up_logging()
        signal.signal(signal.SIGTERM, _terminate)
        from .settings import Settings

        settings = Settings.from_environment().on_processes(
            **{name: getattr(args, name, None) for name in ("num_processes", "nodes", "node", "rendezvous")}
        )
        keep_to_ourselves(settings)
        with contextlib.redirect_stdout(sys.stderr):
            outcome = args.function(args, settings)
        _tell(outcome, as_json)
    except GanpipeError as error:
        return _failed(str(error), error.exit_code, as_json)
    except KeyboardInterrupt:
        return _failed(f"interrupted; {_how_to_go_on(args)}", 130, as_json)
    except Terminated:
        return _failed(f"terminated; {_how_to_go_on(args)}", 143, as_json)
    except Exception as error:
        if told := of_the_disk(error):
            return _failed(str(told), told.exit_code, as_json)
        traceback.print_exc()
        return _failed(f"{type(error).__name__}: {error}", 1, as_json)
    return outcome.exit_code


def process() -> NoReturn:
    """`main` as a process of its own.

    Libraries leave some hundred thousand objects that live as long as it does: the collector would go through all of
    them again and again while others are imported, and once more at the exit.
    """
    gc.set_threshold(50_000, 50, 50)
    exit_code = main()
    gc.freeze()
    sys.exit(exit_code)


def _tell(outcome: Outcome, as_json: bool) -> None:
    if as_json:
        result = outcome.result
        say(json.dumps(result) if isinstance(result, dict) else result.model_dump_json())
    elif isinstance(outcome.text, str):
        say(outcome.text)
    else:
        for line in outcome.text:
            say(line)


def _terminate(_number: int, _frame: object) -> None:
    raise Terminated


def _how_to_go_on(args: argparse.Namespace) -> str:
    run_id = getattr(args, "run_id", None)
    if run_id or args.command in ("run", "train"):
        return f"`ganpipe train --resume {run_id or 'RUN'}` continues a run, `ganpipe runs` lists them"
    return "nothing half-done is kept; run the command again"


def _failed(message: str, exit_code: int, as_json: bool) -> int:
    sys.stderr.write(f"ganpipe: error: {message}\n")
    if as_json:
        say(json.dumps({"error": message, "exit_code": exit_code}))
    return exit_code
