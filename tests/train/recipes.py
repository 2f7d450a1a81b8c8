"""One small configuration of every recipe of images: what the contract is tried on."""

from __future__ import annotations

from typing import Any

from cells import OTHERS, data_for
from tiny import tiny_raw

from ganpipe.config import RunConfig, load_config

RECIPES: dict[str, dict[str, Any]] = {
    "minimax": {"objective": "minimax"},
    "non_saturating": {"objective": "non_saturating"},
    "wgan": {"objective": "wasserstein", "weight_clip": 0.01, "critic_steps": 2},
    "wgan-gp": {
        "objective": "wasserstein",
        "gradient_penalty": 10,
        "critic_steps": 2,
        "network": {"name": "dcgan", "feature_dim": 4, "norm": "instance"},
    },
    "r1": {
        "r1": 5,
        "r2": 5,
        "penalty_every": 2,
        "latent_components": 5,
        "network": {"name": "dcgan", "feature_dim": 4, "norm": "none"},
    },
    "lsgan": {"objective": "lsgan"},
    "sngan": {"objective": "hinge", "spectral_norm": True, "network": {"name": "resnet", "feature_dim": 4}},
    "rpgan": {"objective": "relativistic", "r1": 1, "r2": 1, "network": {"name": "resnet", "feature_dim": 4}},
    "mlp": {"network": {"name": "mlp", "hidden_dim": 16, "hidden_layers": 2}},
    "concat": {
        "conditioning": "concat",
        "objective": "wasserstein",
        "gradient_penalty": 10,
        "network": {"name": "dcgan", "feature_dim": 4, "norm": "instance"},
    },
    "projection": {
        "conditioning": "projection",
        "objective": "relativistic",
        "r1": 1,
        "latent_components": 3,
        "network": {"name": "dcgan", "feature_dim": 4, "norm": "none"},
    },
    "auxiliary": {
        "conditioning": "auxiliary",
        "objective": "hinge",
        "spectral_norm": True,
        "network": {"name": "resnet", "feature_dim": 4},
    },
    **OTHERS,
}


def recipe(name: str, **train: Any) -> RunConfig:
    raw = tiny_raw(**train)
    raw["gan"] = RECIPES[name] if "name" in RECIPES[name] else raw["gan"] | RECIPES[name]
    raw["prepare"] |= data_for(raw["gan"])
    return load_config(raw)
