"""Starts and stops the processes that train and evaluate, and leaves no orphan.

    result = run_child("ganpipe.train.process", request, settings)      # in a flow, or on the command line
    if __name__ == "__main__": child_main(train)                        # at the end of ganpipe/train/process.py

The child leads a process group of its own. Three things end it: its work is done; the parent is interrupted (SIGTERM to
the group, SIGKILL after a grace period); the parent is gone, which the child sees as the end of its standard input.

Several processes are torchrun's children, which puts each into a session of its own: out of reach when torchrun itself
is killed. So each leaves its number in the folder of the request, for the launcher to end what is left.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TextIO, cast

from pydantic import BaseModel

from .errors import GanpipeError, GateRefused, InputError, Interrupted, PeerLost, WorkFailed, of_the_disk
from .settings import Settings
from .storage import scratch_folder

GRACE_SECONDS = 20.0
"""For writing a last checkpoint after a signal."""
POLL_SECONDS = 0.05
SHORT_SPIN = {"GOMP_SPINCOUNT": "10000"}
"""torch's OpenMP threads sleep after a short wait for one another. As they come they spin, and a second busy process on
the same cores then makes training slower by far more than its share."""
TORCHRUN_SECONDS = 5.0
"""For torchrun, beyond the grace period of its processes."""
PARENT_GONE = "the parent process is gone"
KINDS: dict[str, type[GanpipeError]] = {
    kind.__name__: kind for kind in (InputError, WorkFailed, GateRefused, Interrupted, PeerLost)
}
"""Errors that pass from child to parent as what they are."""


# --- the parent's side -------------------------------------------------------------------------------------------


def run_child(
    module: str,
    request: BaseModel | dict[str, Any],
    settings: Settings,
    *,
    across_nodes: bool = False,
    grace_seconds: float = GRACE_SECONDS,
) -> dict[str, Any]:
    """Run `python -m module` on a request and return its result; progress bars and all other output go to stderr.

    As many processes as the settings say do it together, `across_nodes` with those that the other machines' launchers
    start; all return the same. Raises what a child raised (InputError, WorkFailed, Interrupted), and WorkFailed when
    one died without a word. Whatever interrupts the waiting (KeyboardInterrupt, a signal handler that raises, a
    cancelled task) ends the children first, and is raised then.
    """
    count, nodes = settings.num_processes, settings.nodes if across_nodes else 1
    several = count * nodes > 1
    with scratch_folder(settings.local_folder("work"), "child-") as folder:
        request_path = folder / "request.json"
        text = request.model_dump_json() if isinstance(request, BaseModel) else json.dumps(request)
        request_path.write_text(text, encoding="utf-8")
        starter = _torchrun(settings, nodes, grace_seconds) if several else ["-m"]
        process = subprocess.Popen(
            [sys.executable, *starter, module, str(request_path), str(grace_seconds)],
            env={**SHORT_SPIN, **_threads(count), **os.environ, **settings.to_environment(), **_imports()},
            stdin=subprocess.PIPE,  # never written to: its end tells the children that we are gone
            stdout=2,  # our own stdout belongs to results
            start_new_session=True,
        )
        try:
            while not _ended(process):
                time.sleep(POLL_SECONDS)
        except BaseException:
            _signal_group(process.pid, signal.SIGTERM)
            _wait(process, grace_seconds + (TORCHRUN_SECONDS if several else 0))
            raise
        finally:
            _signal_group(process.pid, signal.SIGKILL)  # the child, if it is stubborn, and whatever it started
            for path in folder.glob("*.pid"):
                with contextlib.suppress(FileNotFoundError):  # it has just ended by itself
                    _signal_group(int(path.read_text()), signal.SIGKILL)
            process.wait()
            if process.stdin:
                process.stdin.close()
        return _result(module, folder, count, process.returncode)


def _torchrun(settings: Settings, nodes: int, grace_seconds: float) -> list[str]:
    """Arguments of the interpreter that start this machine's processes."""
    if nodes == 1:
        where = ["--standalone", "--local-addr=127.0.0.1"]
    else:
        host, _, port = (settings.rendezvous or "").rpartition(":")
        where = [f"--nnodes={nodes}", f"--node-rank={settings.node}", f"--master-addr={host}", f"--master-port={port}"]
    patience = f"--shutdown-timeout={max(1, round(grace_seconds))}"
    return ["-m", "ganpipe.torchrun", *where, f"--nproc-per-node={settings.num_processes}", patience, "-m"]


def _threads(processes: int) -> dict[str, str]:
    """The cores of this machine, shared out; a single process takes what torch gives it."""
    return {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // processes))} if processes > 1 else {}


def _imports() -> dict[str, str]:
    """A child imports ganpipe from where this process does, and nothing from the working directory as such."""
    ours = str(Path(__file__).parents[1])
    path = os.pathsep.join([ours, *filter(None, [os.environ.get("PYTHONPATH")])])
    return {"PYTHONPATH": path, "PYTHONSAFEPATH": "1"}


def _ended(process: subprocess.Popen[bytes]) -> bool:
    """Whether the child has ended. It stays a zombie, so that its process group's number is not given away."""
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _wait(process: subprocess.Popen[bytes], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not _ended(process) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)


def _signal_group(leader: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):  # the latter: macOS, for a group of zombies
        os.killpg(leader, number)


def _result(module: str, folder: Path, count: int, returncode: int) -> dict[str, Any]:
    """What the processes left behind. The first error is the reason, unless it is that another process is gone."""
    paths = sorted(folder.glob("result-*.json"), key=lambda path: path.stat().st_mtime_ns)
    outcomes = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    errors = [outcome["error"] for outcome in outcomes if "error" in outcome]
    for error in errors:
        if error["kind"] != PeerLost.__name__:
            raise KINDS[error["kind"]](error["message"])
    if len(outcomes) < count:
        if count == 1:
            raise WorkFailed(f"{module} {_how_it_died(returncode)}, without a result; see its output above")
        silent = sorted(set(range(count)) - {int(path.stem.removeprefix("result-")) for path in paths})
        raise WorkFailed(
            f"{module}: of {count} processes, number {', '.join(map(str, silent))} ended without a result "
            "(killed? out of memory?); see their output above"
        )
    if errors:
        raise WorkFailed(errors[0]["message"])
    result: dict[str, Any] = outcomes[0]["ok"]
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
    request_path, grace_seconds = Path(sys.argv[1]), float(sys.argv[2])
    sys.stdout, sys.stderr = cast(TextIO, _WhileRead(sys.stdout)), cast(TextIO, _WhileRead(sys.stderr))
    rank = os.environ.get("LOCAL_RANK", "0")
    pid_path = request_path.with_name(f"{rank}.pid")
    _write_whole(pid_path, str(os.getpid()))
    if int(os.environ.get("RANK", "0")) > 0:
        logging.getLogger("ganpipe").setLevel(logging.ERROR)  # the first process says it for all
    stop = StopSignal()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _frame: stop.request(signal.Signals(number).name))
    threading.Thread(target=_watch_parent, args=(stop, grace_seconds), daemon=True).start()
    exit_code = 0
    try:
        outcome = f'{{"ok": {work(json.loads(request_path.read_text(encoding="utf-8")), stop).model_dump_json()}}}'
    except Exception as raised:
        error = of_the_disk(raised) or of_the_peers(raised) or raised
        if not isinstance(error, GanpipeError):
            traceback.print_exc()
        kind = next((kind for kind in type(error).__mro__ if kind.__name__ in KINDS), None)
        message = str(error) if kind else f"{type(error).__name__}: {error}"
        kind = kind or WorkFailed
        exit_code = getattr(kind, "exit_code", 1)
        outcome = json.dumps({"error": {"kind": kind.__name__, "message": message}})
    _write_whole(request_path.with_name(f"result-{rank}.json"), outcome)
    pid_path.unlink()
    if stop.reason == PARENT_GONE:
        _end_group()  # nobody else is left to do it
    sys.exit(exit_code)


class _WhileRead:
    """A standard stream for as long as it is read, then nothing.

    Who reads the parent's may be gone in mid-training, and a progress bar that cannot be written must not cost the
    checkpoint.
    """

    def __init__(self, stream: Any):
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with self._unless_broken():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._unless_broken():
            self._stream.flush()

    @contextlib.contextmanager
    def _unless_broken(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)


def _write_whole(path: Path, text: str) -> None:
    """The parent reads it whole or not at all."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def of_the_peers(error: BaseException) -> PeerLost | None:
    """What torch says when a process that it waits for is no more."""
    if isinstance(error, RuntimeError) and re.search(r"gloo|nccl|Connection (closed|reset)", str(error), re.IGNORECASE):
        return PeerLost(f"another process of the same work ended: {error}")
    return None


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
