"""StyleGAN2's networks: the published sizes to the unit, how they begin, each part against a slow float64 reference."""

from __future__ import annotations

import math
from typing import Any

import pytest
import stylegan2_reference as reference
import torch
from torch import Tensor, nn

from ganpipe.errors import InputError
from ganpipe.gans.base import parameter_count
from ganpipe.gans.stylegan2 import StyleGAN2, StyleGAN2Config
from ganpipe.networks import modulated
from ganpipe.networks.modulated import Conv, Linear, ModulatedConv
from ganpipe.networks.stylegan2 import Discriminator, Generator, ResidualBlock, StyledLayer, with_deviation
from ganpipe.spec import Column


def images_of(resolution: int, classes: int = 10) -> dict[str, Column]:
    names = tuple(map(str, range(classes)))
    return {
        "image": Column(kind="image", dtype="uint8", shape=(3, resolution, resolution), shards=()),
        "label": Column(kind="label", dtype="int64", shape=(), vocabulary=names, shards=()),
    }


def shaken(network: nn.Module) -> nn.Module:
    """Every weight and bias away from where it begins, so that each of them shows."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return network


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize(
    ("fields", "resolution", "of_generator", "of_discriminator"),
    [
        ({}, 1024, 30_370_060, 29_012_513),
        ({}, 256, 30_034_338, 28_864_129),
        ({"channel_base": 16384}, 256, 24_767_458, 24_001_089),
        ({"channel_base": 16384, "mapping_layers": 2}, 64, 22_243_608, 23_407_361),
        ({"conditioning": "projection", "mapping_layers": 2}, 32, 20_215_315, 23_876_096),
    ],
)
def test_sizes_are_the_published_ones(
    fields: dict[str, Any], resolution: int, of_generator: int, of_discriminator: int
) -> None:
    with torch.device("meta"):
        networks = StyleGAN2(StyleGAN2Config(**fields)).build_networks(images_of(resolution))
    assert isinstance(networks.generator, Generator) and networks.discriminator is not None
    assert parameter_count(networks.generator) == of_generator
    assert parameter_count(networks.discriminator) == of_discriminator
    if not fields:
        assert parameter_count(networks.generator.mapping) == 2_101_248
    if resolution == 1024:
        assert networks.generator.style_count == 18


@pytest.mark.parametrize(("channels", "resolution"), [(1, 8), (3, 16), (1, 32), (3, 64)])
def test_other_sizes(channels: int, resolution: int) -> None:
    generator = Generator(6, 5, 2, channels, resolution, channel_base=64, channel_max=8)
    images, styles = generator(torch.randn(4, 6), torch.randn(4, generator.noise_dim))
    assert images.shape == (4, channels, resolution, resolution)
    assert styles.shape == (4, generator.style_count, 5)
    assert Discriminator(channels, resolution, channel_base=64, channel_max=8)(images).shape == (4,)


@pytest.mark.parametrize("resolution", [4, 48])
def test_an_impossible_resolution_names_the_field(resolution: int) -> None:
    with pytest.raises(InputError, match=r"prepare\.resolution"):
        StyleGAN2(StyleGAN2Config()).build_networks(images_of(resolution))


def test_signals_keep_their_size_at_the_beginning() -> None:
    """Demodulation and equalised weights: nothing explodes or dies out over the layers; the filters take a little."""
    generator = Generator(64, 64, 8, 3, 64, channel_base=2048, channel_max=64)
    seen: list[float] = []
    for layer in generator.layers:
        layer.register_forward_hook(lambda _, __, out: seen.append(float(out.detach().square().mean().sqrt())))
    generator(torch.randn(16, 64), torch.randn(16, generator.noise_dim))
    assert len(seen) == 9 and all(0.25 < size < 1.25 for size in seen)


def test_the_mapping_network_learns_at_a_hundredth_of_the_rate() -> None:
    rows = torch.randn(256, 32)
    moved = []
    for multiplier in (1.0, 0.01):
        torch.manual_seed(1)
        layer = Linear(32, 32, lr_multiplier=multiplier)
        before = layer(rows)
        optimizer = torch.optim.Adam(layer.parameters(), lr=1e-3)
        before.square().mean().backward()
        optimizer.step()
        moved.append((layer(rows) - before).norm().item())
    assert moved[1] / moved[0] == pytest.approx(0.01, rel=1e-2)


def test_linear() -> None:
    layer, rows = shaken(Linear(7, 5, 2.0, 1.0, 0.01)), torch.randn(3, 7)
    close(layer(rows), reference.linear(rows.double(), reference.double(layer), 2.0, 0.01))


@pytest.mark.parametrize("resolution", [4, 6])
def test_resampling(resolution: int) -> None:
    images = torch.randn(2, 3, resolution, resolution)
    close(modulated.upsample()(images), reference.upsampled(images.double()))
    close(modulated.downsample()(images), reference.downsampled(images.double()))


def test_resampling_keeps_brightness() -> None:
    """All but the border, beyond which it is dark."""
    grey = torch.full((1, 1, 8, 8), 0.5)
    for made in (modulated.upsample()(grey), modulated.downsample()(grey)):
        torch.testing.assert_close(made[:, :, 1:-1, 1:-1], torch.full_like(made, 0.5)[:, :, 1:-1, 1:-1])


@pytest.mark.parametrize(("size", "down"), [(1, False), (3, False), (1, True), (3, True)])
def test_conv(size: int, down: bool) -> None:
    layer, images = shaken(Conv(3, 4, size, 1.5, down=down)), torch.randn(2, 3, 8, 8)
    made = layer(images)
    assert made.shape[2] == (4 if down else 8)
    close(made, reference.conv(images.double(), reference.double(layer), 1.5, down))


@pytest.mark.parametrize(
    ("size", "demodulate", "up"), [(3, True, False), (3, True, True), (1, False, False), (3, False, True)]
)
def test_modulated_conv(size: int, demodulate: bool, up: bool) -> None:
    layer = shaken(ModulatedConv(6, 3, 4, size, demodulate, up))
    images, styles = torch.randn(2, 3, 4, 4), torch.randn(2, 6)
    expected = reference.modulated(images.double(), styles.double(), reference.double(layer), demodulate, up)
    close(layer(images, styles), (math.sqrt(2) if demodulate else 1) * expected)


@pytest.mark.parametrize("up", [False, True])
def test_styled_layer(up: bool) -> None:
    layer = shaken(StyledLayer(6, 3, 4, up))
    side = 8 if up else 4
    images, styles, noise = torch.randn(2, 3, 4, 4), torch.randn(2, 6), torch.randn(2, 1, side, side)
    inputs = (images.double(), styles.double(), noise.double())
    close(layer(images, styles, noise), reference.styled(*inputs, reference.double(layer), up))


def test_residual_block() -> None:
    block, images = shaken(ResidualBlock(3, 4)), torch.randn(2, 3, 8, 8)
    close(block(images), reference.residual(images.double(), reference.double(block)))


@pytest.mark.parametrize(("n", "group"), [(8, 4), (4, 4), (6, 2), (3, 1)])
def test_minibatch_deviation(n: int, group: int) -> None:
    features = torch.randn(n, 3, 4, 4)
    made = with_deviation(features)
    close(made, reference.with_deviation(features.double(), group))
    if group == 4:
        assert torch.equal(with_deviation(features[:4]), made[:4])  # of its group alone


def test_mapping() -> None:
    generator, latents = shaken(Generator(6, 5, 3, 1, 8, 32, 4)), 3 * torch.randn(4, 6)
    state = reference.double(generator)
    close(generator.mapping(latents), reference.mapping(latents.double(), reference.part(state, "mapping")))


@pytest.mark.parametrize("channels", [1, 3])
def test_generator(channels: int) -> None:
    generator = shaken(Generator(6, 5, 2, channels, 16, 48, 4))
    latents, noise = torch.randn(3, 6), torch.randn(3, generator.noise_dim)
    images, styles = generator(latents, noise)
    state = reference.double(generator)
    row = reference.mapping(latents.double(), reference.part(state, "mapping"))
    expected = torch.stack([row] * 6, dim=1)
    close(styles, expected)
    close(images, reference.synthesis(state, expected, noise.double()))


def test_mixed_styles_change_over_at_the_layer_said() -> None:
    generator = shaken(Generator(6, 5, 2, 1, 16, 32, 4))
    first, second, noise = torch.randn(3, 6), torch.randn(3, 6), torch.randn(3, generator.noise_dim)
    images, styles = generator(first, noise, mix=(second, torch.tensor([2, 5, 6])))
    one, other = generator.mapping(first), generator.mapping(second)
    for row, crossover in enumerate((2, 5, 6)):
        torch.testing.assert_close(styles[row, :crossover], one[row].expand(crossover, -1))
        torch.testing.assert_close(styles[row, crossover:], other[row].expand(6 - crossover, -1))
    close(images, reference.synthesis(reference.double(generator), styles.double(), noise.double()))


def test_a_class_reaches_both_networks() -> None:
    generator, discriminator = shaken(Generator(6, 5, 2, 1, 8, 32, 4, classes=3)), Discriminator(1, 8, 32, 4, 3)
    shaken(discriminator)
    latents, noise, label = torch.randn(4, 6), torch.randn(4, generator.noise_dim), torch.tensor([0, 2, 2, 1])
    images, styles = generator(latents, noise, label)
    state = reference.double(generator)
    row = reference.mapping(latents.double(), reference.part(state, "mapping"), label)
    close(styles, torch.stack([row] * 4, dim=1))
    close(images, reference.synthesis(state, styles.double(), noise.double()))
    state = reference.double(discriminator)
    close(discriminator(images, label), reference.discriminator(state, images.double(), label))


@pytest.mark.parametrize("channels", [1, 3])
def test_discriminator(channels: int) -> None:
    discriminator, images = shaken(Discriminator(channels, 16, 48, 4)), torch.randn(8, channels, 16, 16)
    close(discriminator(images), reference.discriminator(reference.double(discriminator), images.double()))
