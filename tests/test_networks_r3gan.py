"""R3GAN's networks: the authors' sizes to the unit, how they begin, and every part against a slow float64 reference."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import r3gan_reference as reference
import torch
from torch import nn

from ganpipe.gans.base import parameter_count
from ganpipe.gans.r3gan import R3GAN, R3GANConfig
from ganpipe.networks.r3gan import Block, Discriminator, Generator, Layout
from ganpipe.spec import Column

FFHQ: dict[str, Any] = {
    "widths": [768, 768, 768, 768, 384, 192, 96],
    "cardinality": [96, 96, 96, 96, 48, 24, 12],
}
SMALL = Layout(widths=(8, 6, 6), cardinalities=(4, 3, 1), blocks=2, expansion=2)


def images_of(resolution: int, classes: int = 0) -> dict[str, Column]:
    spec = {"image": Column(kind="image", dtype="uint8", shape=(3, resolution, resolution), shards=())}
    if classes:
        names = tuple(map(str, range(classes)))
        spec["label"] = Column(kind="label", dtype="int64", shape=(), vocabulary=names, shards=())
    return spec


def shaken(network: nn.Module) -> nn.Module:
    """Every weight and bias away from zero, so that each of them shows."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return network


@pytest.mark.parametrize(
    ("fields", "resolution", "classes", "of_generator", "of_discriminator"),
    [
        ({}, 32, 0, 20_732_160, 20_683_776),
        ({"conditioning": "projection"}, 32, 10, 20_781_952, 21_280_512),
        (FFHQ, 256, 0, 23_057_952, 23_009_568),
    ],
    ids=["cifar10", "cifar10-cond", "ffhq256"],
)
def test_sizes_are_the_authors(
    fields: dict[str, Any], resolution: int, classes: int, of_generator: int, of_discriminator: int
) -> None:
    with torch.device("meta"):
        networks = R3GAN(R3GANConfig.model_validate(fields)).build_networks(images_of(resolution, classes))
    assert networks.discriminator is not None
    assert parameter_count(networks.generator) == of_generator
    assert parameter_count(networks.discriminator) == of_discriminator


def test_every_block_begins_as_the_identity_with_fixups_scales() -> None:
    """Of L branches of m = 3 layers the last begins at 0, the others at He's deviation times L^(-1/(2m - 2))."""
    torch.manual_seed(0)
    layout = Layout(widths=(64, 64), cardinalities=(4, 4), blocks=8, expansion=2)
    for network in (Generator(8, layout, 3), Discriminator(3, layout)):
        blocks = [module for module in network.modules() if isinstance(module, Block)]
        assert len(blocks) == 16
        for block in blocks:
            first, _, second, _, last = block.branch
            assert not last.weight.any() and last.bias is None
            assert not first.bias.any() and not second.bias.any()
            for layer, fan_in in ((first, 64), (second, 128 // 4 * 9)):
                expected = math.sqrt(2 / (1 + 0.2**2) / fan_in) / 16 ** (1 / 4)
                assert layer.weight.std().item() == pytest.approx(expected, rel=0.05)
        features = torch.randn(2, 64, 8, 8)
        assert torch.equal(blocks[0](features), features)


def test_what_is_linear_keeps_the_variance_at_first() -> None:
    torch.manual_seed(0)
    layout = Layout(widths=(256, 128), cardinalities=(1, 1), blocks=1, expansion=1)
    flat = Generator(64, layout, 3)
    flat.stages = flat.stages[:2]  # before the interpolation, which smoothes
    pixels = flat.output(flat.stages(flat.basis * flat.input(torch.randn(400, 64))[:, :, None, None]))
    assert pixels.std().item() == pytest.approx(1, rel=0.2)
    blocks = torch.randn(800, 3, 4, 4).repeat_interleave(2, 2).repeat_interleave(2, 3)  # halving gives them back
    assert Discriminator(3, layout)(blocks).std().item() == pytest.approx(1, rel=0.3)
    assert Discriminator(3, layout, 10)(blocks, torch.arange(800) % 10).std().item() == pytest.approx(1, rel=0.3)


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_a_block_is_its_reference(groups: int) -> None:
    torch.manual_seed(0)
    block = shaken(Block(width=6, inner=12, groups=groups, depth=1))
    features = torch.randn(2, 6, 5, 5)
    expected = reference.block(features.double(), reference.double(block), groups)
    torch.testing.assert_close(block(features).double(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
def test_both_networks_are_their_references(channels: int) -> None:
    torch.manual_seed(0)
    cardinality, latents, label = list(SMALL.cardinalities), torch.randn(3, 5), torch.tensor([1, 0, 3])
    generator = shaken(Generator(5, SMALL, channels))
    images = generator(latents)
    assert images.shape == (3, channels, 16, 16)
    expected = reference.generator(reference.double(generator), latents, cardinality, SMALL.blocks)
    torch.testing.assert_close(images.double(), expected, rtol=1e-4, atol=1e-4)

    judged = images.detach().clamp(-1, 1)
    for classes, condition in ((0, ()), (4, (label,))):
        discriminator = shaken(Discriminator(channels, SMALL, classes))
        logits = discriminator(judged, *condition)
        assert logits.shape == (3,)
        expected = reference.discriminator(
            reference.double(discriminator), judged, cardinality, SMALL.blocks, *condition
        )
        torch.testing.assert_close(logits.double(), expected, rtol=1e-4, atol=1e-4)


def test_resampling_is_the_references() -> None:
    """The generator's and the discriminator's own modules, on one random picture."""
    picture = torch.randn(1, 1, 8, 8)
    (up,) = (module for module in Generator(2, SMALL, 1).stages[:4] if isinstance(module, nn.Upsample))
    (down,) = (module for module in Discriminator(1, SMALL).stages[:3] if isinstance(module, nn.AvgPool2d))
    torch.testing.assert_close(up(picture).double(), reference.doubled(picture.double()))
    torch.testing.assert_close(down(picture).double(), reference.halved(picture.double()))


def test_each_stage_more_doubles_the_resolution() -> None:
    for stages, blocks in itertools.product((2, 3), (1, 2)):
        layout = Layout((4,) * stages, (2,) * stages, blocks, 1)
        assert layout.resolution == 4 * 2 ** (stages - 1)
        images = Generator(3, layout, 1)(torch.randn(2, 3))
        assert images.shape == (2, 1, layout.resolution, layout.resolution)
        assert Discriminator(1, layout)(images).shape == (2,)
