"""What the tests of augmentation augment, and the draws that they do it with."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ganpipe.augment import Augment
from ganpipe.augmentconfig import AugmentConfig
from ganpipe.rng import StepRng

CPU = torch.device("cpu")


def rng(n: int, rows: slice | None = None) -> StepRng:
    return StepRng(seed=3, images_seen=64, update="d0", global_batch=n, rows=rows or slice(0, n), device=CPU)


def augment(p: float = 1.0, **section: Any) -> Augment:
    made = Augment(AugmentConfig.model_validate({**section, "p": p}), 16, CPU)
    made.schedule(0)
    return made


def pictures(n: int, channels: int = 3, side: int = 16, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(n, channels, side, side, generator=torch.Generator().manual_seed(n), dtype=dtype) * 2 - 1
