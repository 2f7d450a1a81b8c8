"""What was prepared before is recognised at once, and only then."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ganpipe import prepare
from ganpipe.config import RunConfig
from ganpipe.errors import InputError
from ganpipe.prepare.manifest import Dataset
from ganpipe.settings import Settings
from ganpipe.storage import open_store

Configure = Callable[..., RunConfig]


def modification_times(settings: Settings) -> dict[str, int]:
    store = open_store(settings.store)
    return {item.key: (store.root / item.key).stat().st_mtime_ns for item in store.list()}  # type: ignore[attr-defined]


def test_prepared_already_takes_no_second_and_loads_no_library(
    configure: Configure, settings: Settings, images: Path
) -> None:
    ref = prepare.run(configure(images), settings)
    before = modification_times(settings)
    program = """
import sys, time
from ganpipe import prepare
from ganpipe.config import RunConfig
from ganpipe.trainconfig import TrainConfig
from ganpipe.evaluateconfig import EvaluateConfig
from ganpipe.prepareconfig import PrepareConfig
from ganpipe.settings import Settings
config = RunConfig.model_construct(
    prepare=PrepareConfig.model_validate_json(sys.argv[1]),
    train=TrainConfig(batch=4, stop={"kimg": 1}),
    evaluate=EvaluateConfig(extractor="inception", allow_few=True),
)
start = time.perf_counter()
print(prepare.run(config, Settings.model_validate_json(sys.argv[2])).digest)
assert time.perf_counter() - start < 1
assert not {"torch", "datasets", "PIL", "sklearn"} & set(sys.modules)
"""
    arguments = [configure(images).prepare.model_dump_json(), settings.model_dump_json()]
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ref.digest
    assert modification_times(settings) == before


def test_two_thousand_files_are_recognised_in_a_moment(
    configure: Configure, settings: Settings, tmp_path: Path
) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    image = tmp_path / "one.png"
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(image)
    for number in range(2000):
        shutil.copyfile(image, folder / f"{number}.png")
    for number in range(40):  # one image alone would fall into one split
        Image.fromarray(np.full((8, 8), number, np.uint8)).save(folder / f"grey-{number}.png")
    ref = prepare.run(configure(folder), settings)
    start = time.perf_counter()
    assert prepare.run(configure(folder), settings) == ref
    assert time.perf_counter() - start < 0.5


def test_changed_bytes_at_equal_size_and_date_are_noticed(
    configure: Configure, settings: Settings, images: Path
) -> None:
    before = prepare.run(configure(images), settings)
    path = next(images.rglob("*.png"))
    stat = path.stat()
    rng = np.random.default_rng(9)
    while True:  # another image that compresses to just the same size
        path.unlink()
        Image.fromarray(rng.integers(0, 256, (12, 10, 3), dtype=np.uint8)).save(path)
        if path.stat().st_size == stat.st_size:
            break
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert path.stat().st_mtime_ns == stat.st_mtime_ns
    assert prepare.run(configure(images), settings).digest != before.digest


def test_a_file_overwritten_in_place_right_afterwards_is_noticed(
    configure: Configure, settings: Settings, images: Path
) -> None:
    path = next(images.rglob("*.png"))
    with Image.open(path) as image:
        pixels = np.asarray(image)
    path = path.with_suffix(".bmp")
    Image.fromarray(pixels).save(path)
    before = prepare.run(configure(images), settings)
    stat = path.stat()
    with path.open("r+b") as stream:
        stream.seek(-40, os.SEEK_END)
        stream.write(bytes(40))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert prepare.run(configure(images), settings).digest != before.digest


def test_without_the_data_in_the_store_it_is_prepared_again(
    configure: Configure, settings: Settings, images: Path
) -> None:
    ref = prepare.run(configure(images), settings)
    open_store(settings.store).remove(f"datasets/{ref.digest}")
    assert prepare.run(configure(images), settings) == ref
    assert Dataset.open(open_store(settings.store), ref.digest).digest == ref.digest


def test_a_damaged_index_is_ignored(configure: Configure, settings: Settings, images: Path) -> None:
    ref = prepare.run(configure(images), settings)
    (entry,) = (settings.home / "index").glob("*.json")
    for damaged in (b"", b"{", b'{"format": 2}', b"\xff\xfe"):
        entry.write_bytes(damaged)
        assert prepare.run(configure(images), settings) == ref
    assert b"stats_sha256" in entry.read_bytes()


def test_prepared_data_is_still_checked_against_the_run(configure: Configure, settings: Settings, images: Path) -> None:
    prepare.run(configure(images), settings)
    with pytest.raises(InputError, match=r"train\.batch is 64"):
        prepare.run(configure(images, batch=64), settings)


def test_importing_the_stage_is_cheap() -> None:
    program = "import sys, ganpipe.prepare; assert not {'torch', 'datasets', 'PIL', 'sklearn'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)
