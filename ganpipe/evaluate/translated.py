"""Scores of generators that translate: every direction is measured against the real images of its target side.

Test image i of the source side is what sample i is made of. Beside the scores of any images stands what a translation
has besides: its source, whose class it should show, its target where that is known (`partners.py`), and the way back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch_fidelity import FeatureExtractorBase

from ..evaluateconfig import EvaluateConfig
from ..launch import StopSignal
from ..prepare.manifest import Dataset
from ..ranks import Ranks
from ..refs import CheckpointRef, ControlScores, Diagnostics
from ..rng import generator_for
from ..sample import LoadedGenerator, to_float, to_uint8, translate
from ..settings import Settings
from ..spec import Direction
from ..storage import Store
from ..ways import Way, translations, ways_of
from . import domain, partners
from .controls import reference_and_controls
from .diagnostics import Real, diagnose
from .exhibits import Exhibits, pictured
from .extractors import build_extractor, feature_dim, find_weights
from .fidelity import Features, NotFinite, extract, require_enough, rows_of, todays_protocol
from .metrics import ONE_WAY, base_name, one_way
from .protocol import Protocol, check_translations
from .resampling import Estimate
from .scorer import Job, Scorer, Seen
from .scores import Measured, Reference, mean_of, measure_all

MEAN_IMAGES = 4096
"""Most training images that the constant mean is of."""
SHOWN = 12
"""Translations of each direction in a report."""
UNJUDGED = "missing_class"
"""The alarm that unpaired data give no cause for: the sides may well differ in how frequent a class is."""


@dataclass(frozen=True)
class Side:
    """One direction, and all that it is measured by."""

    way: Way
    protocol: Protocol
    extractor: FeatureExtractorBase
    reference: Reference
    controls: list[ControlScores]


@dataclass(frozen=True)
class TranslationScorer(Scorer):
    """Scores checkpoints of translators, in every direction that the data have."""

    INDEPENDENT_SEEDS = False
    sides: tuple[Side, ...] = ()
    newest: dict[Direction, tuple[str, Features]] = field(default_factory=dict)
    """Prefix of the checkpoint translated with last, and what it made: without noise the same on every seed."""

    @classmethod
    def prepare(
        cls, config: EvaluateConfig, digest: str, store: Store, settings: Settings, stop: StopSignal | None = None
    ) -> TranslationScorer:
        ranks = Ranks()
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False  # the protocol says fp32
        dataset = Dataset.open(store, digest)
        found = _with_counts(ways_of(dataset), config)
        for way, own in found:
            require_enough(own, way.view())
        sides = []
        for way, own in found:
            view = way.view()
            weights = ranks.main_first(partial(find_weights, config.extractor, view, store, settings))
            extractor = build_extractor(weights, ranks.device)
            require_enough(own, view, feature_dim(extractor, view.spec()["image"].shape, ranks.device))
            likeness = None if way.partners is None else partners.likeness()
            protocol = todays_protocol(own, view, weights).model_copy(
                update={"direction": way.direction, "likeness": likeness}
            )
            compute = partial(measured_real, way)
            reference, controls = reference_and_controls(view, protocol, extractor, store, ranks, compute)
            sides.append(Side(way, protocol, extractor, reference, controls))
        first, *rest = sides
        return cls(
            first.protocol.model_copy(update={"back": rest[0].protocol}) if rest else first.protocol,
            first.extractor,
            first.reference,
            controls_of_both({side.way.direction: side.controls for side in sides}) if rest else first.controls,
            dataset,
            store,
            ranks,
            stop or StopSignal(),
            tuple(sides),
        )

    def _measured(self, jobs: Sequence[Job], what: str) -> list[Measured]:
        rows: dict[Direction, list[Measured]] = {}
        for side in self.sides:
            sets = [partial(self._translated, side, *job) for job in jobs]
            said = f"{what} {side.way.direction}" if len(self.sides) > 1 else what
            rows[side.way.direction] = measure_all(sets, side.reference, side.protocol, self.ranks, said)
        if len(rows) == 1:
            return next(iter(rows.values()))
        return [of_both(dict(zip(rows, both, strict=True))) for both in zip(*rows.values(), strict=True)]

    def _translated(
        self,
        side: Side,
        load: Callable[[CheckpointRef], LoadedGenerator],
        checkpoint: CheckpointRef,
        seed: int,
        seen: Seen | None,
    ) -> Features:
        """Of the translations of test images 0, ..., n_generated - 1. Raises NotFinite when there are none."""
        loaded, direction = load(checkpoint), side.way.direction
        before, features = self.newest.get(direction, ("", None))
        if features is None or before != checkpoint.prefix or loaded.gan.noisy():
            features = self._features_of(loaded, checkpoint, side, seed)
            self.newest[direction] = checkpoint.prefix, features
        if seen is not None:
            seen[seed] = (*seen.get(seed, ()), features)
        return features

    def _features_of(self, loaded: LoadedGenerator, checkpoint: CheckpointRef, side: Side, seed: int) -> Features:
        way = side.way
        sources, answers = rows_of(way.images(way.sources, "test")), _answers(way)
        back = next((direction for direction in loaded.directions if direction != way.direction), None)
        found: dict[int, dict[str, Tensor]] = {}

        def images(rows: slice) -> Tensor:
            given = sources(rows)
            options = loaded.gan, loaded.module, seed, range(rows.start, rows.stop)
            made = translate(*options, given, way.direction, self.ranks.device, side.protocol.chunk)
            if not made.isfinite().all():
                raise NotFinite
            shown = to_uint8(made)
            beside = {} if answers is None else partners.beside(shown, answers(rows).to(shown.device))
            if back is not None:
                returned = translate(*options, shown.cpu(), back, self.ranks.device, side.protocol.chunk)
                beside |= partners.there_and_back(to_float(given), returned.cpu())
            found[rows.start] = beside
            return shown

        try:
            n = side.protocol.n_generated
            features = extract(side.extractor, n, images, self.ranks, "translations", self.stop)
        except NotFinite:
            self.warn_of(checkpoint)
            raise
        return _with_answers(features, way, self.ranks, found)

    def diagnose(self, seen: Seen, sample_seeds: list[int]) -> Diagnostics | None:
        """Alarms of all directions: of each the raised one, or the first."""
        if any(len(seen.get(seed, ())) < len(self.sides) for seed in sample_seeds):
            return None
        found = []
        for number, side in enumerate(self.sides):
            real, view = Real(*side.reference.trained_on(side.protocol)), side.way.view()
            if (label := view.spec().get("label")) is not None:
                labels = view.column("label", "train")[: len(real.train_ND)]
                real = replace(real, labels_N=torch.from_numpy(np.array(labels)), names=label.vocabulary or ())
            # Translations of one image by several seeds may well be equal: one seed stands for all.
            generated_ND = seen[sample_seeds[0]][number].features_ND
            found.append(self.ranks.from_main(partial(diagnose, generated_ND, real)))
        if len(found) == 1:
            return found[0]
        alarms = []
        for pair in zip(*(one.alarms for one in found), strict=True):
            worse = next((alarm for alarm in pair if alarm.raised), pair[0])
            direction = self.sides[pair.index(worse)].way.direction
            if worse.name != UNJUDGED:
                alarms.append(worse.model_copy(update={"detail": f"{direction}: {worse.detail}"}))
        return found[0].model_copy(update={"alarms": alarms, "classes": []})

    def exhibits(self, checkpoint: CheckpointRef, seen: Seen, seed: int) -> Exhibits | None:
        if seed not in seen:
            return None
        loaded = self._load(checkpoint)
        made = []
        for side in self.sides:
            sheet_NKCHW = translations(loaded.gan, loaded.module, side.way, seed, SHOWN, self.ranks.device)
            columns = sheet_NKCHW.swapaxes(0, 1)  # one row of sources, one of translations, one of targets
            made.append((side.way.direction, pictured(np.concatenate(columns), len(sheet_NKCHW))))
        return Exhibits(seed, translations=made)


# --- both directions ---------------------------------------------------------------------------------------------


def of_both(measured: Mapping[Direction, Measured]) -> Measured:
    """Scores of two directions: the mean of each metric that both have, and some of each direction by its own name.

    What one direction's images are like says nothing of the other's: their errors are independent.
    """
    here, there = measured.values()
    scores: dict[str, float] = {}
    estimates: dict[str, Estimate] = {}
    for name in here.scores.keys() & there.scores.keys():
        scores[name] = (here.scores[name] + there.scores[name]) / 2
    for name in here.estimates.keys() & there.estimates.keys():
        one, other = here.estimates[name], there.estimates[name]
        error = math.hypot(one.error, other.error) / 2
        turned = (*other.halves[1:], *other.halves[:1])  # halves of unlike blocks, which vary independently
        halves = tuple((a + b) / 2 for a, b in zip(one.halves, turned, strict=True)) if one.halves and turned else ()
        estimates[name] = Estimate((one.centre + other.centre) / 2, error, min(one.freedom, other.freedom), halves)
    classes: dict[str, dict[str, float]] = {}
    for direction, of_way in measured.items():
        for name, value in of_way.scores.items():
            if base_name(name) in ONE_WAY:
                scores[one_way(name, direction)] = value
        for name, spread in of_way.estimates.items():
            if base_name(name) in ONE_WAY:
                estimates[one_way(name, direction)] = spread
        classes |= {one_way(name, direction): by_name for name, by_name in of_way.by_class.items()}
    order = [*here.scores, *(name for name in scores if name not in here.scores)]
    return Measured({name: scores[name] for name in order if name in scores}, estimates, classes)


def controls_of_both(controls: Mapping[Direction, list[ControlScores]]) -> list[ControlScores]:
    """The mean of each control, which both directions have, and of each direction as `of_both` names them."""
    found = []
    for pair in zip(*controls.values(), strict=True):
        both = of_both(
            {
                direction: Measured(control.scores, {}, control.by_class)
                for direction, control in zip(controls, pair, strict=True)
            }
        )
        intervals = {
            one_way(name, direction): reach
            for direction, control in zip(controls, pair, strict=True)
            for name, reach in control.intervals.items()
            if base_name(name) in ONE_WAY
        }
        n = min(control.n for control in pair)
        found.append(
            ControlScores(name=pair[0].name, n=n, scores=both.scores, intervals=intervals, by_class=both.by_class)
        )
    return found


# --- one direction -----------------------------------------------------------------------------------------------


def _with_counts(found: Sequence[Way], config: EvaluateConfig) -> list[tuple[Way, EvaluateConfig]]:
    """Each direction with as many translations as it has test images to translate, or as are asked for.

    Raises InputError as `check_translations` does.
    """
    counts = [len(way.images(way.sources, "test")) for way in found]
    check_translations(config, counts)
    asked = config.num_samples or max(counts)
    return [
        (way, config.model_copy(update={"num_samples": min(asked, n)})) for way, n in zip(found, counts, strict=True)
    ]


def _answers(way: Way) -> Callable[[slice], Tensor] | None:
    return None if way.partners is None else rows_of(way.images(way.partners, "test"))


def _with_answers(features: Features, way: Way, ranks: Ranks, found: dict[int, dict[str, Tensor]]) -> Features:
    """With the class that each translation should show, and how it compares, from the chunks of all ranks."""
    labels = way.labels("test")
    parts = {start: part for of_rank in ranks.gather(found) for start, part in of_rank.items()}
    in_order = [parts[start] for start in sorted(parts)]
    beside = {name: torch.cat([part[name] for part in in_order]) for name in in_order[0]}
    classes = None if labels is None else labels[: len(features)]
    return replace(features, classes=classes, beside=beside)


def measured_real(
    way: Way, dataset: Dataset, protocol: Protocol, extractor: FeatureExtractorBase, ranks: Ranks
) -> tuple[Reference, list[ControlScores]]:
    """The real side of a direction, and what is no translator: held-out real targets (the floor), the source as it is
    (`identity`), the mean target, training targets at random (which know nothing of the source), and, where the answer
    for unpaired data is known, the source's negative."""
    real = way.images(way.targets, protocol.reference_split)[: protocol.n_reference]
    others = way.images(way.targets, protocol.held_out)[: protocol.n_generated]
    known = extract(extractor, len(real), rows_of(real), ranks, "real images")
    held_out = extract(extractor, len(others), rows_of(others), ranks, "held-out images")
    classes = domain.class_names(dataset) if protocol.extractor == "domain" else ()
    if classes:
        held_out = replace(held_out, classes=domain.labels_of(way.view(), protocol.held_out)[: len(held_out)])
    reference = Reference.of(known, protocol, held_out, classes)
    train = real if protocol.reference_split == "train" else others
    sources, answers, n = rows_of(way.images(way.sources, "test")), _answers(way), protocol.n_generated
    mean_CHW = torch.from_numpy(train[:MEAN_IMAGES].mean(0)).round().to(torch.uint8)

    def random_targets(index: int, rows: slice) -> Tensor:
        generator = generator_for("cpu", "control", "resampled_train", index)
        drawn = torch.randint(len(train), (n,), generator=generator)
        return torch.from_numpy(np.array(train[drawn[rows].numpy()]))

    makers: dict[str, list[Callable[[slice], Tensor]]] = {
        "identity": [sources],
        "constant_mean": [lambda rows: mean_CHW.expand(rows.stop - rows.start, -1, -1, -1).clone()],
        "resampled_train": [partial(random_targets, index) for index in range(protocol.controls.draws)],
    }
    if answers is not None and way.partners != way.targets:
        makers["inversion"] = [lambda rows: 255 - sources(rows)]

    def features_of(maker: Callable[[slice], Tensor], what: str) -> Features:
        found: dict[int, dict[str, Tensor]] = {}

        def images(rows: slice) -> Tensor:
            made = maker(rows)
            found[rows.start] = {} if answers is None else partners.beside(made, answers(rows))
            return made

        return _with_answers(extract(extractor, n, images, ranks, what), way, ranks, found)

    named = [("real", lambda: held_out)]
    named += [(name, partial(features_of, maker, name)) for name, of_name in makers.items() for maker in of_name]
    measured = measure_all([make for _, make in named], reference, protocol, ranks, "controls")
    rows: dict[str, list[Measured]] = {}
    for (name, _), one in zip(named, measured, strict=True):
        rows.setdefault(name, []).append(one)
    counts = {"real": len(held_out)}
    return reference, [
        ControlScores(name=name, n=counts.get(name, n), **mean_of(of_name).model_dump(exclude={"format"}))
        for name, of_name in rows.items()
    ]
