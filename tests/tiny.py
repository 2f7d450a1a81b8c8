"""The smallest complete configurations that tests start from."""

from __future__ import annotations

from typing import Any

SMALL_STYLEGAN2: dict[str, Any] = {
    "name": "stylegan2",
    "latent_dim": 8,
    "style_dim": 8,
    "mapping_layers": 2,
    "channel_base": 48,
    "channel_max": 8,
}

SMALL_TEXT: dict[str, Any] = {
    "name": "text_to_image",
    "encoder": {"name": "bytes", "width": 8, "layers": 2},
    "max_bytes": 64,
    "text_dim": 8,
    "latent_dim": 8,
    "feature_dim": 4,
}

SMALL_PIX2PIX: dict[str, Any] = {"name": "pix2pix", "feature_dim": 4, "patch_layers": 1}
SMALL_CYCLEGAN: dict[str, Any] = {"name": "cyclegan", "feature_dim": 4, "patch_layers": 1, "blocks": 1}


def tiny_raw(**train: Any) -> dict[str, Any]:
    """A complete configuration that trains in seconds: 8-px digits, nets of a few thousand weights."""
    return {
        "name": "tiny",
        "prepare": {"source": {"name": "digits"}, "resolution": 8, "channels": 1},
        "gan": {"name": "classic", "network": {"name": "dcgan", "feature_dim": 4}, "latent_dim": 8},
        "train": {
            "batch": 16,
            "seed": 1,
            "precision": "fp32",
            "stop": {"kimg": 0.32},
            "log_every_kimg": 0.064,
            "snapshot_kimg": 0.128,
            **train,
        },
        "register": {"model": "tiny"},
    }


def points_raw(name: str = "ring8", **source: Any) -> dict[str, Any]:
    """The same of points in the plane."""
    raw = tiny_raw()
    raw["prepare"] = {"source": {"name": name, **source}}
    raw["gan"] = {"name": "classic", "network": {"name": "mlp", "hidden_dim": 16, "hidden_layers": 2}, "latent_dim": 2}
    return raw


SMALL_R3GAN: dict[str, Any] = {"name": "r3gan", "latent_dim": 8, "widths": [8, 6], "cardinality": [4, 3], "blocks": 1}
"""A `gan` section for images of 8 px."""


def stacked_raw(**source: Any) -> dict[str, Any]:
    """The same of stacked digits."""
    raw = tiny_raw()
    raw["prepare"] = {"source": {"name": "stacked_digits", "images": 3000, **source}, "resolution": 8}
    return raw


def pairs_raw(derive: str = "mask", **train: Any) -> dict[str, Any]:
    """The same of digits of which a part is hidden, and pix2pix."""
    raw = tiny_raw(**train)
    raw["prepare"] |= {"derive": derive, "resolution": 16}
    raw["gan"] = SMALL_PIX2PIX
    return raw


def sides_raw(**train: Any) -> dict[str, Any]:
    """The same of digits in two styles, and CycleGAN."""
    raw = tiny_raw(**train)
    raw["prepare"] = {"source": {"name": "restyled_digits"}, "resolution": 16, "channels": 1}
    raw["gan"] = SMALL_CYCLEGAN
    return raw
