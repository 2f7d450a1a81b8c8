"""Many images are decoded by processes: the same rows, no process left behind."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
from PIL import Image

from ganpipe import prepare
from ganpipe.config import RunConfig
from ganpipe.errors import InputError
from ganpipe.prepare.decode import FEW
from ganpipe.prepare.images import read_image
from ganpipe.prepare.manifest import SPLITS, Dataset
from ganpipe.settings import Settings
from ganpipe.storage import open_store

Configure = Callable[..., RunConfig]
Result = TypeVar("Result")


def zip_of_noise(path: Path, count: int, side: int = 8) -> list[bytes]:
    """An archive of PNGs; returns their bytes."""
    rng = np.random.default_rng(0)
    files = []
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(count):
            stream = io.BytesIO()
            Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(stream, "PNG", compress_level=1)
            archive.writestr(f"{number:05d}.png", stream.getvalue())
            files.append(stream.getvalue())
    return files


def test_processes_give_the_pixels_that_one_would(configure: Configure, settings: Settings, tmp_path: Path) -> None:
    files = zip_of_noise(tmp_path / "many.zip", FEW + 50)
    config = configure({"name": "archive", "path": str(tmp_path / "many.zip")})
    dataset = Dataset.open(open_store(settings.store), prepare.run(config, settings).digest)
    rows = np.concatenate([dataset.column("image", split) for split in SPLITS])
    assert {row.tobytes() for row in rows} == {read_image(data, 8).tobytes() for data in files}


def test_what_processes_cannot_read_is_named(configure: Configure, settings: Settings, tmp_path: Path) -> None:
    zip_of_noise(tmp_path / "many.zip", FEW + 50)
    with zipfile.ZipFile(tmp_path / "many.zip", "a") as archive:
        archive.writestr("bad.png", b"?")
    config = configure({"name": "archive", "path": str(tmp_path / "many.zip")})
    with pytest.raises(InputError, match=r"many\.zip/bad\.png: no image"):
        prepare.run(config, settings)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_no_worker_outlives_the_command(configure: Configure, tmp_path: Path, number: signal.Signals) -> None:
    zip_of_noise(tmp_path / "many.zip", FEW + 50, side=64)
    config = configure({"name": "archive", "path": str(tmp_path / "many.zip")}, resolution=1024)
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps(config.model_dump(mode="json", by_alias=True)))
    command = subprocess.Popen(
        [sys.executable, "-m", "ganpipe", "prepare", str(path)],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )
    workers = wait_for(lambda: children_of(command.pid) or command.poll() is not None)
    assert isinstance(workers, list)
    command.send_signal(number)
    _, errors = command.communicate(timeout=60)
    wait_for(lambda: not any(map(alive, workers)))
    if number == signal.SIGINT:
        assert command.returncode == 130
        assert "Traceback" not in errors


def children_of(parent: int) -> list[int]:
    """Processes that decode: those that multiprocessing spawned to work."""
    children = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes()
            state = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(state[1]) == parent and b"spawn_main" in command:
            children.append(int(folder.name))
    return children


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for(condition: Callable[[], Result]) -> Result:
    deadline = time.monotonic() + 60
    while not (result := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return result
