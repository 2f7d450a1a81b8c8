"""The same scores class by class: what a generator makes badly, or leaves out, is lost in a mean over all.

The domain extractor tells which class an image shows, of real and of generated images alike, so that both sides are
misread alike. Samples that were asked for are of the class asked for, whatever they show: a generator that takes one
class for another is bad at both.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .frechet import frechet_distance, moments
from .metrics import metric_name
from .resampling import KERNEL_ROWS, cubic_kernel, unbiased_mean


def by_class(
    generated: tuple[Tensor, Tensor],
    real: tuple[Tensor, Tensor],
    recalled_M: Tensor,
    classes: tuple[str, ...],
    extractor: str,
    least: int,
) -> dict[str, dict[str, float]]:
    """metric -> class -> score, of features (N, D) and class numbers (N,) of either side; `classes` are their names.

    recall: share of a class's real images within the generated manifold of all classes, from `least` of them on.
    kid: the unbiased squared MMD of the class's images, at most 2,000 a side, from `least` on either side on.
    fid: from more than 2 D on either side on; of fewer it is bias.
    """
    found: dict[str, dict[str, float]] = {base: {} for base in ("recall", "kid", "fid")}
    (made_ND, made_class_N), (real_MD, real_class_M) = generated, real
    enough_for_fid = 2 * made_ND.shape[1]
    for number, name in enumerate(classes):
        made, known = made_ND[made_class_N == number], real_MD[real_class_M == number]
        if len(known) < max(2, least):
            continue
        found["recall"][name] = float(recalled_M[real_class_M == number].double().mean())
        if len(made) < max(2, least):
            continue
        found["kid"][name] = _squared_mmd(made[:KERNEL_ROWS].double(), known[:KERNEL_ROWS].double())
        if min(len(made), len(known)) > enough_for_fid:
            found["fid"][name] = frechet_distance(made, *moments(known))
    return {metric_name(base, extractor): scores for base, scores in found.items() if scores}


def _squared_mmd(generated_ND: Tensor, real_MD: Tensor) -> float:
    """Eq. 4 of arXiv:1801.01401."""
    within = sum(unbiased_mean(cubic_kernel(rows, rows)) for rows in (generated_ND, real_MD))
    return within - 2 * float(torch.mean(cubic_kernel(generated_ND, real_MD)))
