"""What `ganpipe generate` leaves: pictures of samples, still or moving, or the samples as files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from . import moving, plane, sample
from .errors import InputError
from .sample import LoadedGenerator

OTHER_IMAGES = (".jpg", ".jpeg", ".gif", ".webp", ".mp4", ".bmp", ".tif", ".tiff")
"""What pictures are not written as."""
STEPS = 24
"""Frames from one sample to the next."""
STILL_SIDE, MOVING_SIDE = 64, 128
"""Least side of an image in a grid and of one that moves alone, pixels: smaller ones are enlarged."""


def write(
    generator: LoadedGenerator, seed: int, n: int, path: Path, labels: Sequence[str] = (), truncation: float = 1.0
) -> None:
    """Samples 0, ..., n - 1 of the seed, as the suffix of `path` says.

    Of several `labels` each has its share of the samples, one after the other. Raises InputError for a class that is
    none, and when the samples cannot be written.
    """
    label = _shares(generator.class_numbers(labels), n) if labels else None
    try:
        if generator.output == "point":
            _points(generator, seed, n, path, truncation)
        else:
            _images(generator, seed, n, path, label, len(labels), truncation)
    except OSError as error:
        raise InputError(f"--out {path}: {error}") from error


def write_walks(
    generator: LoadedGenerator,
    seed: int,
    n: int,
    stops: int,
    path: Path,
    labels: Sequence[str] = (),
    truncation: float = 1.0,
) -> int:
    """n closed walks through the latents of `stops` samples each, side by side, and the number of their frames.

    Each walk keeps its class. Raises InputError as `write` does, before anything is drawn.
    """
    moving.check(path)
    if generator.output != "image":
        raise InputError(f"--interpolate: this generator makes {generator.output}s, and what moves is images")
    label = _shares(generator.class_numbers(labels), n) if labels else None
    drawn = sample.draw_walks(
        generator.gan, generator.module, seed, n, stops, STEPS, label=label, truncation=truncation
    )
    columns, side = _columns(n, len(labels)), MOVING_SIDE if n == 1 else STILL_SIDE
    frames = (sample.enlarged_grid(sample.to_uint8(images).numpy(), columns, side) for images in drawn)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(moving.encoded(frames, path.suffix.lower()))
    except OSError as error:
        raise InputError(f"--out {path}: {error}") from error
    return stops * STEPS


def _columns(n: int, asked: int) -> int | None:
    """Of a grid with one row for each class asked for, where they fit."""
    return n // asked if asked > 1 and n % asked == 0 else None


def _shares(numbers: list[int], n: int) -> list[int]:
    """Of n samples as many for each class, one after the other."""
    if len(numbers) > n:
        raise InputError(f"--n {n}: {len(numbers)} labels are asked for; draw as many samples, or more")
    return [numbers[index * len(numbers) // n] for index in range(n)]


def _images(
    generator: LoadedGenerator,
    seed: int,
    n: int,
    path: Path,
    label: list[int] | None,
    asked: int,
    truncation: float,
) -> None:
    """A grid as .png, with one row for each class asked for where they fit; or a folder of PNGs."""
    if path.suffix.lower() in (*OTHER_IMAGES, ".csv"):
        raise InputError(
            f"--out {path}: grids are written as .png, a name without suffix is a folder of PNGs; what moves "
            f"({', '.join(moving.FORMATS)}) takes --interpolate"
        )
    images = sample.draw_images(generator.gan, generator.module, seed, n, label=label, truncation=truncation).numpy()
    if path.suffix.lower() == ".png":
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(sample.grid_png(images, _columns(n, asked), STILL_SIDE))
        return
    path.mkdir(parents=True, exist_ok=True)
    for index in range(n):
        picture = sample.grid_png(images[index : index + 1], scale_to=1)
        of_class = "" if label is None else f"-class{label[index]}"
        (path / f"seed{seed}-{index:06d}{of_class}.png").write_bytes(picture)


def _points(generator: LoadedGenerator, seed: int, n: int, path: Path, truncation: float) -> None:
    """A scatter as .png, or the points as .csv, by default a file of that kind in a folder."""
    suffix = path.suffix.lower()
    if suffix in OTHER_IMAGES:
        raise InputError(f"--out {path}: points are drawn as .png or written as .csv; other names are folders")
    points = sample.draw_points(generator.gan, generator.module, seed, n, truncation=truncation).numpy()
    file = path if suffix in (".png", ".csv") else path / f"seed{seed}.csv"
    file.parent.mkdir(parents=True, exist_ok=True)
    if suffix == ".png":
        file.write_bytes(plane.picture(points, generator.spec["point"].mixture))
    else:
        file.write_text("x,y\n" + "".join(f"{x:.9g},{y:.9g}\n" for x, y in points))
