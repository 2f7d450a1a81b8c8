"""HW06's networks: sizes, names, and pictures recomputed from the state dict by plain functions."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ganpipe.errors import InputError
from ganpipe.gans.base import parameter_count
from ganpipe.networks import dcgan, labels, mlp, resnet, spectral

BATCH_NORM = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]


def test_generator_is_the_homeworks() -> None:
    generator = dcgan.Generator(in_dim=100, feature_dim=64)
    assert parameter_count(generator) == 5_142_080
    stages = [f"l2.{i}.{part}" for i in range(3) for part in ["0.weight", *(f"1.{name}" for name in BATCH_NORM)]]
    assert list(generator.state_dict()) == [
        "l1.0.weight",
        *(f"l1.1.{name}" for name in BATCH_NORM),
        *stages,
        "l3.0.weight",
    ]
    assert len(generator.state_dict()) == 25
    images = generator(torch.randn(2, 100))
    assert images.shape == (2, 3, 64, 64)
    assert images.abs().max() <= 1


def test_discriminator_is_the_homeworks() -> None:
    discriminator = dcgan.Discriminator(3, feature_dim=64)
    assert parameter_count(discriminator) == 2_766_529
    stages = [
        f"l1.{i}.{part}" for i in (2, 3, 4) for part in ["0.weight", "0.bias", *(f"1.{name}" for name in BATCH_NORM)]
    ]
    assert list(discriminator.state_dict()) == ["l1.0.weight", "l1.0.bias", *stages, "l1.5.weight", "l1.5.bias"]
    assert len(discriminator.state_dict()) == 25
    assert discriminator(torch.randn(4, 3, 64, 64)).shape == (4,)


def test_generators_pictures_follow_from_the_state_dict_alone() -> None:
    torch.manual_seed(0)
    generator = dcgan.Generator(in_dim=10, feature_dim=8)
    for module in generator.modules():
        if isinstance(module, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            module.bias.data.normal_()
    state, latents = generator.state_dict(), torch.randn(3, 10)

    def normalised(x: torch.Tensor, name: str) -> torch.Tensor:
        return F.batch_norm(x, *(state[f"{name}.{part}"] for part in ["running_mean", "running_var", "weight", "bias"]))

    def doubled(x: torch.Tensor, name: str) -> torch.Tensor:
        return F.conv_transpose2d(x, state[f"{name}.weight"], stride=2, padding=2, output_padding=1)

    x = F.relu(normalised(F.linear(latents, state["l1.0.weight"]), "l1.1")).reshape(3, -1, 4, 4)
    for stage in range(3):
        x = F.relu(normalised(doubled(x, f"l2.{stage}.0"), f"l2.{stage}.1"))
    expected = torch.tanh(doubled(x, "l3.0"))
    torch.testing.assert_close(generator.eval()(latents), expected, rtol=1e-5, atol=1e-6)


def test_discriminators_logits_follow_from_the_state_dict_alone() -> None:
    torch.manual_seed(0)
    discriminator = dcgan.Discriminator(3, feature_dim=4).eval()
    state, images = discriminator.state_dict(), torch.randn(2, 3, 64, 64)
    x = F.leaky_relu(F.conv2d(images, state["l1.0.weight"], state["l1.0.bias"], 2, 1), 0.2)
    for stage in (2, 3, 4):
        x = F.conv2d(x, state[f"l1.{stage}.0.weight"], state[f"l1.{stage}.0.bias"], 2, 1)
        parts = [state[f"l1.{stage}.1.{part}"] for part in ["running_mean", "running_var", "weight", "bias"]]
        x = F.leaky_relu(F.batch_norm(x, *parts), 0.2)
    expected = F.conv2d(x, state["l1.5.weight"], state["l1.5.bias"]).reshape(-1)
    torch.testing.assert_close(discriminator(images), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("channels", "resolution"), [(1, 32), (3, 32), (1, 64), (3, 128), (1, 8)])
def test_dcgan_at_other_sizes(channels: int, resolution: int) -> None:
    images = dcgan.Generator(16, 4, channels, resolution)(torch.randn(2, 16))
    assert images.shape == (2, channels, resolution, resolution)
    for norm in ("batch", "instance", "none"):
        assert dcgan.Discriminator(channels, 4, resolution, norm)(images).shape == (2,)


def test_half_the_resolution_takes_one_stage_away() -> None:
    assert len(dcgan.Generator(16, 4, 3, 32).l2) == len(dcgan.Generator(16, 4, 3, 64).l2) - 1
    assert len(dcgan.Discriminator(3, 4, 32).l1) == len(dcgan.Discriminator(3, 4, 64).l1) - 1


def test_impossible_resolution_names_the_field() -> None:
    with pytest.raises(InputError, match=r"prepare\.resolution"):
        dcgan.Generator(16, 4, 3, 48)


def test_mlp_takes_images_and_points() -> None:
    assert mlp.Generator(5, (1, 8, 8), 16, 2, bounded=True)(torch.randn(3, 5)).shape == (3, 1, 8, 8)
    points = mlp.Generator(5, (2,), 16, 2, bounded=False)(torch.randn(3, 5))
    assert points.shape == (3, 2)
    assert mlp.Discriminator((2,), 16, 2)(points).shape == (3,)


@pytest.mark.parametrize(("channels", "resolution"), [(1, 8), (3, 32), (1, 64)])
def test_resnet_sizes(channels: int, resolution: int) -> None:
    images = resnet.Generator(6, 8, channels, resolution)(torch.randn(3, 6))
    assert images.shape == (3, channels, resolution, resolution)
    assert images.abs().max() <= 1
    assert resnet.Discriminator(channels, 4, resolution)(images).shape == (3,)
    with pytest.raises(InputError, match=r"prepare\.resolution"):
        resnet.Generator(6, 8, channels, 48)


def test_spectral_norm_divides_by_the_largest_singular_value() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 5, 3), nn.Flatten(), nn.Linear(5 * 36, 1))
    layers = [network[0], network[2]]
    before = [layer.weight.detach().clone() for layer in layers]
    spectral.normalise(network)
    for _ in range(100):
        spectral.iterate(network)
    for layer, weight in zip(layers, before, strict=True):
        sigma = torch.linalg.matrix_norm(weight.flatten(1).double(), ord=2)
        torch.testing.assert_close(layer.weight.double(), weight.double() / sigma, rtol=1e-4, atol=1e-6)


def test_spectral_norm_moves_by_iterations_alone() -> None:
    """Forward passes change nothing, so a batch may be cut into pieces; the gradient sees sigma as u^T W v."""
    torch.manual_seed(0)
    layer = nn.Linear(6, 4, bias=False)
    spectral.normalise(layer)
    state = {name: value.clone() for name, value in layer.state_dict().items()}
    rows = torch.randn(8, 6)
    whole = layer(rows)
    torch.testing.assert_close(torch.cat([layer(rows[:3]), layer(rows[3:])]), whole)
    assert all(torch.equal(state[name], value) for name, value in layer.state_dict().items())

    whole.sum().backward()
    weight = layer.parametrizations.weight.original
    exact = weight.detach().double().requires_grad_(True)
    u, v = (state[f"parametrizations.weight.0.{name}"].double() for name in "uv")
    (rows.double() @ (exact / (u @ exact @ v)).T).sum().backward()
    torch.testing.assert_close(weight.grad.double(), exact.grad, rtol=1e-4, atol=1e-6)


# --- classes -----------------------------------------------------------------------------------------------------


def in_two_parts() -> dict[str, labels.TwoParts]:
    torch.manual_seed(0)
    return {
        "mlp": mlp.Discriminator((3, 8, 8), 16, 2),
        "dcgan": dcgan.Discriminator(3, 4, 8, "none"),
        "resnet": resnet.Discriminator(3, 4, 8),
    }


@pytest.mark.parametrize("name", ["mlp", "dcgan", "resnet"])
def test_a_projection_adds_the_classs_own_direction_of_the_features(name: str) -> None:
    plain = in_two_parts()[name]
    conditional = labels.ProjectionDiscriminator(plain, 5)
    images, label = torch.randn(6, 3, 8, 8), [0, 4, 1, 1, 3, 2]
    found = conditional(images, torch.tensor(label))
    directions = conditional.projection.embedding.weight.detach().double()  # (F, classes)
    for row, number in enumerate(label):
        features = plain.features(images[row : row + 1]).detach().double().flatten()
        assert len(features) == plain.feature_count
        wanted = float(plain(images[row : row + 1]).detach()) + float(features @ directions[:, number])
        assert float(found[row].detach()) == pytest.approx(wanted, rel=1e-4, abs=1e-5)


def test_spectral_norm_finds_the_projection() -> None:
    conditional = labels.ProjectionDiscriminator(in_two_parts()["resnet"], 5)
    spectral.normalise(conditional)
    for _ in range(100):
        spectral.iterate(conditional)
    largest = torch.linalg.matrix_norm(conditional.projection.embedding.weight.detach().double(), ord=2)
    assert float(largest) == pytest.approx(1, rel=1e-4)


def test_an_auxiliary_classifier_reads_the_features_and_leaves_the_logits_alone() -> None:
    for plain in in_two_parts().values():
        conditional, images = labels.AuxiliaryDiscriminator(plain, 5), torch.randn(6, 3, 8, 8)
        logits, classes = conditional(images)
        torch.testing.assert_close(logits, plain(images))
        read = plain.features(images).flatten(1) @ conditional.classifier.weight.T + conditional.classifier.bias
        torch.testing.assert_close(classes, read)


def test_a_class_is_one_more_channel() -> None:
    class Channels(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images

    conditional, images = labels.ConcatDiscriminator(Channels(), 5, 8), torch.randn(2, 3, 8, 8)
    seen = conditional(images, torch.tensor([4, 1]))
    assert torch.equal(seen[:, :3], images)
    assert torch.equal(seen[:, 3].flatten(1), conditional.planes.weight[[4, 1]])


def test_a_class_follows_the_latent() -> None:
    generator = labels.LabelledGenerator(mlp.Generator(6 + 4, (1, 8, 8), 16, 2, bounded=True), 3, 4)
    latents, vectors = torch.randn(3, 6), generator.embedding.weight
    assert generator.classes == 3
    wanted = generator.generator(torch.cat([latents, torch.stack([vectors[2], vectors[0], vectors[2]])], dim=1))
    torch.testing.assert_close(generator(latents, torch.tensor([2, 0, 2])), wanted)
