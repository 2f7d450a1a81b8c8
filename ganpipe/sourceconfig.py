"""The sections of `prepare.source`: where images, labels and captions come from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from .options import Section

DigitWord = Literal["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
WeightWord = Literal["thin", "bold"]
SideWord = Literal["left", "right"]


class DigitsSource(Section):
    """scikit-learn's 1,797 real 8x8 handwritten digits, labelled; needs no network."""

    name: Literal["digits"] = "digits"

    def columns(self) -> frozenset[str]:
        """Columns besides the image."""
        return frozenset({"label"})


class StackedDigitsSource(Section):
    """Three of those digits as the red, green and blue channel of one image, in the manner of Stacked MNIST
    (arXiv:1611.02163, Sec. 3.3): 1,000 modes, each as frequent as any other, labelled "000" to "999"."""

    name: Literal["stacked_digits"] = "stacked_digits"
    images: int = Field(25_600, ge=1000, le=1_000_000)
    """Triples that are drawn. Those of each split are made of that split's digits alone."""
    seed: int = Field(0, ge=0)
    """Of the draw: other seeds give other triples of the same digits."""

    def columns(self) -> frozenset[str]:
        """Columns besides the image."""
        return frozenset({"label"})


class CaptionedDigitsSource(Section):
    """The same digits, each with a sentence that tells the digit, how bold it is, and which way it leans."""

    name: Literal["captioned_digits"] = "captioned_digits"
    seed: int = Field(0, ge=0)
    """Of the wording: other seeds say the same in other ways."""
    leave_out: tuple[tuple[DigitWord, WeightWord, SideWord], ...] = ()
    """Combinations [digit, weight, slant], like [seven, bold, left], whose images are left out: whether a generator
    puts together what it has never seen together is told apart from the rest."""

    def columns(self) -> frozenset[str]:
        """Columns besides the image."""
        return frozenset({"label", "caption", "meaning"})


class ColumnsSource(Section):
    """Base of the sources whose rows can have columns besides the image."""

    label_column: str | None = None
    """Column with each image's class: its name, or a whole number that counts from 0. null: none."""
    caption_column: str | None = None
    """Column with each image's text. null: none."""
    classes: tuple[str, ...] | None = Field(None, min_length=1)
    """Names of all classes, by number; other labels are refused. null: the classes that the data names or holds."""

    @field_validator("classes")
    @classmethod
    def _each_once(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if value and (twice := sorted({name for name in value if value.count(name) > 1})):
            raise ValueError(f"{twice[0]!r} stands there twice; name each class once")
        return value

    @model_validator(mode="after")
    def _classes_of_labels(self) -> ColumnsSource:
        if self.classes and not self.has_labels():
            raise ValueError("prepare.source.classes is given, but no labels; set prepare.source.label_column too")
        return self

    def has_labels(self) -> bool:
        """Whether labels are asked for."""
        return self.label_column is not None

    def columns(self) -> frozenset[str]:
        """Columns besides the image that there may be: whether folders are classes shows when they are read."""
        found = {"label": self.has_labels(), "caption": self.caption_column is not None}
        return frozenset(name for name, there in found.items() if there)


class FilesSource(ColumnsSource):
    """Base of the sources made of image files.

    Their columns stand in a `metadata.jsonl` or `metadata.csv` beside the topmost files, whose `file_name` is an
    image's path from there.
    """

    labels: Literal["auto", "subfolders", "none"] = "auto"
    """Without `label_column`: `subfolders` says that each image lies in a first-level sub-folder named after its class,
    `auto` takes sub-folders for classes when all images lie in some."""

    @model_validator(mode="after")
    def _one_kind_of_label(self) -> FilesSource:
        if self.label_column and self.labels == "subfolders":
            raise ValueError(
                "prepare.source.labels is `subfolders` and prepare.source.label_column is given; choose one of them"
            )
        return self

    def has_labels(self) -> bool:
        return self.label_column is not None or self.labels != "none"


class FolderSource(FilesSource):
    """Image files of a local folder and its sub-folders."""

    name: Literal["folder"] = "folder"
    path: Path
    """The folder. A relative path is relative to the working directory; `~` is the home folder."""


class ArchiveSource(FilesSource):
    """Image files in a .zip, .tar, .tar.gz, .tar.bz2 or .tar.xz, read where they are.

    One folder that holds all the others does not count as a sub-folder.
    """

    name: Literal["archive"] = "archive"
    path: Path
    """The archive. A relative path is relative to the working directory; `~` is the home folder."""


class S3Source(FilesSource):
    """Image files in an S3 bucket, read from there by boto3; endpoint, region and keys are in its variables."""

    name: Literal["s3"] = "s3"
    uri: str
    """`s3://bucket/prefix`: what lies under `prefix/` counts as a folder does."""


class TableSource(ColumnsSource):
    """Base of the sources whose images are a column, too."""

    image_column: str = "image"
    """Column with the bytes of image files: binary, or `{bytes, path}` as `datasets` writes it."""
    target_column: str | None = None
    """Another such column, with what each image is to be translated to. null: the images are no pairs."""


class ParquetSource(TableSource):
    """Parquet files."""

    name: Literal["parquet"] = "parquet"
    path: Path
    """A file, or a folder whose .parquet files are taken, those in sub-folders too."""


class HubSource(TableSource):
    """A data set of the Hugging Face hub, whatever `datasets.load_dataset` reads without running its code."""

    name: Literal["hub"] = "hub"
    id: str = Field(min_length=1)
    """`owner/name`, or a local folder that is laid out like a data set of the hub."""
    revision: str | None = None
    """Branch, tag or commit. null: the newest of the main branch, looked up every time. Not for local folders."""
    subset: str | None = None
    """Configuration of the data set, where it has several."""
    split: str = "train"
    """Its split that is taken, `train+test` for several; ganpipe makes its own splits of what it finds there."""


Source = Annotated[
    DigitsSource
    | StackedDigitsSource
    | CaptionedDigitsSource
    | FolderSource
    | ArchiveSource
    | S3Source
    | ParquetSource
    | HubSource,
    Field(discriminator="name"),
]
