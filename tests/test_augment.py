"""Augmentation: how often transforms are applied, gradients, p and its controller, the configuration."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from augment_data import augment, pictures, rng
from tiny import points_raw, tiny_raw
from torch import Tensor

from ganpipe import transforms
from ganpipe.augment import Controller
from ganpipe.augmentconfig import AdaConfig, AugmentConfig, ControllerConfig
from ganpipe.config import config_to_json, load_config
from ganpipe.errors import InputError
from ganpipe.transforms import Draws

EVERYTHING = {"color": True, "translation": True, "cutout": True, "ada": True}
DOUBLE = torch.float64


# --- all of it ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
def test_with_p_at_0_images_pass_bit_for_bit(channels: int) -> None:
    images = pictures(64, channels)
    assert torch.equal(augment(0, **EVERYTHING)(images, rng(64), "a"), images)
    assert (augment(1, **EVERYTHING)(images, rng(64), "a") != images).flatten(1).any(1).all()


@pytest.mark.parametrize(
    ("section", "share"),
    [
        ({"color": {"saturation": 0, "contrast": 0}}, 1),
        ({"color": {"brightness": 0, "contrast": 0}}, 1),
        ({"color": {"brightness": 0, "saturation": 0}}, 1),
        ({"translation": 0.125}, 24 / 25),
        ({"cutout": 0.5}, 1),
        *(
            ({"ada": {name: 1}}, {"x_flip": 1 / 2, "rotate90": 3 / 4, "luma_flip": 1 / 2}.get(name, 1))
            for name in AdaConfig.model_fields
            if name != "integer_translation"
        ),
        ({"ada": {"integer_translation": 1}}, 1 - (1 / 4) ** 2),  # uniform on (-2, 2), rounded
        ({"ada": {"hue": 0.5}}, 1 / 2),
    ],
    ids=str,
)
def test_each_transform_is_applied_with_its_probability(section: dict[str, Any], share: float) -> None:
    n, p = 4000, 0.3
    images = pictures(n)
    changed = (augment(p, **section)(images, rng(n), "a") != images).flatten(1).any(1).float().mean()
    expected = p * share
    assert abs(float(changed) - expected) < 4 * math.sqrt(expected * (1 - expected) / n)


def test_transforms_are_applied_independently() -> None:
    """Of `ada` and `color`, too, which have names in common."""
    n, images = 4000, pictures(4000, side=8)
    both = {"color": {"saturation": 0, "contrast": 0}, "ada": {"brightness": 1}}
    changed = (augment(0.5, **both)(images, rng(n), "a") != images).flatten(1).any(1).float().mean()
    assert abs(float(changed) - 0.75) < 4 * math.sqrt(0.75 * 0.25 / n)


def test_draws_are_the_same_however_the_batch_is_cut() -> None:
    images = pictures(12)
    whole = augment(0.7, **EVERYTHING)(images, rng(12), "a")
    for size in (3, 6):
        pieces = [slice(start, start + size) for start in range(0, 12, size)]
        parts = [augment(0.7, **EVERYTHING)(images[rows], rng(12, rows), "a") for rows in pieces]
        torch.testing.assert_close(torch.cat(parts), whole, rtol=0, atol=1e-6)
    assert not torch.equal(augment(0.7, **EVERYTHING)(images, rng(12), "b"), whole)


@pytest.mark.parametrize("channels", [1, 3])
def test_gradients_of_both_orders_flow(channels: int) -> None:
    """Of all transforms at once, under a cubic, against differences in float64."""
    n, side = 3, 4
    draws = Draws(rng(n), "a", n, torch.tensor(0.8))
    config = AugmentConfig.model_validate(EVERYTHING)
    shares = config.ada
    assert shares is not None

    def judged(images: Tensor) -> Tensor:
        moved = transforms.warp(images, transforms.geometry(side, shares, draws).double())
        return transforms.diff_augment(transforms.colors(moved, shares, draws), config, draws).pow(3).mean((1, 2, 3))

    images = pictures(n, channels, side, DOUBLE).requires_grad_(True)
    assert torch.autograd.gradcheck(judged, images)
    assert torch.autograd.gradgradcheck(judged, images)


def test_augmentation_is_float32_under_autocast() -> None:
    images = pictures(8)
    plain = augment(0.7, **EVERYTHING)(images, rng(8), "a")
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(augment(0.7, **EVERYTHING)(images, rng(8), "a"), plain)


# --- the controller ----------------------------------------------------------------------------------------------


def test_the_controller_counts_as_by_hand() -> None:
    """Batch 16, every 4 updates, 2 kimg for a unit of p: steps of 4 * 16 / 2000 = 0.032."""
    p = torch.zeros(())
    controller = Controller(ControllerConfig(target=0.5, over_kimg=2, start=0.05), 16, p)
    found = []
    for sign in [1, 1, 0.5, 0.5, 0.5, 0.5, 1, 0, 0.25, 0.5, 0.5, 0.5, 1, 0.5, 0.5, 0.5, -1, -1, 1, 1, -1, 1, 0, 0]:
        controller.observe(torch.tensor(sign))
        found.append(float(p))
    # the means of four: 0.75, 0.5 (the target), 0.4375, 0.625, 0, 0
    expected = [0.05] * 3 + [p for p in (0.082, 0.082, 0.05, 0.082, 0.05) for _ in range(4)] + [0.018]
    assert found == pytest.approx(expected, abs=1e-7)


def test_p_stays_between_0_and_1() -> None:
    p = torch.zeros(())
    controller = Controller(ControllerConfig(over_kimg=0.1, every=1), 16, p)
    for _ in range(10):
        controller.observe(torch.tensor(1.0))
    assert p == 1
    for _ in range(10):
        controller.observe(torch.tensor(0.0))
    assert p == 0


def test_the_controller_goes_on_where_it_was() -> None:
    config = ControllerConfig(over_kimg=2, start=0.3)
    signs = torch.rand(50, generator=torch.Generator().manual_seed(0)) * 0.8 + 0.2
    one, other = (Controller(config, 16, torch.zeros(())) for _ in range(2))
    for sign in signs[:25]:
        one.observe(sign)
    other.load_state_dict({name: tensor.clone() for name, tensor in one.state_dict().items()})
    for sign in signs[25:]:
        one.observe(sign)
        other.observe(sign)
        assert torch.equal(one.p, other.p)
    assert one.p > 0


# --- the configuration -------------------------------------------------------------------------------------------


def test_true_stands_for_the_papers_strengths_and_false_for_nothing() -> None:
    on = load_config(tiny_raw(augment=EVERYTHING)).train.augment
    assert on.ada is not None and set(on.ada.model_dump().values()) == {1}
    assert load_config(tiny_raw(augment=dict.fromkeys(EVERYTHING, False))).train.augment == AugmentConfig()
    some = load_config(tiny_raw(augment={"ada": {"rotate90": 1, "hue": 0.5}})).train.augment.ada
    assert some is not None and (some.rotate90, some.hue, some.rotation) == (1, 0.5, 0)
    steered = load_config(tiny_raw(augment={"ada": True, "p": {}}))
    assert steered.train.augment.p == ControllerConfig(target=0.6, over_kimg=500, every=4, start=0)
    assert load_config(config_to_json(steered)) == steered


@pytest.mark.parametrize(
    ("raw", "augment", "message"),
    [
        ({}, {"ada": {"rotate": 1}}, r"train\.augment\.ada\.rotate"),
        ({}, {"ada": {"rotate90": 2}}, r"train\.augment\.ada\.rotate90"),
        ({}, {"translation": 0.6}, r"train\.augment\.translation"),
        ({}, {"cutout": "big"}, r"train\.augment\.cutout"),
        ({}, {"ada": True, "p": {"taget": 0.6}}, r"train\.augment\.p\.taget"),
        ({}, {"ada": True, "p": {"start": 2}}, r"train\.augment\.p\.start"),
        ({}, {"ada": True, "p": "often"}, r"train\.augment\.p: .*'often'"),
        ({}, {"ada": True, "p": [{"start": 0, "end": 2, "over_kimg": 1}]}, r"train\.augment\.p: every number"),
        ({}, {"p": {"target": 0.5}}, r"train\.augment: p has a controller, and no augmentation"),
        ({"objective": "relativistic"}, {"ada": True, "p": {}}, r"train\.augment\.p has a controller.*differences"),
    ],
)
def test_mistakes_name_their_field(raw: dict[str, Any], augment: dict[str, Any], message: str) -> None:
    config = tiny_raw(augment=augment)
    config["gan"] |= raw
    with pytest.raises(InputError, match=message):
        load_config(config)


@pytest.mark.parametrize("name", EVERYTHING)
def test_points_are_not_augmented(name: str) -> None:
    raw = points_raw()
    raw["train"]["augment"] = {name: True}
    with pytest.raises(InputError, match=rf"train\.augment\.{name} is for images"):
        load_config(raw)
