"""Each transform of augmentation against something slower and plainer."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from augment_data import augment, pictures, rng
from torch import Tensor

from ganpipe import transforms
from ganpipe.augmentconfig import AdaConfig, AugmentConfig
from ganpipe.transforms import Draws

DOUBLE = torch.float64


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
