"""What `ganpipe generate` leaves: pictures of samples, or the samples as files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from . import plane, sample
from .errors import InputError
from .sample import LoadedGenerator

OTHER_IMAGES = (".jpg", ".jpeg", ".gif", ".webp", ".bmp", ".tif", ".tiff")
"""What pictures are not written as."""


def write(
    generator: LoadedGenerator, seed: int, n: int, path: Path, labels: Sequence[str] = (), texts: Sequence[str] = ()
) -> None:
    """Samples 0, ..., n - 1 of the seed, as the suffix of `path` says.

    Of several `labels`, or `texts`, each has its share of the samples, one after the other. Raises InputError for a
    class or a text that the generator cannot be asked for, and when the samples cannot be written.
    """
    numbers, said = generator.class_numbers(labels), generator.texts(texts)
    for what, asked in (("labels", numbers), ("texts", said)):
        if len(asked) > n:
            raise InputError(f"--n {n}: {len(asked)} {what} are asked for; draw as many samples, or more")
    try:
        if generator.output == "point":
            _points(generator, seed, n, path)
        else:
            _images(generator, seed, n, path, numbers, said)
    except OSError as error:
        raise InputError(f"--out {path}: {error}") from error


def _images(
    generator: LoadedGenerator, seed: int, n: int, path: Path, numbers: Sequence[int], texts: Sequence[str]
) -> None:
    """A grid as .png, with one row for each class or text asked for where they fit; or a folder of PNGs."""
    if path.suffix.lower() in (*OTHER_IMAGES, ".csv"):
        raise InputError(f"--out {path}: grids are written as .png; a name without suffix is a folder of PNGs")
    asked = len(numbers) or len(texts)
    share = [index * asked // n for index in range(n)]
    label = [numbers[part] for part in share] if numbers else None
    caption = [texts[part] for part in share] if texts else None
    images = sample.draw_images(generator.gan, generator.module, seed, n, label=label, caption=caption).numpy()
    if path.suffix.lower() == ".png":
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(sample.grid_png(images, n // asked if asked > 1 and n % asked == 0 else None))
        return
    path.mkdir(parents=True, exist_ok=True)
    for index in range(n):
        picture = sample.grid_png(images[index : index + 1], scale_to=1)
        of_class = "" if label is None else f"-class{label[index]}"
        of_text = "" if caption is None else f"-text{share[index]}"
        (path / f"seed{seed}-{index:06d}{of_class}{of_text}.png").write_bytes(picture)


def _points(generator: LoadedGenerator, seed: int, n: int, path: Path) -> None:
    """A scatter as .png, or the points as .csv, by default a file of that kind in a folder."""
    suffix = path.suffix.lower()
    if suffix in OTHER_IMAGES:
        raise InputError(f"--out {path}: points are drawn as .png or written as .csv; other names are folders")
    points = sample.draw_points(generator.gan, generator.module, seed, n).numpy()
    file = path if suffix in (".png", ".csv") else path / f"seed{seed}.csv"
    file.parent.mkdir(parents=True, exist_ok=True)
    if suffix == ".png":
        file.write_bytes(plane.picture(points, generator.spec["point"].mixture))
    else:
        file.write_text("x,y\n" + "".join(f"{x:.9g},{y:.9g}\n" for x, y in points))
