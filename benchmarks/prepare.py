"""Images per second from 256-px JPEG files to 64-px pixels: `decode` on all cores against Pillow alone on one.

    python benchmarks/prepare.py [--images 24000] [--rounds 3]

Each round runs Pillow alone, then `decode`, in one process; the ratio of a round is decode / (cores x Pillow alone).
Starting the processes is part of what is measured, hence many images. CPU time counts all processes of a measurement;
images per second fall with whatever else the machine does.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from ganpipe.prepare.decode import decode
from ganpipe.prepare.sources import find
from ganpipe.prepareconfig import PrepareConfig
from ganpipe.sourceconfig import FolderSource

SIDE, RESOLUTION = 256, 64
DISTINCT = 500


def write_photographs(folder: Path, count: int) -> list[Path]:
    """Crops of scikit-learn's two photographs, 256 px, JPEG of Pillow's default quality."""
    from sklearn.datasets import load_sample_images  # here, as each decoding process imports this file anew

    rng = np.random.default_rng(0)
    photographs = load_sample_images().images
    files = []
    for number in range(min(count, DISTINCT)):
        photograph = photographs[number % len(photographs)]
        top, left = (rng.integers(0, extent - SIDE + 1) for extent in photograph.shape[:2])
        path = folder / f"{number:06d}.jpg"
        Image.fromarray(photograph[top : top + SIDE, left : left + SIDE]).save(path)
        files.append(path)
    for number in range(len(files), count):
        path = folder / f"{number:06d}.jpg"
        path.write_bytes(files[number % DISTINCT].read_bytes())
        files.append(path)
    return files


class Speed(NamedTuple):
    """Of one measurement."""

    images_per_second: float
    cpu_ms: float
    """Milliseconds of CPU time for each image, of this process and of those that it has waited for."""


def measured(work: Callable[[], int]) -> Speed:
    """The speed of `work`, which returns how many images it took."""
    start, cpu = time.perf_counter(), sum(os.times()[:4])
    images = work()
    return Speed(images / (time.perf_counter() - start), (sum(os.times()[:4]) - cpu) / images * 1000)


def pillow_alone(files: list[Path]) -> int:
    """The plainest loop there is."""
    for path in files:
        with Image.open(path) as image:
            np.asarray(image.convert("RGB").resize((RESOLUTION, RESOLUTION), Image.Resampling.LANCZOS))
    return len(files)


def decode_all(folder: Path, work: Path) -> int:
    """From the walk through the folder to the pixels in a file."""
    source = FolderSource(path=folder)
    config = PrepareConfig(source=source, resolution=RESOLUTION)
    return len(decode(find(source).load(work), config, work / "pixels").hashes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=24_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as name:
        folder, work = Path(name, "images"), Path(name, "work")
        folder.mkdir()
        work.mkdir()
        files = write_photographs(folder, options.images)
        pillow_alone(files[:DISTINCT])
        rounds: list[tuple[Speed, Speed]] = []
        for number in range(options.rounds):
            before = measured(lambda: pillow_alone(files[: options.images // 4]))
            after = measured(lambda: decode_all(folder, work))
            rounds.append((before, after))
            print(f"round {number}: Pillow alone {before[0]:.0f}, decode {after[0]:.0f} img/s", file=sys.stderr)
    ratio = statistics.median(after.images_per_second / (cores * before.images_per_second) for before, after in rounds)
    cpu_ratio = statistics.median(before.cpu_ms / after.cpu_ms for before, after in rounds)
    before, after = (
        Speed(*(statistics.median(values) for values in zip(*speeds, strict=True)))
        for speeds in zip(*rounds, strict=True)
    )
    print(f"| what | images/s | of {cores} x Pillow alone | CPU ms an image | Pillow alone / this |")
    print("| --- | --- | --- | --- | --- |")
    print(f"| Pillow alone, one core | {before.images_per_second:.0f} | | {before.cpu_ms:.2f} | 1.00 |")
    after_columns = f"{after.images_per_second:.0f} | {ratio:.2f} | {after.cpu_ms:.2f} | {cpu_ratio:.2f}"
    print(f"| decode, {cores} cores | {after_columns} |")


if __name__ == "__main__":
    main()
