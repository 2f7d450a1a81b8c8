"""Images per second from 256-px JPEG files to 64-px pixels: `decode` on all cores against Pillow alone on one.

    python benchmarks/prepare.py [--images 12000] [--rounds 3]

Each round runs Pillow alone, then `decode`, in one process; the ratio of a round is decode / (cores x Pillow alone).
Starting the processes is part of what is measured, hence many images.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from ganpipe.config import PrepareConfig
from ganpipe.prepare.decode import decode
from ganpipe.prepare.sources import find
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


def pillow_alone(files: list[Path]) -> float:
    """Images per second of the plainest loop there is."""
    start = time.perf_counter()
    for path in files:
        with Image.open(path) as image:
            np.asarray(image.convert("RGB").resize((RESOLUTION, RESOLUTION), Image.Resampling.LANCZOS))
    return len(files) / (time.perf_counter() - start)


def decode_all(folder: Path, work: Path) -> float:
    """Images per second of `decode`, from the walk through the folder to the pixels in a file."""
    source = FolderSource(path=folder)
    config = PrepareConfig(source=source, resolution=RESOLUTION)
    start = time.perf_counter()
    rows = decode(find(source).load(work), config, work / "pixels")
    return len(rows.hashes) / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=12_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as name:
        folder, work = Path(name, "images"), Path(name, "work")
        folder.mkdir()
        work.mkdir()
        files = write_photographs(folder, options.images)
        pillow_alone(files[:DISTINCT])
        rounds = []
        for number in range(options.rounds):
            rounds.append((pillow_alone(files[: options.images // 4]), decode_all(folder, work)))
            print(
                f"round {number}: Pillow alone {rounds[-1][0]:.0f}, decode {rounds[-1][1]:.0f} img/s", file=sys.stderr
            )
    alone, decoded = (statistics.median(column) for column in zip(*rounds, strict=True))
    ratio = statistics.median(after / (cores * before) for before, after in rounds)
    print("| what | images/s (median) | ratio (median of rounds) |")
    print("| --- | --- | --- |")
    print(f"| Pillow alone, one core | {alone:.0f} | |")
    print(f"| decode, {cores} cores | {decoded:.0f} | {ratio:.2f} of {cores} x Pillow alone |")


if __name__ == "__main__":
    main()
