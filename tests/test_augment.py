"""Augmentation: each transform against something slower and plainer, how often it is applied, gradients, p."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from tiny import points_raw, tiny_raw
from torch import Tensor

from ganpipe import transforms
from ganpipe.augment import Augment, Controller
from ganpipe.augmentconfig import AdaConfig, AugmentConfig, ControllerConfig
from ganpipe.config import config_to_json, load_config
from ganpipe.errors import InputError
from ganpipe.rng import StepRng
from ganpipe.transforms import Draws

CPU = torch.device("cpu")
EVERYTHING = {"color": True, "translation": True, "cutout": True, "ada": True}
DOUBLE = torch.float64


def rng(n: int, rows: slice | None = None) -> StepRng:
    return StepRng(seed=3, images_seen=64, update="d0", global_batch=n, rows=rows or slice(0, n), device=CPU)


def augment(p: float = 1.0, **section: Any) -> Augment:
    made = Augment(AugmentConfig.model_validate({**section, "p": p}), 16, CPU)
    made.schedule(0)
    return made


def pictures(n: int, channels: int = 3, side: int = 16, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(n, channels, side, side, generator=torch.Generator().manual_seed(n), dtype=dtype) * 2 - 1


def ones(n: int) -> Tensor:
    return torch.ones(n, dtype=DOUBLE)


# --- DiffAugment -------------------------------------------------------------------------------------------------


def test_translation_moves_whole_pixels_and_fills_with_zeros() -> None:
    images = pictures(5, side=8)
    shifts = [(0, 0), (2, 0), (0, -3), (-4, 4), (1, 1)]
    moved = transforms.translate(images, torch.tensor(shifts))
    for image, result, (down, right) in zip(images, moved, shifts, strict=True):
        expected = torch.zeros_like(image)
        for y in range(8):
            for x in range(8):
                if 0 <= y - down < 8 and 0 <= x - right < 8:
                    expected[:, y, x] = image[:, y - down, x - right]
        assert torch.equal(result, expected)


def test_cutout_clears_a_square_that_may_reach_beyond_the_image() -> None:
    images, corners, sides = pictures(4, side=8), [(2, 3), (-2, 6), (5, -1), (0, 0)], [4, 4, 3, 0]
    cut = transforms.cut_out(images, torch.tensor(corners), torch.tensor(sides))
    for image, result, (top, left), side in zip(images, cut, corners, sides, strict=True):
        expected = image.clone()
        expected[:, max(top, 0) : top + side, max(left, 0) : left + side] = 0
        assert torch.equal(result, expected)


@pytest.mark.parametrize("channels", [1, 3])
def test_color_is_brightness_then_saturation_then_contrast(channels: int) -> None:
    images = pictures(3, channels, dtype=DOUBLE)
    changes = torch.tensor([[0.3, -0.5, 0.2], [-0.5, 1.0, -0.5], [0.0, 0.0, 0.0]], dtype=DOUBLE)
    result = transforms.color(images, *changes.unbind(1))
    for image, got, (brightness, saturation, contrast) in zip(images.numpy(), result, changes.tolist(), strict=True):
        light = image + brightness
        grey = light.mean(0, keepdims=True)
        vivid = grey + (1 + saturation) * (light - grey)
        np.testing.assert_allclose(got, vivid.mean() + (1 + contrast) * (vivid - vivid.mean()), atol=1e-12)


def test_the_papers_strengths_bound_what_diffaugment_does() -> None:
    n = 2000
    config = AugmentConfig.model_validate({"color": True, "translation": True, "cutout": True})
    assert config.color is not None
    assert (config.translation, config.cutout) == (0.125, 0.5)
    assert config.color.model_dump() == {"brightness": 0.5, "saturation": 1, "contrast": 0.5}
    white = torch.ones(n, 1, 16, 16)
    brightness = augment(color={"saturation": 0, "contrast": 0})(white, rng(n), "a")[:, 0, 0, 0] - 1
    assert -0.5 <= brightness.min() < -0.49 and 0.49 < brightness.max() <= 0.5
    filled = augment(translation=True)(white, rng(n), "a")[:, 0] == 1
    assert set((16 - filled.any(2).sum(1)).tolist()) == {0, 1, 2}
    area = (augment(cutout=True)(white, rng(n), "a") == 0).sum((1, 2, 3))
    assert area.min() == 16 and area.max() == 64  # the middle is in the image: at least a quarter of the square is


# --- ADA's geometry ----------------------------------------------------------------------------------------------


def quarter(turns: int) -> Tensor:
    return transforms.rotation(torch.tensor([turns * math.pi / 2], dtype=DOUBLE))


@pytest.mark.parametrize("side", [8, 9])
def test_blits_move_pixels(side: int) -> None:
    image = pictures(1, side=side, dtype=DOUBLE)
    pixel = 2 / (side - 1)
    shift = transforms.translation(torch.tensor([[2 * pixel, -pixel]], dtype=DOUBLE))
    mirrored = np.pad(image[0].numpy(), ((0, 0), (3, 3), (3, 3)), mode="reflect")
    expected = {
        "flip": (transforms.scaling(-ones(1), ones(1)), image.flip(-1)),
        "shift": (shift, torch.from_numpy(mirrored[None, :, 2 : 2 + side, 5 : 5 + side])),
        **{f"{turns} turns": (quarter(turns), image.rot90(turns, (2, 3))) for turns in range(4)},
    }
    for name, (maps, result) in expected.items():
        torch.testing.assert_close(transforms.warp(image, maps), result, rtol=0, atol=1e-12, msg=name)


def keys(distance: float) -> float:
    """Keys' cubic convolution kernel, a = -3/4 (IEEE Trans. ASSP 29, 1981, Eq. 4)."""
    a, d = -0.75, abs(distance)
    if d <= 1:
        return (a + 2) * d**3 - (a + 3) * d**2 + 1
    return a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a if d < 2 else 0.0


def mirrored(position: int, side: int) -> int:
    position = abs(position) % (2 * (side - 1))
    return min(position, 2 * (side - 1) - position)


def test_warp_is_cubic_interpolation_of_the_mirrored_image() -> None:
    side = 8
    image = pictures(1, 1, side, DOUBLE)
    maps = torch.tensor([[[0.7, -0.9, 0.2], [0.8, 1.1, -0.6], [0, 0, 1]]], dtype=DOUBLE)
    expected = np.zeros((side, side))
    for y in range(side):
        for x in range(side):
            at = maps[0].numpy() @ [2 * x / (side - 1) - 1, 2 * y / (side - 1) - 1, 1]
            u, v = (at[:2] + 1) * (side - 1) / 2
            for row in range(math.floor(v) - 1, math.floor(v) + 3):
                for column in range(math.floor(u) - 1, math.floor(u) + 3):
                    value = float(image[0, 0, mirrored(row, side), mirrored(column, side)])
                    expected[y, x] += keys(v - row) * keys(u - column) * value
    np.testing.assert_allclose(transforms.warp(image, maps)[0, 0], expected, atol=1e-12)


def test_a_shift_by_half_a_pixel_keeps_the_middle_frequencies() -> None:
    """Of a wave of period 4: |2 k(1/2) cos(pi/4) + 2 k(3/2) cos(3 pi/4)| = 0.97; bilinear would be cos(pi/4) = 0.71."""
    wave = torch.cos(torch.arange(32, dtype=DOUBLE) * math.pi / 2 + 0.3).expand(1, 1, 32, 32)
    half = transforms.translation(torch.tensor([[0.5 * 2 / 31, 0]], dtype=DOUBLE))
    moved = transforms.warp(wave, half)[0, 0, 0, 8:24]
    share = 2 * keys(0.5) * math.cos(math.pi / 4) + 2 * keys(1.5) * math.cos(3 * math.pi / 4)
    assert share == pytest.approx(0.972, abs=1e-3)
    expected = share * torch.cos((torch.arange(8, 24, dtype=DOUBLE) + 0.5) * math.pi / 2 + 0.3)
    torch.testing.assert_close(moved, expected, rtol=0, atol=1e-9)


def test_maps_are_the_inverse_of_the_papers_transforms_in_their_order() -> None:
    """Forwards and in pixels, as in the pseudocode of arXiv:2006.06676, App. B; every transform is applied at p = 1."""
    n, side = 50, 32
    draws = Draws(rng(n), "a", n, torch.tensor(1.0))
    maps = transforms.geometry(side, AdaConfig(**dict.fromkeys(AdaConfig.model_fields, 1)), draws)

    def scale(x: float, y: float) -> np.ndarray:
        return np.diag([x, y, 1.0])

    def rotate(angle: float) -> np.ndarray:
        cos, sin = math.cos(angle), math.sin(angle)
        return np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])

    def move(x: float, y: float) -> np.ndarray:
        return np.array([[1, 0, x], [0, 1, y], [0, 0, 1.0]])

    flip, quarters = draws.integers("flipped", 0, 2).tolist(), draws.integers("quarters", 0, 4).tolist()
    pixels = (draws.uniform("pixels", -0.125, 0.125, 2) * side).round().tolist()
    size, width = (torch.exp(0.2 * math.log(2) * draws.normal(name)).tolist() for name in ("size", "width"))
    before, after = (draws.uniform(name, -math.pi, math.pi).tolist() for name in ("angle1", "angle2"))
    fractions = (draws.normal("fractions", 2) * 0.125 * side).tolist()
    assert set(flip) == {0, 1} and set(quarters) == {0, 1, 2, 3}
    assert {abs(x) for pair in pixels for x in pair} == {0, 1, 2, 3, 4}
    to_pixels = scale((side - 1) / 2, (side - 1) / 2)  # about the middle
    for i in range(n):
        forward = scale(1 - 2 * flip[i], 1)
        forward = rotate(-math.pi / 2 * quarters[i]) @ forward
        forward = move(*pixels[i]) @ forward
        forward = scale(size[i], size[i]) @ forward
        forward = rotate(-before[i]) @ forward
        forward = scale(width[i], 1 / width[i]) @ forward
        forward = rotate(-after[i]) @ forward
        forward = move(*fractions[i]) @ forward
        ours = to_pixels @ maps[i].double().numpy() @ np.linalg.inv(to_pixels)
        np.testing.assert_allclose(ours, np.linalg.inv(forward), atol=1e-4)


# --- ADA's colours -----------------------------------------------------------------------------------------------


def test_colors_are_the_papers_in_their_order() -> None:
    """The 4x4 matrices of the pseudocode of arXiv:2006.06676, App. B, in float64; every transform is applied."""
    n = 50
    images = pictures(n)
    draws = Draws(rng(n), "a", n, torch.tensor(1.0))
    result = transforms.colors(images, AdaConfig(**dict.fromkeys(transforms.COLORS, 1)), draws)
    brightness, contrast = (0.2 * draws.normal("light")).tolist(), (0.5 * math.log(2) * draws.normal("range")).tolist()
    negative, angle = draws.integers("negative", 0, 2).tolist(), draws.uniform("angle", -math.pi, math.pi).tolist()
    strength = (math.log(2) * draws.normal("strength")).tolist()
    grey = np.array([1, 1, 1, 0]) / math.sqrt(3)
    along, identity = np.outer(grey, grey), np.eye(4)
    for i in range(n):
        matrix = np.eye(4)
        matrix[:3, 3] += brightness[i]
        matrix = np.diag([math.exp(contrast[i])] * 3 + [1.0]) @ matrix
        matrix = (identity - 2 * along * negative[i]) @ matrix
        x, y, z = grey[:3]  # Rodrigues' rotation
        cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
        turn = np.eye(4)
        turn[:3, :3] += math.sin(angle[i]) * cross + (1 - math.cos(angle[i])) * cross @ cross
        matrix = turn @ matrix
        keep = along + np.diag([0, 0, 0, 1.0])
        matrix = (keep + (identity - keep) * math.exp(strength[i])) @ matrix
        pixels = np.concatenate([images[i].double().numpy().reshape(3, -1), np.ones((1, 256))])
        np.testing.assert_allclose(result[i].reshape(3, -1), (matrix @ pixels)[:3], atol=2e-5)


def test_grey_images_are_treated_as_colour_ones_with_equal_channels() -> None:
    n = 50
    grey = pictures(n, 1)
    shares = AdaConfig(**dict.fromkeys(transforms.COLORS, 1))
    draws = Draws(rng(n), "a", n, torch.tensor(1.0))
    colored = transforms.colors(grey.expand(-1, 3, -1, -1), shares, draws)
    torch.testing.assert_close(transforms.colors(grey, shares, draws).expand_as(colored), colored, rtol=0, atol=2e-5)


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
