"""Starts and stops the processes that train and evaluate, and leaves no orphan.

    result = run_child("ganpipe.train.process", request, settings)      # in a flow, or on the command line
    if __name__ == "__main__": child_main(train)                        # at the end of ganpipe/train/process.py

The child leads a process group of its own. Three things end it: its work is done; the parent is interrupted (SIGTERM to
the group, SIGKILL after a grace period); the parent is gone, which the child sees as the end of its standard input.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from pydantic import BaseModel

from .errors import GanpipeError, GateRefused, InputError, Interrupted, WorkFailed, of_the_disk
from .settings import Settings
from .storage import scratch_folder

GRACE_SECONDS = 20.0
"""For writing a last checkpoint after a signal."""
POLL_SECONDS = 0.05
SHORT_SPIN = {"GOMP_SPINCOUNT": "10000"}
"""torch's OpenMP threads sleep after a short wait for one another. As they come they spin, and a second busy process on
the same cores then makes training slower by far more than its share."""
PARENT_GONE = "the parent process is gone"
KINDS: dict[str, type[GanpipeError]] = {
    kind.__name__: kind for kind in (InputError, WorkFailed, GateRefused, Interrupted)
}
"""Errors that pass from child to parent as what they are."""


# --- the parent's side -------------------------------------------------------------------------------------------


def run_child(
    module: str,
    request: BaseModel | dict[str, Any],
    settings: Settings,
    *,
    num_processes: int = 1,
    grace_seconds: float = GRACE_SECONDS,
) -> dict[str, Any]:
    """Run `python -m module` on a request and return its result; progress bars and all other output go to stderr.

    Raises what the child raised (InputError, WorkFailed, Interrupted), and WorkFailed when it died without a word.
    Whatever interrupts the waiting (KeyboardInterrupt, a signal handler that raises, a cancelled task) ends the child
    first, and is raised then.
    """
    if num_processes != 1:
        raise InputError(f"{num_processes} processes were asked for; training runs on one process in this version")
    with scratch_folder(settings.local_folder("work"), "child-") as folder:
        request_path, result_path = folder / "request.json", folder / "result.json"
        text = request.model_dump_json() if isinstance(request, BaseModel) else json.dumps(request)
        request_path.write_text(text, encoding="utf-8")
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", module, str(request_path), str(result_path), str(grace_seconds)],
            env={**SHORT_SPIN, **os.environ, **settings.to_environment(), "PYTHONPATH": _import_path()},
            stdin=subprocess.PIPE,  # never written to: its end tells the child that we are gone
            stdout=2,  # our own stdout belongs to results
            start_new_session=True,
        )
        try:
            while not _ended(process):
                time.sleep(POLL_SECONDS)
        except BaseException:
            _signal_group(process, signal.SIGTERM)
            _wait(process, grace_seconds)
            raise
        finally:
            _signal_group(process, signal.SIGKILL)  # the child, if it is stubborn, and whatever it started
            process.wait()
            if process.stdin:
                process.stdin.close()
        return _result(module, result_path, process.returncode)


def _import_path() -> str:
    """PYTHONPATH of a child: what this process imports ganpipe from, and never (-P) the working directory as such."""
    ours = str(Path(__file__).parents[1])
    return os.pathsep.join([ours, *filter(None, [os.environ.get("PYTHONPATH")])])


def _ended(process: subprocess.Popen[bytes]) -> bool:
    """Whether the child has ended. It stays a zombie, so that its process group's number is not given away."""
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _wait(process: subprocess.Popen[bytes], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not _ended(process) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):  # the latter: macOS, for a group of zombies
        os.killpg(process.pid, number)


def _result(module: str, path: Path, returncode: int) -> dict[str, Any]:
    try:
        outcome = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise WorkFailed(f"{module} {_how_it_died(returncode)}, without a result; see its output above") from None
    if "error" in outcome:
        raise KINDS[outcome["error"]["kind"]](outcome["error"]["message"])
    result: dict[str, Any] = outcome["ok"]
    return result


def _how_it_died(returncode: int) -> str:
    if returncode >= 0:
        return f"ended with exit code {returncode}"
    name = signal.Signals(-returncode).name
    return f"was killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")


# --- the child's side --------------------------------------------------------------------------------------------


@dataclass
class StopSignal:
    """Whether the work was asked to end. Long work looks at it between two steps."""

    requested: bool = False
    reason: str = ""

    def request(self, reason: str) -> None:
        self.requested, self.reason = True, reason


def child_main(work: Callable[[dict[str, Any], StopSignal], BaseModel]) -> NoReturn:
    """Do `work` on the request named on the command line, write its result or its error, and exit.

    SIGTERM, SIGINT and the end of standard input set the StopSignal. When the parent is gone, the process group is
    killed after the grace period, whatever it is doing.
    """
    request_path, result_path = map(Path, sys.argv[1:3])
    grace_seconds = float(sys.argv[3]) if len(sys.argv) > 3 else GRACE_SECONDS
    stop = StopSignal()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _frame: stop.request(signal.Signals(number).name))
    threading.Thread(target=_watch_parent, args=(stop, grace_seconds), daemon=True).start()
    exit_code = 0
    try:
        outcome = f'{{"ok": {work(json.loads(request_path.read_text(encoding="utf-8")), stop).model_dump_json()}}}'
    except Exception as raised:
        error = of_the_disk(raised) or raised
        if not isinstance(error, GanpipeError):
            traceback.print_exc()
        kind = next((kind for kind in type(error).__mro__ if kind.__name__ in KINDS), None)
        message = str(error) if kind else f"{type(error).__name__}: {error}"
        kind = kind or WorkFailed
        exit_code = getattr(kind, "exit_code", 1)
        outcome = json.dumps({"error": {"kind": kind.__name__, "message": message}})
    temporary = result_path.with_suffix(".tmp")
    temporary.write_text(outcome, encoding="utf-8")
    temporary.replace(result_path)
    if stop.reason == PARENT_GONE:
        _end_group()  # nobody else is left to do it
    sys.exit(exit_code)


def _watch_parent(stop: StopSignal, grace_seconds: float) -> None:
    try:
        while os.read(0, 1024):  # not sys.stdin: a thread blocked in its lock breaks the interpreter's shutdown
            pass
    except OSError:
        return  # started by hand, without standard input
    stop.request(PARENT_GONE)
    time.sleep(grace_seconds)
    _end_group()


def _end_group() -> NoReturn:
    """End this process and whatever it started."""
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)
