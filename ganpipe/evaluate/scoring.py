"""`ganpipe score`: any images against any others, under a protocol, in this process."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from torch_fidelity import FeatureExtractorBase
from tqdm import tqdm

from ..errors import InputError
from ..evaluateconfig import EvaluateConfig
from ..prepare.manifest import Dataset
from ..ranks import Ranks
from ..refs import ControlScores, Scores
from ..sample import CHUNK
from ..settings import Settings
from ..spec import sampled
from ..storage import Store, open_store, scratch_folder
from . import known
from .controls import measured_real, reference_and_controls
from .extractors import build_extractor, feature_dim, find_weights
from .fidelity import (
    MAX_REFERENCE,
    Counts,
    Features,
    chunked,
    protocol_of,
    require_finite,
    todays_protocol,
)
from .images import Images, find_dataset, of_dataset, open_images
from .metrics import POINT_EXTRACTOR, STANDARD_EXTRACTOR
from .protocol import Named, Protocol, named
from .scores import Reference, mean_of, measure
from .weights import WITHOUT_FILE, Weights

log = logging.getLogger(__name__)


class Scored(Scores):
    """What images score against others."""

    real: str
    """What they were measured against."""
    generated: str
    controls: list[ControlScores]
    """Measured beside them when the real images are a data set, which has a held-out part; else empty."""
    protocol: dict[str, Any]
    """The full protocol; see `protocol.py`."""
    protocol_hash: str


def score_images(
    real: str,
    generated: str,
    settings: Settings,
    *,
    extractor: str | None = None,
    weights: Path | None = None,
    protocol: str | None = None,
    count: int | None = None,
    seed: int = 0,
    allow_few: bool = False,
) -> Scored:
    """Scores of `generated` against `real`: names as `images.open_images` takes them, `real` being no model.

    The extractor is Inception unless it, or a named protocol, is given; points have their own. `weights` is a file for
    it. `count` images are taken of `generated`, by default all there are; a model draws them from `seed`, by default as
    many as there are real ones. Against a data set, its training images are measured against, with the controls beside.

    Raises InputError, before anything is measured or kept, for unreadable files, unlike channels or sizes, too few
    images (of the extractor's dimension unless `allow_few`, or of a named protocol), and missing weights; WorkFailed
    when the extractor or the generator makes what it should not.
    """
    store = open_store(settings.store)
    ranks = Ranks()
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False  # the protocol says fp32
    dataset = find_dataset(real, store) if not Path(real).expanduser().exists() else None
    wanted = named(protocol) if protocol else None
    extractor = _extractor(extractor, protocol, wanted, dataset, real)
    if weights is not None and (extractor not in known.KNOWN or extractor in WITHOUT_FILE):
        raise InputError(f"--weights: extractor {extractor} takes no file of weights; leave it out")
    found = None if extractor in known.OF_DATA else find_weights(extractor, None, store, settings, weights)
    if wanted is not None and count not in (None, wanted.n_generated):
        raise InputError(f"--n is {count}, and --protocol {protocol} fixes it at {wanted.n_generated}; leave out --n")
    count = wanted.n_generated if wanted else count
    with scratch_folder(settings.local_folder("work"), "score-") as work:
        known_side = _real(real, dataset, wanted, work, settings)
        draws = (seed, count or min(len(known_side), MAX_REFERENCE))
        made = open_images(generated, "GENERATED", count or MAX_REFERENCE, work, settings, draws, dataset)
        _require_alike(known_side, made)
        _require_numbers(known_side, made, count, protocol, wanted)
        dim = known.feature_dim(extractor)
        _require_enough(known_side, made, extractor, dim, allow_few)
        found = found or find_weights(extractor, dataset, store, settings)
        built = build_extractor(found, ranks.device)
        dim = dim or feature_dim(built, known_side.shapes[0], ranks.device)
        _require_enough(known_side, made, extractor, dim, allow_few)
        reference, controls, measured_by = _reference(known_side, dataset, len(made), found, built, store, protocol)
        scores = mean_of([measure(features_of(made, built, ranks.device), reference, measured_by)])
    return Scored(
        real=known_side.place,
        generated=made.place,
        **scores.model_dump(exclude={"format"}),
        controls=controls,
        protocol=measured_by.model_dump(mode="json"),
        protocol_hash=measured_by.hash,
    )


def _extractor(
    asked: str | None, protocol: str | None, wanted: Named | None, dataset: Dataset | None, real: str
) -> str:
    """Which extractor it is to be. Raises InputError when there is no such, or it does not go with the rest."""
    points = dataset is not None and sampled(dataset.spec()).kind == "point"
    default = POINT_EXTRACTOR if points else wanted.extractor if wanted else STANDARD_EXTRACTOR
    extractor = known.check_name(asked or default)
    if wanted is not None and extractor != wanted.extractor:
        raise InputError(
            f"the extractor is {extractor}, and --protocol {protocol} fixes it at {wanted.extractor}; leave one of "
            "them out"
        )
    if points != (extractor == POINT_EXTRACTOR):
        raise InputError(f"--extractor {extractor} does not go with REAL {real}: points have `point`, images others")
    if extractor in known.OF_DATA and dataset is None:
        raise InputError(
            f"--extractor {extractor} is a classifier of a prepared data set, trained on a part of it that no score is "
            f"measured on, and REAL {real} is none: run `ganpipe prepare CONFIG` on these images and name the digest "
            "that it prints, or take another extractor"
        )
    return extractor


def _real(real: str, dataset: Dataset | None, wanted: Named | None, work: Path, settings: Settings) -> Images:
    most = wanted.n_reference if wanted else MAX_REFERENCE
    if dataset is not None:
        return of_dataset(dataset, "REAL", [wanted.reference_split if wanted else "train"], most)
    return open_images(real, "REAL", most, work, settings)


# --- what must go together ---------------------------------------------------------------------------------------


def _require_alike(real: Images, made: Images) -> None:
    """Unlike channels say that one side was saved in another way; unlike sizes, that one of them was resized."""
    shapes = {side: sorted(side.kinds) for side in (real, made)}
    if any(not kinds for kinds in shapes.values()):
        empty = next(side for side, kinds in shapes.items() if not kinds)
        raise InputError(f"{empty.side}: {empty.place} holds no images")
    (first, *more), (other, *others) = shapes[real], shapes[made]
    if len(first) != len(other):
        raise InputError(f"REAL ({real.place}) and GENERATED ({made.place}) are images and points; name two of a kind")
    if first[0] != other[0]:
        colours = {1: "grey", 3: "colour"}
        raise InputError(
            f"REAL ({real.place}) are {colours.get(first[0])} images, GENERATED ({made.place}) are "
            f"{colours.get(other[0])} images: their distance would be that of the colours; save both alike"
        )
    if not more and not others and first != other:
        raise InputError(
            f"REAL ({real.place}) are images of {_size(first)}, GENERATED ({made.place}) of {_size(other)}: what "
            "resizes one of them changes the score; bring both to one size"
        )
    for side, kinds in shapes.items():
        if len(kinds) > 1:
            log.warning(
                "%s has images of %d sizes, from %s to %s; the extractor resizes each by itself",
                side.side, len(kinds), _size(kinds[0]), _size(kinds[-1]),
            )  # fmt: skip


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[2]} x {shape[1]} px"


def _require_numbers(real: Images, made: Images, count: int | None, protocol: str | None, wanted: Named | None) -> None:
    if wanted is not None and protocol is not None:
        wanted.require(protocol, len(real), f"REAL ({real.place})")
    if count is not None and len(made) < count:
        asked = f"protocol {protocol}" if protocol else "--n"
        raise InputError(f"{asked} wants {count:,} images of GENERATED, and {made.place} has {len(made):,}")
    for side in (real, made):
        if len(side) < 2:
            raise InputError(f"{side.side}: {side.place} has {len(side)} image, two are the least of any score")


def _require_enough(real: Images, made: Images, extractor: str, dim: int | None, allow_few: bool) -> None:
    """A covariance of no more images than dimensions is singular, and a Frechet distance from it means little."""
    if allow_few or dim is None or min(len(real), len(made)) > dim:
        return
    raise InputError(
        f"{len(made):,} images of GENERATED against {len(real):,} of REAL are too few for the {dim:,} features of "
        f"extractor {extractor}: each side needs more than {dim:,}. Add images, take another extractor (--extractor), "
        "or give --allow-few to score all the same; the numbers mean little then"
    )


# --- measuring ---------------------------------------------------------------------------------------------------


def _reference(
    real: Images,
    dataset: Dataset | None,
    n_generated: int,
    weights: Weights,
    extractor: FeatureExtractorBase,
    store: Store,
    protocol: str | None,
) -> tuple[Reference, list[ControlScores], Protocol]:
    if dataset is not None:
        config = EvaluateConfig(protocol=protocol, extractor=weights.extractor, num_samples=n_generated)
        measured_by = todays_protocol(config, dataset, weights)
        return *reference_and_controls(dataset, measured_by, extractor, store, Ranks(), measured_real), measured_by
    measured_by = protocol_of(
        Counts(len(real), n_generated, n_generated),
        real.digest,
        weights,
        name=protocol,
        reference_split="all",
        control_split=None,
        classes_asked="uniform",
        resize=f"{known.resize(weights.extractor)}, every image from its own size",
    )
    return Reference.of(features_of(real, extractor, Ranks().device), measured_by), [], measured_by


@torch.no_grad()
def features_of(images: Images, extractor: FeatureExtractorBase, device: torch.device) -> Features:
    """Features of all images, in their order: those of one size together, CHUNK at a time.

    Raises WorkFailed for NaN or infinite features.
    """
    by_shape: dict[tuple[int, ...], list[int]] = {}
    for row, shape in enumerate(images.shapes):
        by_shape.setdefault(shape, []).append(row)
    chunks = [rows[part] for rows in by_shape.values() for part in chunked(len(rows), CHUNK)]
    found = []
    for rows in tqdm(chunks, images.side, unit="chunk", leave=False, disable=None):
        features, logits = extractor(images.read(rows).to(device))
        found.append((features.cpu(), logits.cpu()))
    back = torch.tensor([row for rows in chunks for row in rows]).argsort()
    features_ND, logits_NK = (torch.cat(parts)[back] for parts in zip(*found, strict=True))
    return require_finite(Features(features_ND, logits_NK, images.classes), extractor)
