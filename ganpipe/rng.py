"""Named random streams: randomness is an argument, never a global state.

A training draw is a pure function of (seed, images_seen, update, name) and of the row in the global batch, so it is the
same on any number of ranks and after any number of resumes. A sampling draw is a pure function of (seed, name, index).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .seeds import derive_seed


def generator_for(device: torch.device | str, *key: int | str) -> torch.Generator:
    """A fresh generator on `device`, seeded from the key."""
    return torch.Generator(device).manual_seed(derive_seed(*key))


@dataclass(frozen=True)
class StepRng:
    """Draws for one micro-batch of one update.

    Every method draws the whole global batch on `device` and returns this micro-batch's rows, (n, *shape).
    """

    seed: int
    images_seen: int
    update: str
    """Which update of the step: `d0`, `d1`, ..., `g0`."""
    global_batch: int
    rows: slice
    """Rows of the global batch that belong to this micro-batch."""
    device: torch.device

    def _generator(self, name: str) -> torch.Generator:
        return generator_for(self.device, "step", self.seed, self.images_seen, self.update, name)

    def normal(self, name: str, n: int, shape: Sequence[int] = ()) -> Tensor:
        """Standard normal, float32."""
        return torch.randn((self._global(n), *shape), generator=self._generator(name), device=self.device)[self.rows]

    def uniform(self, name: str, n: int, shape: Sequence[int] = ()) -> Tensor:
        """Uniform on [0, 1), float32."""
        return torch.rand((self._global(n), *shape), generator=self._generator(name), device=self.device)[self.rows]

    def integers(self, name: str, n: int, low: int, high: int, shape: Sequence[int] = ()) -> Tensor:
        """Uniform on low, ..., high - 1, int64."""
        generator = self._generator(name)
        return torch.randint(low, high, (self._global(n), *shape), generator=generator, device=self.device)[self.rows]

    def torch_seed(self) -> int:
        """Seed of the global torch generator for this micro-batch: dropout, and nothing else, draws from it."""
        return derive_seed("torch", self.seed, self.images_seen, self.update, self.rows.start)

    def _global(self, n: int) -> int:
        assert n == self.rows.stop - self.rows.start, "a step draws one row per row of its micro-batch"
        return self.global_batch


@dataclass(frozen=True)
class SampleRng:
    """Draws for samples: row i depends on (seed, name, indices[i]) alone, whatever else is in the batch.

    Always drawn on the CPU, so that a seed means the same picture on every device.
    """

    seed: int
    indices: Sequence[int]
    device: torch.device

    def normal(self, name: str, n: int, shape: Sequence[int] = ()) -> Tensor:
        """Standard normal, float32, (n, *shape)."""
        assert n == len(self.indices), "samples draw one row per index"
        rows = [
            torch.randn(tuple(shape), generator=generator_for("cpu", "sample", self.seed, name, i))
            for i in self.indices
        ]
        return torch.stack(rows).to(self.device)

    def integers(self, name: str, n: int, low: int, high: int, shape: Sequence[int] = ()) -> Tensor:
        """Uniform on low, ..., high - 1, int64, (n, *shape)."""
        assert n == len(self.indices), "samples draw one row per index"
        rows = [
            torch.randint(low, high, tuple(shape), generator=generator_for("cpu", "sample", self.seed, name, i))
            for i in self.indices
        ]
        return torch.stack(rows).to(self.device)
