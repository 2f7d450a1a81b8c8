"""Is a prepared data set enough for what the run wants of it? Asked before anything is published."""

from __future__ import annotations

from ..config import RunConfig
from ..errors import InputError
from ..evaluate.known import feature_dim
from ..evaluate.protocol import NAMED, check_translations
from ..prepareconfig import PrepareConfig
from ..spec import ways
from .manifest import DataManifest

MIN_TEST_IMAGES = 2
MIN_EXTRACTOR_IMAGES = 64


def check_rows(manifest: DataManifest, config: RunConfig) -> None:
    """Raise InputError, naming the field, when a split is too small for batch or metric."""
    rows = manifest.ref.rows
    for name, table in manifest.tables.items():
        if not table.rows:
            side = "" if name == "main" else f", side {name}"
            raise InputError(f"prepare.source{side}: none of its images can be read; nothing is left to prepare")
        _check_splits({split: stop - start for split, (start, stop) in table.splits.items()}, name, config)
    evaluate = config.evaluate
    if ways(manifest.columns()):
        tests = [stop - start for start, stop in (table.splits["test"] for table in manifest.tables.values())]
        check_translations(evaluate, tests)
    if evaluate.protocol is not None:
        split = NAMED[evaluate.protocol].reference_split
        NAMED[evaluate.protocol].require(evaluate.protocol, rows[split], f"the {split} split of the data")
    if not evaluate.allow_few:
        given = "evaluate.num_samples is" if evaluate.num_samples else "the number of held-out images is"
        _check_feature_dimension(evaluate.num_samples or rows["test"], given, config)
        _check_feature_dimension(rows["train"], "the number of training images is", config)


def _check_splits(rows: dict[str, int], table: str, config: RunConfig) -> None:
    """Of one table: split -> number of images."""
    total = sum(rows.values())
    prepare, kind = config.prepare, config.prepare.kind
    more = "add images" if kind == "image" else "raise prepare.source.samples"
    those = f"{kind}s" if table == "main" else f"{kind}s of side {table}"
    if rows["train"] < config.train.batch:
        raise InputError(
            f"train.batch is {config.train.batch}, but only {rows['train']:,} of {total:,} {those} are left to "
            f"train on; lower train.batch, or {more}"
        )
    if rows["test"] < MIN_TEST_IMAGES:
        raise InputError(
            f"{rows['test']} of {total:,} {those} are left to test on, {MIN_TEST_IMAGES} are needed; raise "
            f"prepare.test_fraction ({prepare.test_fraction}), which decides where no folders do, or {more}"
        )
    if (
        isinstance(prepare, PrepareConfig)
        and config.evaluate.extractor == "domain"
        and rows["extractor"] < MIN_EXTRACTOR_IMAGES
    ):
        raise InputError(
            f"prepare.extractor_fraction {prepare.extractor_fraction} of {total:,} {those} leaves {rows['extractor']} "
            f"to train the feature extractor on, {MIN_EXTRACTOR_IMAGES} are needed; raise prepare.extractor_fraction, "
            "add images, or set evaluate.extractor to `inception`"
        )


def _check_feature_dimension(images: int, given: str, config: RunConfig) -> None:
    """A covariance of no more images than dimensions is singular, and a Frechet distance from it means little."""
    evaluate = config.evaluate
    dimension = feature_dim(evaluate.extractor)
    if dimension is None or images > dimension:
        return
    raise InputError(
        f"{given} {images:,}, and evaluate.extractor `{evaluate.extractor}` has {dimension:,} features: more images "
        "than features are needed. Raise evaluate.num_samples or prepare.test_fraction, add images, or set "
        "evaluate.allow_few to score all the same"
    )
