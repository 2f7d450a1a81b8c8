"""Networks that translate images: sizes to the unit, what noise and neighbours do, what a patch sees."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ganpipe.errors import InputError
from ganpipe.gans.base import parameter_count
from ganpipe.networks import patch, resnet_translation, unet


def noise(generator: unet.Generator, n: int, height: int, width: int | None = None, seed: int = 0) -> torch.Tensor:
    size = generator.noise_size(height, width or height)
    return torch.randint(0, 2, (n, size), generator=torch.Generator().manual_seed(seed))


# --- U-Net -------------------------------------------------------------------------------------------------------


def test_unet_has_pix2pixs_size() -> None:
    """54.414 M: eight 4x4 convolutions each way without bias, one bias at the end, scale and shift where normalised."""
    down = [3, 64, 128, 256, 512, 512, 512, 512, 512]
    up = [(512, 512), (1024, 512), (1024, 512), (1024, 512), (1024, 256), (512, 128), (256, 64), (128, 3)]
    convolutions = sum(16 * inner * outer for inner, outer in [*itertools.pairwise(down), *up])
    normalised = [128, 256, *[512] * 8, 256, 128, 64]
    generator = unet.Generator(3, 3)
    count = parameter_count(generator)
    assert count == convolutions + 3 + 2 * sum(normalised)
    assert round(count / 1e6, 3) == 54.414
    assert generator.noise_size(256, 256) == 512 * (4 + 16 + 64)


@pytest.mark.parametrize(("resolution", "channels"), [(8, 1), (32, 1), (64, 3)])
def test_unet_at_other_sizes(resolution: int, channels: int) -> None:
    generator = unet.Generator(channels, 3, 4, resolution)
    sources = torch.randn(2, channels, resolution, resolution)
    images = generator(sources, noise(generator, 2, resolution))
    assert images.shape == (2, 3, resolution, resolution)
    assert images.abs().max() <= 1


def test_unet_takes_whole_multiples_of_its_resolution() -> None:
    generator = unet.Generator(1, 1, 4, 16)
    assert generator(torch.randn(1, 1, 32, 48), noise(generator, 1, 32, 48)).shape == (1, 1, 32, 48)


@pytest.mark.parametrize("resolution", [4, 48, 286])
def test_unet_refuses_what_it_cannot_halve(resolution: int) -> None:
    with pytest.raises(InputError, match=rf"not {resolution}; change prepare\.resolution"):
        unet.Generator(1, 1, 4, resolution)


def test_noise_is_dropout_of_the_first_three_stages_up() -> None:
    """CD512-CD512-CD512: 2x2, 4x4 and 8x8 with as many channels as the stage; fewer where there are fewer stages."""
    assert unet.Generator(1, 1, 4, 64).noise_size(64, 64) == 32 * 4 + 32 * 16 + 16 * 64
    assert unet.Generator(1, 1, 4, 8).noise_size(8, 8) == 8 * 4 + 4 * 16
    assert unet.Generator(1, 1, 4, 64, dropout=False).noise_size(64, 64) == 0


def test_one_source_is_translated_differently_by_noise_and_the_same_beside_others() -> None:
    torch.manual_seed(0)
    generator = unet.Generator(1, 1, 4, 32)
    source = torch.randn(1, 1, 32, 32).expand(5, -1, -1, -1)
    drawn = noise(generator, 5, 32)
    many = generator(source, drawn)
    assert len(many.flatten(1).unique(dim=0)) == 5
    torch.testing.assert_close(generator(source[:2], drawn[:2]), many[:2], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(generator.eval()(source, drawn), many)


def test_unets_pictures_follow_from_the_state_dict_alone() -> None:
    torch.manual_seed(0)
    generator = unet.Generator(2, 3, 4, 16)
    for parameter in generator.parameters():
        parameter.data.normal_(0, 0.3)
    state, sources, drawn = generator.state_dict(), torch.randn(3, 2, 16, 16), noise(generator, 3, 16)

    def normalised(x: torch.Tensor, name: str) -> torch.Tensor:
        mean, variance = x.mean((2, 3), keepdim=True), x.var((2, 3), correction=0, keepdim=True)
        scale, shift = (state[f"{name}.norm.{part}"][:, None, None] for part in ("weight", "bias"))
        return (x - mean) / (variance + 1e-5).sqrt() * scale + shift

    def down(x: torch.Tensor, name: str) -> torch.Tensor:
        return F.conv2d(x, state[f"{name}.convolution.weight"], stride=2, padding=1)

    x1 = down(sources, "down.0")  # 8x8, 4 channels
    x2 = normalised(down(F.leaky_relu(x1, 0.2), "down.1"), "down.1")  # 4x4, 8
    x3 = normalised(down(F.leaky_relu(x2, 0.2), "down.2"), "down.2")  # 2x2, 16
    x = down(F.leaky_relu(x3, 0.2), "down.3")  # 1x1, 32
    kept = drawn.split([16 * 4, 8 * 16, 4 * 64], dim=1)
    for stage, skip in enumerate([x3, x2, x1]):
        x = F.conv_transpose2d(F.relu(x), state[f"up.{stage}.convolution.weight"], stride=2, padding=1)
        x = normalised(x, f"up.{stage}")
        x = torch.cat([torch.where(kept[stage].view_as(x) == 1, 2 * x, 0), skip], dim=1)
    expected = F.conv_transpose2d(F.relu(x), state["output.1.weight"], state["output.1.bias"], stride=2, padding=1)
    torch.testing.assert_close(generator(sources, drawn), expected.tanh(), rtol=1e-4, atol=1e-5)


# --- PatchGAN ----------------------------------------------------------------------------------------------------


def test_patchgan_has_the_papers_sizes() -> None:
    assert parameter_count(patch.Discriminator(6)) == 2_768_705
    assert parameter_count(patch.Discriminator(3, norm="instance")) == 2_764_737
    assert patch.Discriminator(6, 4)(torch.randn(2, 3, 256, 256), torch.randn(2, 3, 256, 256)).shape == (2, 30, 30)


@pytest.mark.parametrize(("layers", "size"), [(1, 16), (2, 34), (3, 70)])
def test_a_logit_sees_its_patch_and_no_more(layers: int, size: int) -> None:
    """Gradients of one logit in the middle reach a square of so many pixels."""
    torch.manual_seed(0)
    images = torch.randn(1, 1, 128, 128, requires_grad=True)
    logits = patch.Discriminator(1, 4, layers, norm="none")(images)
    middle = logits.shape[1] // 2
    logits[0, middle, middle].backward()
    reached = images.grad[0, 0] != 0
    rows, columns = reached.any(1).nonzero().flatten(), reached.any(0).nonzero().flatten()
    assert int(rows[-1] - rows[0]) + 1 == int(columns[-1] - columns[0]) + 1 == size


def test_an_image_is_judged_beside_its_own_source() -> None:
    torch.manual_seed(0)
    discriminator = patch.Discriminator(3, 4, 2, norm="instance")
    images, sources = torch.randn(4, 1, 32, 32), torch.randn(4, 2, 32, 32)
    logits = discriminator(images, sources)
    swapped = discriminator(images, sources[[1, 0, 2, 3]])
    assert not torch.isclose(logits[:2], swapped[:2]).all()
    torch.testing.assert_close(logits[2:], swapped[2:])


def test_too_many_layers_for_the_image_name_the_field() -> None:
    for resolution, most in [(8, 1), (24, 3), (32, 3), (256, 6)]:
        patch.check_patches(resolution, most, "gan.layers")
        assert patch.Discriminator(1, 2, most, "instance")(torch.randn(2, 1, resolution, resolution)).numel() >= 2
        with pytest.raises(InputError, match=f"lower gan.layers to {most}"):
            patch.check_patches(resolution, most + 1, "gan.layers")


# --- CycleGAN ----------------------------------------------------------------------------------------------------


def test_residual_generators_have_cyclegans_sizes() -> None:
    block = 2 * (256 * 256 * 9 + 256)
    assert parameter_count(resnet_translation.Generator(3, 3)) == 11_378_179
    assert parameter_count(resnet_translation.Generator(3, 3, blocks=6)) == 11_378_179 - 3 * block


@pytest.mark.parametrize(("height", "width"), [(8, 8), (32, 20)])
def test_residual_generator_at_other_sizes(height: int, width: int) -> None:
    torch.manual_seed(0)
    generator, sources = resnet_translation.Generator(1, 3, 4, 1), torch.randn(3, 1, height, width)
    images = generator(sources)
    assert images.shape == (3, 3, height, width)
    assert images.abs().max() <= 1
    torch.testing.assert_close(generator(sources[1:2]), images[1:2], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("resolution", [4, 30])
def test_residual_generator_refuses_what_it_cannot_halve_twice(resolution: int) -> None:
    resnet_translation.check_resolution(resolution * 4)
    with pytest.raises(InputError, match=rf"not {resolution}; change prepare\.resolution"):
        resnet_translation.check_resolution(resolution)


class Times(nn.Module):
    def __init__(self, factor: float):
        super().__init__()
        self.factor = factor

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.factor * images


def test_both_ways_in_one_forward() -> None:
    a, b = torch.randn(2, 1, 4, 4), torch.randn(2, 1, 4, 4)
    found = resnet_translation.BothWays(Times(2), Times(3))(a, b, identity=True)
    expected = {"b_of_a": 2 * a, "a_of_b": 3 * b, "back_a": 6 * a, "back_b": 6 * b, "same_a": 3 * a, "same_b": 2 * b}
    for name, images in expected.items():
        torch.testing.assert_close(getattr(found, name), images)
    without = resnet_translation.BothWays(Times(2), Times(3))(a, b)
    assert without.same_a is None and without.same_b is None
    torch.testing.assert_close(without.back_b, 6 * b)


def test_both_sides_in_one_forward() -> None:
    torch.manual_seed(0)
    of_a, of_b = (patch.Discriminator(1, 4, 1, "instance") for _ in range(2))
    a, b = torch.randn(2, 1, 16, 16), torch.randn(2, 1, 16, 16)
    logits = resnet_translation.BothSides(of_a, of_b)(a, b)
    torch.testing.assert_close(logits[:, 0], of_a(a))
    torch.testing.assert_close(logits[:, 1], of_b(b))
