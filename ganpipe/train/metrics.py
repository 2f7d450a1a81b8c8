"""Metrics of a running training: kept on the device, read once per line, written to `metrics.jsonl` first."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..errors import WorkFailed


class NonFinite(WorkFailed):
    """A loss or gradient became NaN or infinite."""


class MetricsLog:
    """Collects scalars without a host sync, and writes their means as one JSON line.

    A line is {"images_seen": int, "seconds": float, "metrics": {name: float}}.
    """

    def __init__(self, path: Path | None, images_seen: int):
        """`path` is None for a rank that only collects."""
        self.path = path
        self.pending: dict[str, list[Tensor]] = {}
        self.steps: dict[str, list[int]] = {}
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
            _forget_after(path, images_seen)

    def add(self, values: Mapping[str, Tensor], step: int) -> None:
        """Remember scalar tensors of step number `step`."""
        for name, value in values.items():
            self.pending.setdefault(name, []).append(value)
            self.steps.setdefault(name, []).append(step)

    def means(self) -> dict[str, float]:
        """Mean of each term since the last call. Raises NonFinite naming the first bad step and its term."""
        read = {name: torch.stack(values).double().cpu() for name, values in self.pending.items()}
        bad = [
            (self.steps[name][int(torch.nonzero(~values.isfinite())[0])], name)
            for name, values in read.items()
            if not values.isfinite().all()
        ]
        self.pending.clear()
        self.steps.clear()
        if bad:
            step, name = min(bad)
            raise NonFinite(
                f"{name} was not finite at step {step} (terms affected: {', '.join(sorted(name for _, name in bad))}). "
                "The last checkpoint is intact; lower train.optimizers' learning rates, or try train.precision fp32"
            )
        return {name: float(values.mean()) for name, values in read.items()}

    def write(self, images_seen: int, seconds: float, metrics: Mapping[str, float]) -> None:
        """Append one line; it is on its way to the disk when this returns."""
        assert self.path is not None and all(map(math.isfinite, metrics.values()))
        line = {"images_seen": images_seen, "seconds": round(seconds, 3), "metrics": dict(metrics)}
        with self.path.open("a") as stream:
            stream.write(json.dumps(line) + "\n")


def _forget_after(path: Path, images_seen: int) -> None:
    """Drop lines that a resumed run will write again, and a line that was cut off."""
    kept = []
    for line in path.read_text().splitlines():
        try:
            if json.loads(line)["images_seen"] <= images_seen:
                kept.append(line + "\n")
        except (ValueError, KeyError, TypeError):
            continue
    temporary = path.with_suffix(".partial")
    temporary.write_text("".join(kept))
    temporary.replace(path)
