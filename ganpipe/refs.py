"""What travels between stages: small JSON references, never a tensor or a model.

prepare -> DatasetRef -> train -> CheckpointRef -> evaluate -> EvalReport -> register -> ModelRef -> promote -> Decision
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict

FORMAT: Final = 1


class Ref(BaseModel):
    """Base of the references: frozen, versioned, JSON in and out."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=True, ser_json_inf_nan="strings"
    )

    format: Literal[1] = FORMAT
    """Version of this reference's shape."""


class DatasetRef(Ref):
    """A prepared data set in the store."""

    digest: str
    """Hex digest of content and preparation; names `datasets/<digest>/`."""
    rows: dict[str, int]
    """Number of rows by split: train, test, extractor; of unpaired data, of the table that has fewer there."""


class CheckpointRef(Ref):
    """A complete checkpoint in the store."""

    run_id: str
    images_seen: int
    """Real images that the discriminator had been shown."""
    prefix: str
    """Key prefix in the store: `runs/<run id>/checkpoints/<name>`."""
    generator_sha256: str
    """sha256 of its `generator.safetensors`."""

    @property
    def generator_key(self) -> str:
        return f"{self.prefix}/generator.safetensors"


class Scores(Ref):
    """What was measured of some images, by metric."""

    scores: dict[str, float]
    intervals: dict[str, tuple[float, float]] = {}
    """95 % interval of the value that many samples would have: of infinitely many where the bias goes with 1/n, else of
    very many sets of this size; see `evaluate/resampling.py`. None for scores that are not finite, or of few images."""
    by_class: dict[str, dict[str, float]] = {}
    """metric -> class -> the same of the images of one class, where there are enough; see `evaluate/by_class.py`."""


class ControlScores(Scores):
    """The same metrics on something that is no GAN, under the same protocol."""

    name: str
    """`real` (held-out images: the floor), `pca_gaussian`, or `resampled_train` (a memoriser). Of translations also
    `identity` (the source), `constant_mean` (of the targets) and, where it means something, `inversion`."""
    n: int
    """Images scored. Of `real` as many as of the generated side where the split holds them: a Frechet distance falls
    with n, even one between equals, so that only a floor of the same n is one."""


class SnapshotScores(Scores):
    """Scores of one snapshot: mean over the sample seeds, and each seed's own value."""

    checkpoint: CheckpointRef
    by_seed: dict[str, list[float]]
    """metric -> one value per sample seed, in the order of `seeds`."""
    seeds: list[int]
    by_half: dict[str, list[float]] = {}
    """Of translations, which are of the same images on every seed: metric -> value on each balanced half of these."""


class Alarm(Ref):
    """One question whether a generator is broken, and the answer; see `evaluate/diagnostics.py`."""

    name: Literal["duplicates", "missing_class", "memorised", "low_quality"]
    raised: bool
    statistic: float | None
    """A share of the samples; None when the question has no answer."""
    threshold: float | None
    """`duplicates` and `memorised` are raised above it, the others below."""
    detail: str
    """The numbers, in one sentence."""
    pairs: list[tuple[int, int]] = []
    """The worst examples by number: two samples (`duplicates`), or a sample and a training image (`memorised`)."""


class ClassShare(Ref):
    """How frequent a class is."""

    name: str
    real: float
    generated: float


class Diagnostics(Ref):
    """All alarms of one generator's samples, whether raised or not."""

    generated: int
    """Samples that were looked at, of all sample seeds in their order."""
    held_out: int
    """Held-out real images that said what is usual."""
    alarms: list[Alarm]
    kind: str
    """`classes` where there are labels, else `clusters`."""
    classes: list[ClassShare]

    @property
    def raised(self) -> list[Alarm]:
        return [alarm for alarm in self.alarms if alarm.raised]

    def alarm(self, name: str) -> Alarm:
        return next(alarm for alarm in self.alarms if alarm.name == name)


class EvalReport(Ref):
    """All snapshots of a run on the selection seeds, the best again on the scoring seeds."""

    run_id: str
    dataset_digest: str
    protocol: dict[str, Any]
    """The full protocol; see `evaluate/protocol.py`."""
    protocol_hash: str
    metric: str
    """What the best snapshot was chosen by."""
    snapshots: list[SnapshotScores]
    """Every snapshot, oldest first, on the selection seeds."""
    best: SnapshotScores
    """The best one, on the scoring seeds."""
    controls: list[ControlScores]
    diagnostics: Diagnostics | None = None
    """Of the best snapshot's samples; None of points, of NaN, and in reports from before there were alarms."""

    def control(self, name: str) -> ControlScores:
        return next(control for control in self.controls if control.name == name)


class ScoreSheet(Ref):
    """Several checkpoints, of one run or of many, on common seeds under today's protocol: what the gate compares."""

    protocol: dict[str, Any]
    """The full protocol; see `evaluate/protocol.py`."""
    protocol_hash: str
    metric: str
    """What the asking configuration compares by."""
    snapshots: list[SnapshotScores]
    """In the order of the question."""
    controls: list[ControlScores]
    diagnostics: Diagnostics | None = None
    """Of the first one's samples; None of points and of NaN."""


class ModelRef(Ref):
    """A registered version of a product."""

    product: str
    version: str
    checkpoint: CheckpointRef
    dataset_digest: str
    tracking_run_id: str
    """MLflow's id of the run that the version belongs to."""
    config_digest: str
    created: datetime


class Check(Ref):
    """One question that the gate asked."""

    name: str
    passed: bool
    detail: str
    """The numbers, in one sentence."""


class Decision(Ref):
    """What the gate decided, with all that it decided on."""

    product: str
    promoted: bool
    reason: str
    """One sentence for people."""
    candidate: ModelRef
    champion: ModelRef | None
    """The champion at the time of the question; None when there was none."""
    metric: str
    protocol_hash: str
    candidate_scores: SnapshotScores | None
    champion_scores: SnapshotScores | None
    controls: list[ControlScores]
    checks: list[Check]
    decided: datetime
    by: str
    """user@host"""
    where: str
    """Command or flow run that asked."""
