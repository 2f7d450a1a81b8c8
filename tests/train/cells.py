"""Every sound cell of the classic grid, and some of each conditioning, with networks of a few thousand weights."""

from __future__ import annotations

from typing import Any, get_args

from pydantic import ValidationError
from tiny import SMALL_CYCLEGAN, SMALL_PIX2PIX, SMALL_R3GAN, SMALL_STYLEGAN2, SMALL_TEXT

from ganpipe.gans.classic import OBJECTIVES, ClassicConfig

CONSTRAINTS: dict[str, dict[str, Any]] = {
    "free": {},
    "weight_clip": {"weight_clip": 0.01, "critic_steps": 2},
    "gradient_penalty": {"gradient_penalty": 10},
    "r1": {"r1": 1},
    "r2": {"r2": 1},
    "lazy": {"r1": 1, "r2": 1, "penalty_every": 2},
    "spectral_norm": {"spectral_norm": True},
}
NORMS = {"free": "batch", "weight_clip": "batch", "gradient_penalty": "instance"}
"""Of the convolutional discriminator, where the constraint allows more than none."""

CONDITIONED = [("relativistic", "lazy"), ("wasserstein", "gradient_penalty"), ("hinge", "spectral_norm")]
"""Objectives and constraints of the cells that are conditional on a class."""
CONDITIONINGS = [name for name in get_args(ClassicConfig.model_fields["conditioning"].annotation) if name != "none"]
PENALISED = {"adversarial": "relativistic", "patch_norm": "none", "r1": 1, "r2": 1, "penalty_every": 2}
"""R3GAN's game, for recipes that translate."""

OTHERS: dict[str, dict[str, Any]] = {
    "r3gan": {**SMALL_R3GAN, "gamma": [{"start": 2, "end": 0.5, "over_kimg": 0.05}]},
    "r3gan-projection": {**SMALL_R3GAN, "conditioning": "projection", "penalty_every": 2},
    "stylegan2": {**SMALL_STYLEGAN2, "r1_every": 2, "path_length_every": 2},
    "stylegan2-plain": {**SMALL_STYLEGAN2, "path_length": None, "style_mixing": 0},
    "stylegan2-projection": {**SMALL_STYLEGAN2, "conditioning": "projection", "latent_components": 3},
    "text": {**SMALL_TEXT, "r1": 1, "penalty_every": 2},
    "text-unaware": {**SMALL_TEXT, "wrong_text": 0},
    "pix2pix": SMALL_PIX2PIX,
    "pix2pix-l1": {**SMALL_PIX2PIX, "objective": "l1"},
    "pix2pix-rpgan": {**SMALL_PIX2PIX, **PENALISED},
    "cyclegan": {**SMALL_CYCLEGAN, "pool": 24},
    "cyclegan-rpgan": {**SMALL_CYCLEGAN, **PENALISED, "identity": 0, "pool": 0},
}
"""`gan` sections of the recipes beside classic. On two ranks of 16 images a step, a pool of 24 is full after three."""


def data_for(gan: dict[str, Any]) -> dict[str, Any]:
    """What the `prepare` section of the smallest configuration takes for such a `gan` section."""
    if gan["name"] == "pix2pix":
        return {"source": {"name": "digits"}, "derive": "mask"}
    return {"source": {"name": "restyled_digits" if gan["name"] == "cyclegan" else "captioned_digits"}}


def networks(constraint: str) -> list[dict[str, Any]]:
    return [
        {"name": "mlp", "hidden_dim": 16, "hidden_layers": 2},
        {"name": "dcgan", "feature_dim": 4, "norm": NORMS.get(constraint, "none")},
        {"name": "resnet", "feature_dim": 4},
    ]


def cells() -> dict[str, dict[str, Any]]:
    """`network-objective-constraint[-conditioning]` -> the `gan` section."""
    found = {}
    for objective in OBJECTIVES:
        for constraint, fields in CONSTRAINTS.items():
            for network in networks(constraint):
                section = {"name": "classic", "objective": objective, "network": network, "latent_dim": 8, **fields}
                try:
                    ClassicConfig.model_validate(section)
                except ValidationError:
                    continue
                cell = f"{network['name']}-{objective}-{constraint}"
                found[cell] = section
                if (objective, constraint) in CONDITIONED:
                    found |= {f"{cell}-{how}": {**section, "conditioning": how} for how in CONDITIONINGS}
    return found


assert set(OBJECTIVES) == set(get_args(ClassicConfig.model_fields["objective"].annotation))
