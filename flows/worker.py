"""The worker of a pool: one machine, whose GPUs the nights of the pool share.

Prefect's own worker starts the nights, as children of its own. Asked to stop it would wait for their ends, for hours.
So it has somebody above it who ends them first: each writes a checkpoint, and says so to the server.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil

from ganpipe.launch import GRACE_SECONDS
from ganpipe.settings import Settings

from .deploy import ensure_pool, server
from .nightly import gpu_limit

HEARTBEAT_SECONDS = 30
LAST_WORDS_SECONDS = 15.0
"""For a night beyond the grace period of its training: torchrun's own, and the server's answer."""


def work(pool: str, settings: Settings) -> int:
    """Be the worker of a pool until SIGTERM or SIGINT, which end its nights; more of them change nothing.

    Returns the exit code: 0 after a signal, else that of Prefect's worker. Even after SIGKILL nobody is left behind:
    the leash ends Prefect's worker, and the nights notice that it is gone.
    """
    with server() as client:
        ensure_pool(client, pool)
        client.upsert_global_concurrency_limit_by_name(gpu_limit(pool), _gpus())
    ours = str(Path(__file__).parents[1])
    variables = {
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_SECONDS),
        "PREFECT_WORKER_WEBSERVER_HOST": "127.0.0.1",  # its health; everybody's, if it were left to Prefect
        **os.environ,
        **settings.to_environment(),
        "PYTHONPATH": os.pathsep.join([ours, *filter(None, [os.environ.get("PYTHONPATH")])]),
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "INFO",
    }
    command = ["prefect", "worker", "start", "--pool", pool, "--type", "process", "--install-policy", "never"]
    if "PREFECT_WORKER_WEBSERVER_PORT" in os.environ:
        command.append("--with-healthcheck")
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)
    process = subprocess.Popen(
        [sys.executable, "-m", "ganpipe.leash", *command], env=variables, stdin=subprocess.PIPE, start_new_session=True
    )
    assert process.stdin is not None
    try:
        return process.wait()
    except _Stopped as reason:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        sys.stderr.write(f"{reason}: the nights of pool {pool} are ended, each at a checkpoint\n")
        end_nights(process.pid, GRACE_SECONDS + LAST_WORDS_SECONDS)
        return 0
    finally:
        process.stdin.close()  # the leash lets go of Prefect's worker
        process.wait()


def _gpus() -> int:
    """Of this machine; without any, its cores take their place."""
    ask = "import torch; print(torch.cuda.device_count())"  # elsewhere: here it would stay in memory for months
    asked = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True)
    return int(asked.stdout) or os.cpu_count() or 1


def end_nights(worker: int, seconds: float) -> None:
    """SIGTERM to every night that the worker of this process id has started, and wait for them, so long at most."""
    nights = [child for child in psutil.Process(worker).children(recursive=True) if _is_night(child)]
    for night in nights:
        night.terminate()
    psutil.wait_procs(nights, timeout=seconds)


def _is_night(process: psutil.Process) -> bool:
    try:
        return "prefect.engine" in process.cmdline()
    except psutil.Error:
        return False


class _Stopped(BaseException):
    """Somebody wants this worker to end."""


def _stop(number: int, _frame: object) -> None:
    raise _Stopped(signal.Signals(number).name)
