"""What `ganpipe generate` leaves: pictures of samples, still or moving, samples or translations as files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np

from . import grids, moving, plane, sample
from .errors import InputError
from .sample import LoadedGenerator
from .sourceconfig import FolderSource
from .spec import WHITE, sampled

if TYPE_CHECKING:
    from .prepare.found import Stat

OTHER_IMAGES = (".jpg", ".jpeg", ".gif", ".webp", ".mp4", ".bmp", ".tif", ".tiff")
"""What pictures are not written as."""
STEPS = 24
"""Frames from one sample to the next."""
STILL_SIDE, MOVING_SIDE = 64, 128
"""Least side of an image in a grid and of one that moves alone, pixels: smaller ones are enlarged."""


@dataclass(frozen=True)
class _Asked:
    """What each of n samples is to show: of several classes or texts each has its share, one after the other."""

    share: list[int]
    """Number of its class or text among those asked for."""
    label: list[int] | None
    caption: list[str] | None
    columns: int | None
    """Of a grid: as asked for, or with one row for each class or text, where they fit."""

    @classmethod
    def of(
        cls, generator: LoadedGenerator, n: int, labels: Sequence[str], texts: Sequence[str], columns: int | None
    ) -> _Asked:
        numbers, said = generator.class_numbers(labels), generator.texts(texts)
        for what, asked in (("labels", numbers), ("texts", said)):
            if len(asked) > n:
                raise InputError(f"--n {n}: {len(asked)} {what} are asked for; draw as many samples, or more")
        count = len(numbers) or len(said)
        share = [index * count // n for index in range(n)]
        return cls(
            share,
            [numbers[part] for part in share] if numbers else None,
            [said[part] for part in share] if said else None,
            columns or (n // count if count > 1 and n % count == 0 else None),
        )


def write(
    generator: LoadedGenerator,
    seed: int,
    n: int,
    path: Path,
    labels: Sequence[str] = (),
    texts: Sequence[str] = (),
    truncation: float = 1.0,
    columns: int | None = None,
) -> None:
    """Samples 0, ..., n - 1 of the seed, as the suffix of `path` says.

    Of several `labels`, or `texts`, each has its share of the samples, one after the other. Raises InputError for a
    class or a text that the generator cannot be asked for, and when the samples cannot be written.
    """
    asked = _Asked.of(generator, n, labels, texts, columns)
    try:
        if generator.directions:
            raise InputError("this generator translates images: name a folder of them with --input")
        if generator.output == "point":
            _points(generator, seed, n, path, truncation)
        else:
            _images(generator, seed, n, path, asked, truncation)
    except OSError as error:
        raise InputError(f"--out {path}: {error}") from error


def translate(
    generator: LoadedGenerator, seed: int, folder: Path, direction: str | None, path: Path, columns: int | None = None
) -> int:
    """The images of a folder translated, each in its own size, and how many there are.

    They are written to the folder `path` as PNG, by their names there; or, all of one size, each beside its source
    into the one picture that a `path` in .png is. The noise of an image is that of its number among them by name.
    Raises InputError, before anything is written, for images that cannot be read, a direction that the generator does
    not know, names that differ by their suffix alone, and when nothing can be written.
    """
    from .prepare.decode import listing
    from .prepare.folder import folder as found_in
    from .prepare.images import UnreadableImage, open_image

    way = generator.direction(direction)
    channels, background = generator.source_channels(way), generator.source(way).background or WHITE
    found = found_in(FolderSource(path=folder, labels="none"), "--input")
    one = path.suffix.lower() == ".png"
    if path.suffix.lower() in (*OTHER_IMAGES, ".csv"):
        raise InputError(f"--out {path}: translations are written as .png, a name without suffix is a folder of PNGs")
    if not one and path.resolve().is_relative_to(Path(found.place).resolve()):
        raise InputError(f"--out {path}: that is in the folder that is translated; take another one")
    names = [PurePosixPath(stat.name).with_suffix(".png") for stat in found.stats]
    if twice := [str(name) for name, count in Counter(names).items() if count > 1]:
        raise InputError(f"--input: several images would be written as {min(twice)}; rename all but one")

    def source(stat: Stat) -> np.ndarray:
        image, _ = open_image((Path(found.place) / stat.name).read_bytes(), channels, background)
        return np.asarray(image).reshape(image.height, image.width, channels).transpose(2, 0, 1)

    sizes, unreadable = set(), []
    for stat in found.stats:
        try:
            sizes.add(source(stat).shape)
        except (UnreadableImage, OSError) as error:
            unreadable.append(f"{found.place}/{stat.name}: {error}")
    if unreadable:
        raise InputError(f"--input: {len(unreadable)} images cannot be read:\n  {listing(unreadable)}")
    if one and len(sizes) > 1:
        raise InputError(
            f"--out {path}: one picture is of images of one size, and these have {len(sizes)}; name a folder"
        )
    sheet = []
    try:
        for number, (stat, name) in enumerate(zip(found.stats, names, strict=True)):
            image = source(stat)
            made = sample.translate_image(generator, seed, number, image, way)
            if one:
                sheet += [image, made]
                continue
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(grids.grid_png(made[None], scale_to=1))
        if one:
            path.parent.mkdir(parents=True, exist_ok=True)
            pairs = columns or max(1, round((len(names) / 2) ** 0.5))
            path.write_bytes(grids.grid_png(grids.stacked(sheet), 2 * pairs, STILL_SIDE))
    except OSError as error:
        raise InputError(f"--out {path}: {error}") from error
    return len(names)


def write_walks(
    generator: LoadedGenerator,
    seed: int,
    n: int,
    stops: int,
    path: Path,
    labels: Sequence[str] = (),
    texts: Sequence[str] = (),
    truncation: float = 1.0,
    columns: int | None = None,
) -> int:
    """n closed walks through the latents of `stops` samples each, side by side, and the number of their frames.

    Each walk keeps its class or text. Raises InputError as `write` does, before anything is drawn.
    """
    if generator.output != "image":
        raise InputError(f"--interpolate: this generator makes {generator.output}s, and what moves is images")
    asked = _Asked.of(generator, n, labels, texts, columns)
    side = MOVING_SIDE if n == 1 else STILL_SIDE
    _, height, width = sampled(generator.spec).shape
    moving.check(path, grids.enlarged_size(n, height, width, asked.columns, side))
    drawn = sample.draw_walks(
        *(generator.gan, generator.module, seed, n, stops, STEPS),
        label=asked.label,
        caption=asked.caption,
        truncation=truncation,
    )
    frames = (grids.enlarged_grid(sample.to_uint8(images).numpy(), asked.columns, side) for images in drawn)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(moving.encoded(frames, path.suffix.lower()))
    except OSError as error:
        raise InputError(f"--out {path}: {error}") from error
    return stops * STEPS


def _images(generator: LoadedGenerator, seed: int, n: int, path: Path, asked: _Asked, truncation: float) -> None:
    """A grid as .png, with one row for each class or text asked for where they fit; or a folder of PNGs."""
    if path.suffix.lower() in (*OTHER_IMAGES, ".csv"):
        raise InputError(
            f"--out {path}: grids are written as .png, a name without suffix is a folder of PNGs; what moves "
            f"({', '.join(moving.FORMATS)}) takes --interpolate"
        )
    images = sample.draw_images(
        generator.gan, generator.module, seed, n, label=asked.label, caption=asked.caption, truncation=truncation
    ).numpy()
    if path.suffix.lower() == ".png":
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(grids.grid_png(images, asked.columns, STILL_SIDE))
        return
    path.mkdir(parents=True, exist_ok=True)
    for index in range(n):
        picture = grids.grid_png(images[index : index + 1], scale_to=1)
        of_class = "" if asked.label is None else f"-class{asked.label[index]}"
        of_text = "" if asked.caption is None else f"-text{asked.share[index]}"
        (path / f"seed{seed}-{index:06d}{of_class}{of_text}.png").write_bytes(picture)


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
