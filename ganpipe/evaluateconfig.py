"""The `evaluate` section: by what protocol snapshots are scored."""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator, model_validator

from .options import Section


class EvaluateConfig(Section):
    """Stage 3: from checkpoints to scores."""

    protocol: str | None = None
    """A named protocol: `fid50k-train`, `fid10k-train` or `fid10k-test`. It fixes `extractor` and `num_samples`, and
    which images are measured against; null: training images, at most 50,000."""
    extractor: str = "domain"
    """Features: torch-fidelity's `inception`, or `domain`, a small classifier trained on the data's own extractor
    split; any other extractor of torch-fidelity (`vgg16`, `clip-vit-b-32`, `dinov2-vit-b-14`, ...), or a torch module
    as `package.module:factory`. Points have `point`, their default: the coordinates themselves; stacked
    digits `triples`, theirs, which reads the digit in each channel."""
    num_samples: int | None = Field(None, ge=2)
    """Images on the generated side of each score; null: as many as there are held-out images, the floor."""
    select_seeds: int = Field(1, ge=1, le=100)
    """Sample seeds that every snapshot is scored with, to find the best."""
    score_seeds: int = Field(5, ge=1, le=100)
    """Other sample seeds that the best snapshot is scored with, and candidate and champion by the gate."""
    allow_few: bool = False
    """Score even when there are fewer images than the feature dimension supports; the numbers mean little then."""

    @field_validator("extractor")
    @classmethod
    def _known_extractor(cls, value: str) -> str:
        from .evaluate.known import check_name

        return check_name(value)  # an InputError is a ValueError

    @model_validator(mode="before")
    @classmethod
    def _as_the_protocol_says(cls, value: Any) -> Any:
        from .evaluate.protocol import with_fixed

        return with_fixed(value)
