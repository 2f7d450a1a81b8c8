"""Two sets of images that are no pairs: folders as CycleGAN publishes them, any two sources, restyled digits."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..errors import InputError
from ..prepareconfig import PrepareConfig
from ..sourceconfig import FolderSource, Source
from ..translationconfig import RestyledDigitsSource, UnpairedFolderSource, UnpairedSource
from .digits import digits, images_and_targets, pictures_of
from .folder import folder
from .found import Columns, Contents, Found, Picture

if TYPE_CHECKING:
    import numpy as np

    from .decode import Rows

ROWS_AT_A_TIME = 64

SIDES = ("a", "b")


def unpaired_folder(source: UnpairedFolderSource) -> Found:
    """trainA, trainB, testA and testB. Raises InputError for a missing or empty one."""
    root = source.path.expanduser().resolve()
    if not root.is_dir():
        raise InputError(
            f"prepare.source.path: {source.path} is no folder ({root}); name one with the sub-folders trainA and trainB"
        )
    tested = any((root / f"test{side.upper()}").exists() for side in SIDES)

    def of_side(side: str) -> Found:
        parts: list[tuple[Literal["train", "test"], Found]] = [
            (split, folder(FolderSource(path=source.path / f"{split}{side.upper()}", labels="none")))
            for split in (("train", "test") if tested else ("train",))
        ]

        def load(work: Path) -> Contents:
            loaded = [(split, found.load(work)) for split, found in parts]
            splits = [split for split, contents in loaded for _ in range(contents.count)]
            return Contents(
                len(splits),
                lambda: chain.from_iterable(contents.pictures() for _, contents in loaded),
                Columns(splits=splits if tested else None),
                enlarged=False,
            )

        stats = tuple(stat._replace(name=f"{split}/{stat.name}") for split, found in parts for stat in found.stats)
        return Found(" and ".join(found.place for _, found in parts), stats, load)

    return _two({side: of_side(side) for side in SIDES}, str(root))


def unpaired(source: UnpairedSource, find: Callable[[Source], Found]) -> Found:
    """Two sources, each as it is found by itself; the digits may be enlarged, other images not."""

    def of_side(side: str) -> Found:
        given = getattr(source, side)
        with _blaming(side):
            found = find(given)

        def load(work: Path) -> Contents:
            (copies := work / side).mkdir()
            with _blaming(side):
                loaded = found.load(copies)
            return replace(loaded, enlarged=given.name == "digits")

        return Found(found.place, found.stats, load)

    tables = {side: of_side(side) for side in SIDES}
    return _two(tables, " and ".join(found.place for found in tables.values()))


@contextmanager
def _blaming(side: str) -> Iterator[None]:
    """Sources know themselves as `prepare.source`."""
    try:
        yield
    except InputError as error:
        raise InputError(re.sub(r"prepare\.source\b", f"prepare.source.{side}", str(error))) from error


def restyled_digits(source: RestyledDigitsSource) -> Found:
    """The digits, dealt out to the sides by their content, so that equal ones are of one side."""
    found = digits()

    def of_side(side: str) -> Found:
        def load(work: Path) -> Contents:
            images_NHW, digit_N, classes = images_and_targets()
            keys = [picture.key for picture in pictures_of(images_NHW, range(len(images_NHW)))]
            rows = [row for row, key in enumerate(keys) if SIDES[key[0] % 2] == side]

            def pictures() -> Iterator[Picture]:
                return pictures_of(images_NHW, rows)

            return Contents(len(rows), pictures, Columns(digit_N[rows].tolist(), classes))

        return Found(found.place, found.stats, load)

    return _two({side: of_side(side) for side in SIDES}, found.place)


def decode_sides(found: Found, config: PrepareConfig, work: Path) -> dict[str, Rows]:
    """Rows of both tables; restyled digits have a `partner` each, what they are in the other style.

    Raises InputError when one side is grey and the other in colour.
    """
    from .decode import decode

    restyled = isinstance(config.source, RestyledDigitsSource)
    tables: dict[str, Rows] = {}
    first: dict[str, str] = {}
    for side, of_side in found.tables.items():
        (copies := work / f"source-{side}").mkdir()
        contents = of_side.load(copies)
        first[side] = next((picture.name for picture in contents.pictures()), "")
        tables[side] = decode(
            contents,
            config,
            work / f"pixels-{side}",
            pair=("partner", "image") if side == "a" else ("image", "partner"),
            derive="restyle" if restyled else None,
        )
    in_colour = {side: _any_colour(rows.by_name()["image"]) for side, rows in tables.items()}
    if len(set(in_colour.values())) > 1:
        grey, colour = sorted(tables, key=in_colour.__getitem__)
        raise InputError(
            f"prepare.source: all images of side {grey} are grey ({first[grey]}, ...), and side {colour} has images in "
            f"colour ({found.tables[colour].place}): what tells the sides apart would be the colour; take others, or "
            "set prepare.channels to 1"
        )
    return tables


def _any_colour(images_NCHW: np.ndarray) -> bool:
    """Whether channels differ anywhere."""
    for start in range(0, len(images_NCHW), ROWS_AT_A_TIME):
        images = images_NCHW[start : start + ROWS_AT_A_TIME]
        if (images != images[:, :1]).any():
            return True
    return False


def _two(tables: dict[str, Found], place: str) -> Found:
    """One that stands for both sides; each of them is loaded by itself."""
    stats = tuple(stat._replace(name=f"{side}/{stat.name}") for side, found in tables.items() for stat in found.stats)

    def load(work: Path) -> Contents:
        raise NotImplementedError("the tables of unpaired data are loaded one by one")

    return Found(place, stats, load, tables=tables)
