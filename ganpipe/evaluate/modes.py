"""Data whose modes are known: how many were reached, how well, how evenly.

Points have modes in the plane, stacked digits have 1,000; here is also what makes points that are no GAN's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..spec import MODES_OF_TRIPLES

HIGH_QUALITY_SIGMAS = 3
"""Within so many standard deviations of a mode's centre a sample is of high quality (arXiv:1705.07761, Sec. 4.1)."""
REACHED_SHARE = 0.1
"""A mode is reached from this share of its fair share of the samples on; one lucky sample is not enough."""


def mode_scores(distances_NM: Tensor) -> dict[str, float]:
    """Scores of N samples by their distances to the M modes' centres, in standard deviations of a mode.

    `high_quality`: share of samples near a mode (of the mixture's own: 1 - exp(-9 / 2) = 0.989). `modes`: number of
    modes that have at least a tenth of N / M such samples. `mode_overlap`: share of samples near a mode, of each mode
    at most its fair 1 / M: what the generator's and the mixture's histograms over modes have in common.
    """
    nearest_N, mode_N = distances_NM.min(1)
    samples, modes = distances_NM.shape
    good_N = nearest_N <= HIGH_QUALITY_SIGMAS
    share_M = torch.bincount(mode_N[good_N], minlength=modes).double() / samples
    return {
        "mode_overlap": float(share_M.clamp(max=1 / modes).sum()),
        "modes": float((share_M >= REACHED_SHARE / modes).sum()),
        "high_quality": float(good_N.double().mean()),
    }


def triple_scores(log_ratios_ND: Tensor) -> dict[str, float]:
    """Scores of N stacked digits by what `triples.py` reads: (N, 30), ten digits for each of three channels, the log of
    each digit's probability over that of the threshold.

    `modes`: how many of the 1,000 triples are read at least once, whatever the confidence. `mode_kl`: Kullback-Leibler
    divergence of the histogram of triples read from the data's, in nats (arXiv:1611.02163, Sec. 3.3); in the data all
    triples are equally likely, so that it is log 1000 less the histogram's entropy. N samples of the data itself have
    about 999 / 2N. `confident`: share of samples of which all three channels are read above the threshold, as 95 %
    of the channels of held-out real images are.
    """
    best_N3, digit_N3 = log_ratios_ND.unflatten(1, (3, 10)).max(2)
    mode_N = (digit_N3 * torch.tensor([100, 10, 1])).sum(1)
    share_M = torch.bincount(mode_N, minlength=len(MODES_OF_TRIPLES)).double() / len(mode_N)
    return {
        "modes": float((share_M > 0).sum()),
        "mode_kl": math.log(len(share_M)) - float(torch.special.entr(share_M).sum()),
        "confident": float((best_N3 >= 0).all(1).double().mean()),
    }


@dataclass(frozen=True)
class PointGaussian:
    """A normal distribution over points: the `pca_gaussian` control, with all principal components."""

    mean_D: Tensor
    factor_DD: Tensor
    """A root of the covariance."""

    @classmethod
    def fit(cls, points_ND: np.ndarray) -> PointGaussian:
        points = torch.from_numpy(np.array(points_ND, np.float64))
        return cls(points.mean(0).float(), torch.linalg.cholesky(torch.cov(points.T)).float())

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """n points, float32 (n, D)."""
        return self.mean_D + torch.randn(n, len(self.mean_D), generator=generator) @ self.factor_DD.T
