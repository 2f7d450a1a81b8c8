"""`train.stop_on`: what snapshots' own samples say that ends a training early."""

from __future__ import annotations

import logging

import numpy as np
import torch
from torch import Tensor, nn

from .. import sample
from ..evaluate.diagnostics import duplicates
from ..evaluate.domain import pooled
from ..gans.base import GAN
from ..prepare.manifest import Dataset
from ..seeds import derive_seed
from .checkpoint import Progress

log = logging.getLogger(__name__)

SAMPLES = 256
"""At most, and as many training images, which say how near to one another images are."""
IN_A_ROW = 2
"""Snapshots that raise an alarm before a training ends by it: a generator that has just begun makes one image only."""


def looked_at(progress: Progress, gan: GAN, generator: nn.Module, dataset: Dataset, device: torch.device) -> Progress:
    """The progress, with the alarm that samples of the generator, in eval mode, raise now.

    Distances are between pixels, averaged to at most 32 a side: no extractor is there, and none is needed to tell that
    images are the same. The samples are of the same noise as ever.
    """
    real = torch.from_numpy(np.array(dataset.column("image", "train")[:SAMPLES]))
    images = sample.draw_images(gan, generator, derive_seed("stop_on"), len(real), device)
    alarm = duplicates(_pixels(images), _pixels(real))
    if not alarm.raised:
        return progress.model_copy(update={"alarm": "", "alarms_in_a_row": 0})
    sentence = f"alarm {alarm.name} at {progress.images_seen / 1000:.1f} kimg: {alarm.detail}"
    log.warning("%s", sentence)
    return progress.model_copy(update={"alarm": sentence, "alarms_in_a_row": progress.alarms_in_a_row + 1})


def over(progress: Progress) -> bool:
    """Whether the training ends by its alarms."""
    return progress.alarms_in_a_row >= IN_A_ROW


def _pixels(images_NCHW: Tensor) -> Tensor:
    return pooled(images_NCHW).flatten(1)
