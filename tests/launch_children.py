"""Processes that tests/test_launch.py starts: children by what they are asked to do, and a parent to kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from ganpipe.errors import InputError, Interrupted
from ganpipe.launch import StopSignal, child_main, run_child
from ganpipe.settings import Settings
from ganpipe.storage import CorruptObject


class Answer(BaseModel):
    pid: int
    number: float
    note: str = ""


def child(request: dict[str, Any], stop: StopSignal) -> BaseModel:
    what = request["what"]
    if "pids" in request:
        helper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        Path(request["pids"]).write_text(f"{os.getpid()} {helper.pid}")
    if what in ("meet", "refuse on one", "die on one"):
        from ganpipe.ranks import Ranks  # imports torch, which the others can do without

        ranks = Ranks()
        if what == "refuse on one" and ranks.index == 1:
            raise InputError("train.batch: is not a number")
        if what == "die on one" and ranks.index == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        total = ranks.gather(ranks.index)
        return Answer(pid=ranks.from_main(lambda: ranks.index), number=sum(total), note=str(len(total)))
    if what == "refuse":
        raise InputError("train.batch: is not a number")
    if what == "corrupt":
        raise CorruptObject("bytes differ")
    if what == "bug":
        raise KeyError("unexpected")
    if what == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "exit":
        os._exit(7)
    if what == "progress":
        from tqdm import trange

        sys.stdout.write("this is no result\n")
        sys.stdout.flush()
        return Answer(pid=os.getpid(), number=sum(1 for _ in trange(3, mininterval=0)))
    if what == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(60)
    if what == "wait":
        deadline = time.monotonic() + 60
        while not stop.requested and time.monotonic() < deadline:
            time.sleep(0.02)
        Path(request["pids"]).with_suffix(".stopped").write_text(stop.reason)
        raise Interrupted(f"stopped: {stop.reason}")
    sys.stdout.write("this is no result\n")
    return Answer(pid=os.getpid(), number=request["number"], note=os.environ["GANPIPE_HOME"])


def parent(what: str, pids: str, grace: str) -> None:
    """What the command line does: turn SIGTERM into an exception, and wait for a child."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    request = {"what": what, "pids": pids}
    run_child("launch_children", request, Settings.from_environment(), grace_seconds=float(grace))


if __name__ == "__main__":
    if sys.argv[1] == "parent":
        parent(*sys.argv[2:])
    else:
        child_main(child)
