"""The `triples` extractor of stacked digits: reads the digit in each channel, and how sure that is.

It is trained once per data set, on the digits of the `train` and `extractor` splits, and no GAN's training sees it. It
is the mean of several networks, so that its confidence hangs less on one network's seed.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from ..errors import InputError
from ..prepare.manifest import Dataset
from ..seeds import derive_seed
from ..spec import holds_triples
from ..storage import Store
from . import kept, known
from .domain import FEATURES, DomainNetwork, fit, one_thread, pooled

log = logging.getLogger(__name__)

FORMAT = 1
DIGITS = 10
MEMBERS = 3
STEPS = 600
READ = 2048
"""Most triples of a split that the reader is trained on: each digit is in several of them."""
UNSURE = 0.05
"""Share of held-out digits that are read with less confidence than the threshold, which is this quantile of theirs."""


class TripleReader(nn.Module):
    """float images in [-1, 1], (N, 3, side, side) -> features (N, 96), log probabilities (N, 3, 10).

    Features are the first member's; probabilities are the members' mean.
    """

    def __init__(self, side: int, members: int):
        super().__init__()
        self.members = nn.ModuleList(DomainNetwork(1, side, DIGITS) for _ in range(members))

    def forward(self, images_N3HW: Tensor) -> tuple[Tensor, Tensor]:
        n = len(images_N3HW)
        read = [member(images_N3HW.flatten(0, 1)[:, None]) for member in self.members]
        features_TD = read[0][0]
        probabilities_MTK = torch.stack([logits_TK.softmax(1) for _, logits_TK in read])
        return features_TD.reshape(n, 3 * FEATURES), probabilities_MTK.mean(0).log().reshape(n, 3, DIGITS)


def get_or_train(dataset: Dataset, store: Store) -> tuple[Path, str]:
    """Local file and sha256 of the data set's reader; see `kept.get_or_train`."""
    return kept.get_or_train(known.TRIPLES, dataset, store, train)


def load(path: Path | str) -> tuple[TripleReader, float]:
    """The reader in eval mode, and its threshold: the log of a probability."""
    with safe_open(path, "pt") as file:
        metadata = json.loads(file.metadata()["ganpipe"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    reader = TripleReader(metadata["side"], metadata["members"])
    reader.load_state_dict(tensors)
    return reader.requires_grad_(False).eval(), metadata["log_threshold"]


def train(dataset: Dataset) -> tuple[bytes, dict[str, Any]]:
    """A trained reader as safetensors, and facts about it: digits it was trained on, shares of held-out triples and
    digits that are read right, the probability above which a reading is as sure as most of real digits.

    The same data set gives the same bytes. Raises InputError when the data are no stacked digits.
    """
    if not holds_triples(dataset.spec()):
        raise InputError(
            f"the extractor triples reads stacked digits, and data set {dataset.digest[:12]} holds none; take another "
            "evaluate.extractor"
        )
    parts = [_rows(dataset, split, READ) for split in ("train", "extractor")]
    images_N3HW, digits_N3 = (torch.cat(sides) for sides in zip(*parts, strict=True))
    reader = TripleReader(images_N3HW.shape[-1], MEMBERS)
    with one_thread(), torch.random.fork_rng(devices=[]):
        for number in range(MEMBERS):
            torch.manual_seed(derive_seed("triple-reader", number))
            member = DomainNetwork(1, images_N3HW.shape[-1], DIGITS)
            draws = torch.Generator().manual_seed(derive_seed("triple-reader", number, "batches"))
            fit(member, images_N3HW.flatten(0, 1)[:, None], digits_N3.flatten(), STEPS, draws)
            reader.members[number] = member
        known_N3HW, truth_N3 = _rows(dataset, "test", len(dataset.column("label", "test")))
        with torch.no_grad():
            log_N3K = torch.cat([reader.eval()(part)[1] for part in known_N3HW.split(256)])
    best_N3, digit_N3 = log_N3K.max(2)
    log_threshold = float(np.quantile(best_N3.numpy(), UNSURE))
    right_N3 = digit_N3 == truth_N3
    facts = {
        "images": len(images_N3HW),
        "test_accuracy": round(right_N3.all(1).double().mean().item(), 4),
        "digit_accuracy": round(right_N3.double().mean().item(), 4),
        "threshold": round(float(np.exp(log_threshold)), 4),
    }
    log.info("trained the reader of triples: %s", ", ".join(f"{name} {value}" for name, value in facts.items()))
    metadata = {
        "format": FORMAT,
        "kind": "triple-reader",
        "side": images_N3HW.shape[-1],
        "members": MEMBERS,
        "log_threshold": log_threshold,
    }
    return save(reader.state_dict(), {"ganpipe": json.dumps(metadata)}), facts


def _rows(dataset: Dataset, split: str, most: int) -> tuple[Tensor, Tensor]:
    """Pooled images of a split, and the digits in their channels, (N, 3)."""
    images = torch.from_numpy(np.array(dataset.column("image", split)[:most]))
    modes = torch.from_numpy(np.array(dataset.column("label", split)[:most]))
    return pooled(images), torch.stack([modes // 100, modes // 10 % 10, modes % 10], 1)
