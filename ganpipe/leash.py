"""`python -m ganpipe.leash MODULE ...` runs `python -m MODULE ...` as long as standard input is open.

A server that starts processes of its own is gone with all of them when whoever started it is gone, even by SIGKILL:
they form one process group, which is ended here. Imports nothing, so that it is up at once.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

GRACE_SECONDS = 5.0


def _until_end_of_input() -> None:
    while os.read(0, 1024):
        pass
    _end_group()


def _end_group() -> None:
    os.killpg(0, signal.SIGTERM)
    time.sleep(GRACE_SECONDS)
    os.killpg(0, signal.SIGKILL)


def main() -> int:
    """Returns the module's exit code."""
    if os.getpgrp() != os.getpid():
        os.setsid()
    signal.signal(signal.SIGTERM, lambda *_: None)  # this process is the last of the group to go
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    process = subprocess.Popen([sys.executable, "-m", *sys.argv[1:]], stdin=subprocess.DEVNULL)
    threading.Thread(target=_until_end_of_input, daemon=True).start()
    return process.wait()


if __name__ == "__main__":
    sys.exit(main())
