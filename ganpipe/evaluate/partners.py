"""Translations beside what they should have become: how far from it by pixels, by structure, by what a network sees.

`l1` is the mean absolute difference on [-1, 1]; `psnr` the peak signal-to-noise ratio in dB, of the mean squared error
over all pixels of all images; `ssim` the mean structural similarity (Wang et al. 2004: Gaussian windows of 11 pixels,
for images of fewer pixels plain ones of 7) by scikit-image; `lpips` the distance in the features of VGG16
(arXiv:1801.03924) by torch-fidelity, where its weights are in torch's cache already.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
from pathlib import Path

import numpy as np
import torch
from skimage.metrics import structural_similarity
from torch import Tensor

from .metrics import CYCLE

LPIPS_FILES = ("weights-vgg16-lpips.pth", "vgg16-397923af.pth")
"""In torch's cache: of the releases of torch-fidelity, and of download.pytorch.org/models."""
LPIPS_SIDE = 16
"""VGG16 halves images four times."""
WINDOW, SMALL_WINDOW = 11, 7
PEAK = 255
SQUARED = "squared"
"""Rows that `psnr` is made of."""


def likeness() -> str:
    """What is measured, and by which versions: part of a protocol."""
    lpips = ""
    if lpips_is_there():
        digests = " and ".join(hashlib.sha256(path.read_bytes()).hexdigest()[:8] for path in _lpips_files())
        lpips = f", LPIPS of torch-fidelity {importlib.metadata.version('torch-fidelity')} by {digests}"
    return f"scikit-image {importlib.metadata.version('scikit-image')}{lpips}"


def beside(made_NCHW: Tensor, partners_NCHW: Tensor) -> dict[str, Tensor]:
    """Base name -> (N,), a number for each of the uint8 images, float64 on the CPU; SQUARED in the place of `psnr`."""
    difference = (made_NCHW.double() - partners_NCHW.double()).flatten(1).cpu()
    rows = {
        "l1": difference.abs().mean(1) * (2 / PEAK),
        SQUARED: difference.square().mean(1),
        "ssim": torch.tensor(
            [_similarity(*pair) for pair in zip(made_NCHW.cpu().numpy(), partners_NCHW.cpu().numpy(), strict=True)],
            dtype=torch.float64,
        ),
    }
    if lpips_is_there() and min(made_NCHW.shape[2:]) >= LPIPS_SIDE:
        coloured = (
            (images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images) for images in (made_NCHW, partners_NCHW)
        )
        with torch.no_grad():
            rows["lpips"] = _lpips(made_NCHW.device)(*coloured).double().cpu()
    return rows


def score(base: str, rows_mean: float) -> tuple[str, float]:
    """The metric's base name and value, from the mean over rows."""
    if base == SQUARED:
        return "psnr", float(10 * np.log10(PEAK**2 / max(rows_mean, 1e-12)))
    return base, rows_mean


def there_and_back(sources_NCHW: Tensor, back_NCHW: Tensor) -> dict[str, Tensor]:
    """Mean absolute difference of each image, float in [-1, 1], to itself after both translations."""
    return {CYCLE: (back_NCHW - sources_NCHW).abs().flatten(1).mean(1).double().cpu()}


def _similarity(made_CHW: np.ndarray, partner_CHW: np.ndarray) -> float:
    gaussian = min(made_CHW.shape[1:]) >= WINDOW
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False} if gaussian else {}
    window = WINDOW if gaussian else SMALL_WINDOW
    return float(
        structural_similarity(made_CHW, partner_CHW, win_size=window, channel_axis=0, data_range=PEAK, **options)
    )


def lpips_is_there() -> bool:
    """Whether its weights are in torch's cache."""
    return all(path.is_file() for path in _lpips_files())


def _lpips_files() -> list[Path]:
    return [Path(torch.hub.get_dir()) / "checkpoints" / name for name in LPIPS_FILES]


@functools.cache
def _lpips(device: torch.device) -> torch.nn.Module:
    from torch_fidelity.sample_similarity_lpips import SampleSimilarityLPIPS

    return SampleSimilarityLPIPS("lpips-vgg16").to(device)
