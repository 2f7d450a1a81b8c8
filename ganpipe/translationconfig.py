"""The sections of `prepare.source` for translation: images in pairs, and two sets of images that are not."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import Field, model_validator

from .options import Section
from .sourceconfig import (
    ArchiveSource,
    DigitsSource,
    FolderSource,
    HubSource,
    ParquetSource,
    S3Source,
    Source,
    TableSource,
)
from .spec import Direction


class PairedFolderSource(Section):
    """Image files each of which holds a pair side by side, A left and B right, as pix2pix's data sets are published.

    Files below `train/` are trained on and those below `test/` tested on, or below `val/` where there is no `test/`; a
    folder without these is split by content.
    """

    name: Literal["paired_folder"] = "paired_folder"
    path: Path
    """The folder. A relative path is relative to the working directory; `~` is the home folder."""
    direction: Direction = "AtoB"
    """Which half is the source: `AtoB` takes the left one, `BtoA` the right one."""

    def columns(self) -> frozenset[str]:
        """Columns besides the images."""
        return frozenset()


class PairedSource(Section):
    """Two folders of image files, with as many of the same names: `facade/7.jpg` beside `facade/7.png`.

    `train/`, `val/` and `test/` in both mean what they do in a `paired_folder`.
    """

    name: Literal["paired"] = "paired"
    source: Path
    """Folder of what is translated."""
    target: Path
    """Folder of what it is translated to."""

    def columns(self) -> frozenset[str]:
        """Columns besides the images."""
        return frozenset()


class UnpairedFolderSource(Section):
    """A folder with the sub-folders trainA, trainB, testA and testB, as CycleGAN's data sets are published.

    Without testA and testB, what is tested on is split off by content.
    """

    name: Literal["unpaired_folder"] = "unpaired_folder"
    path: Path
    """The folder. A relative path is relative to the working directory; `~` is the home folder."""


SideSource = Annotated[
    DigitsSource | FolderSource | ArchiveSource | S3Source | ParquetSource | HubSource, Field(discriminator="name")
]


class UnpairedSource(Section):
    """Two sources of images, of which none belongs to one of the other; they may hold unlike numbers of them."""

    name: Literal["unpaired"] = "unpaired"
    a: SideSource
    """A source of images, as `prepare.source` takes them."""
    b: SideSource
    """Another one."""

    @model_validator(mode="after")
    def _single_images(self) -> UnpairedSource:
        for side, source in (("a", self.a), ("b", self.b)):
            if in_pairs(source):
                raise ValueError(f"prepare.source.{side}.target_column is given, and these are no pairs; leave it out")
        return self


class RestyledDigitsSource(Section):
    """The digits in two disjoint halves: `a` as they are, `b` inverted and outlined. None is seen in both styles, so
    that how well one is translated to the other is known, and was never shown."""

    name: Literal["restyled_digits"] = "restyled_digits"


UNPAIRED = (UnpairedFolderSource, UnpairedSource, RestyledDigitsSource)

_Translated = PairedFolderSource | PairedSource | UnpairedFolderSource | UnpairedSource | RestyledDigitsSource
AnySource = Annotated[Source | _Translated, Field(discriminator="name")]
SOURCE_NAMES: tuple[str, ...] = tuple(
    kind.model_fields["name"].default for kind in (*get_args(get_args(Source)[0]), *get_args(_Translated))
)


def in_pairs(source: object) -> bool:
    """Whether the rows of a source are pairs by themselves."""
    if isinstance(source, TableSource):
        return source.target_column is not None
    return isinstance(source, PairedFolderSource | PairedSource)
