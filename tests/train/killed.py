"""Trains a run and kills itself with SIGKILL at one moment: `python killed.py RUN MOMENT NUMBER`.

The moments are the n-th call of something during the run, so that a seed names one exactly.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ganpipe import sample, storage
from ganpipe.launch import StopSignal
from ganpipe.train import process, upload
from ganpipe.train.metrics import MetricsLog
from ganpipe.train.trainer import Trainer


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def at_call(
    number: int, original: Callable[..., Any], last_act: Callable[..., None] | None = None
) -> Callable[..., Any]:
    """`original`, except that call `number` (from 1) kills the process, after a `last_act` with its arguments."""
    calls = 0

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number:
            if last_act:
                last_act(*args)
            kill()
        return original(*args, **kwargs)

    return counted


def half_a_manifest(path: Path, data: bytes) -> None:
    with path.open("wb") as stream:
        stream.write(data[: len(data) // 2])


def half_a_line(log: MetricsLog, *_: Any) -> None:
    with log.path.open("a") as stream:
        stream.write('{"images_seen": 12')


def arm(moment: str, number: int) -> None:
    """Arrange for the end. Publishing a checkpoint makes one manifest, several fsyncs and one rename of a folder."""
    match moment:
        case "step":
            Trainer.step = at_call(number, Trainer.step)  # type: ignore[method-assign]
        case "snapshot":
            sample.refresh_batch_norm = at_call(number, sample.refresh_batch_norm)
        case "metrics":
            MetricsLog.write = at_call(number, MetricsLog.write, half_a_line)  # type: ignore[method-assign]
        case "spool":
            upload.fsync = at_call(number, upload.fsync)
        case "uploaded":
            upload.Uploader._forget = at_call(number, upload.Uploader._forget)  # type: ignore[method-assign]
        case "files":
            counted = at_call(
                number, storage.file.shutil.copyfile, lambda source, target: Path(target).write_bytes(b"half")
            )
            storage.file.shutil.copyfile = counted
        case "manifest":
            original = Path.write_bytes
            counted_write = at_call(number, original, half_a_manifest)

            def write_bytes(path: Path, data: bytes) -> int:
                if path.name == storage.MANIFEST:
                    return int(counted_write(path, data))
                return original(path, data)

            Path.write_bytes = write_bytes  # type: ignore[method-assign, assignment]
        case "rename":
            original_rename = Path.rename
            counted_rename = at_call(number, original_rename)

            def rename(path: Path, target: Path) -> Path:
                is_folder = path.is_dir()
                return Path(counted_rename(path, target)) if is_folder else original_rename(path, target)

            Path.rename = rename  # type: ignore[method-assign, assignment]


if __name__ == "__main__":
    run_id, moment, number = sys.argv[1:]
    arm(moment, int(number))
    process.train({"run_id": run_id}, StopSignal())
