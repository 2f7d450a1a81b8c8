"""R3GAN's own parts: its losses against a second implementation, the course of gamma, classes, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import r3gan_reference as reference
import torch
import torch.nn.functional as F
from tiny import SMALL_R3GAN, points_raw, tiny_raw
from torch import Tensor, nn

from ganpipe.config import load_config
from ganpipe.errors import InputError
from ganpipe.gans.base import Networks, Request, Step
from ganpipe.gans.r3gan import R3GAN, R3GANConfig
from ganpipe.prepare.manifest import Dataset
from ganpipe.rng import SampleRng, StepRng
from ganpipe.storage import Store
from ganpipe.train.trainer import Trainer

CPU = torch.device("cpu")


def small_raw(**gan: Any) -> dict[str, Any]:
    return {**tiny_raw(), "gan": {**SMALL_R3GAN, **gan}}


def step_at(images_seen: int = 0, update_index: int = 0, n: int = 16) -> Step:
    return Step(images_seen, update_index, n, n, StepRng(0, images_seen, "d0", n, slice(0, n), CPU))


# --- losses ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("conditioning", ["none", "projection"])
def test_losses_are_those_of_the_reference(conditioning: str, digits: Dataset, store: Store, tmp_path: Path) -> None:
    """The networks in float64 from their state dicts, the penalties by autograd through them, one sample at a time."""
    trainer = Trainer(load_config(small_raw(conditioning=conditioning, gamma=3)), digits, "run", store, tmp_path)
    assert trainer.discriminator is not None
    with torch.no_grad():
        for network in (trainer.generator, trainer.discriminator):
            for parameter in network.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
    batch, step = trainer.batches.at(0, 16, slice(0, 16)), trainer._step_at("d0", 0, slice(0, 16))
    label = batch["label"] if conditioning == "projection" else None

    state, latents = reference.double(trainer.generator), step.rng.normal("latents", 16, (8,)).double()
    if label is not None:
        latents = torch.cat([latents, state["embedding.weight"][label]], 1)
        state = reference.part(state, "generator")
    real, fake = batch["image"].double(), reference.generator(state, latents, [4, 3], 1)
    state = reference.double(trainer.discriminator)

    def judged(images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits, and half the squared norm of each one's gradient."""
        images = images.clone().requires_grad_(True)
        logits = reference.discriminator(state, images, [4, 3], 1, label)
        norms = [torch.autograd.grad(logits[i], images, retain_graph=True)[0][i].norm() for i in range(16)]
        return logits.detach(), torch.stack(norms).square() / 2

    (real_logits, r1), (fake_logits, r2) = judged(real), judged(fake)
    expected = torch.log1p(torch.exp(fake_logits - real_logits)).mean() + 3 * r1.mean() + 3 * r2.mean()
    loss = trainer.gan.discriminator_loss(trainer.nets, batch, step)
    assert loss.total.item() == pytest.approx(expected.item(), rel=1e-4)
    assert loss.logs["r1"].item() == pytest.approx(r1.mean().item(), rel=1e-4)
    assert loss.logs["r2"].item() == pytest.approx(r2.mean().item(), rel=1e-4)
    expected = torch.log1p(torch.exp(real_logits - fake_logits)).mean()
    assert trainer.gan.generator_loss(trainer.nets, batch, step).total.item() == pytest.approx(
        expected.item(), rel=1e-4
    )


class Sum(nn.Module):
    """D(x) = 3 sum(x) of 4 pixels: |grad|^2 / 2 = 18."""

    def forward(self, images_NCHW: Tensor) -> Tensor:
        return 3 * images_NCHW.sum((1, 2, 3))


class Black(nn.Module):
    def forward(self, latents_NZ: Tensor) -> Tensor:
        return torch.zeros(len(latents_NZ), 1, 2, 2)


def test_gamma_follows_its_schedule_and_lazy_penalties_weigh_more() -> None:
    def penalty(images_seen: int, update_index: int, **fields: Any) -> float:
        recipe = R3GAN(R3GANConfig.model_validate(fields))
        batch = {"image": torch.zeros(16, 1, 2, 2)}
        loss = recipe.discriminator_loss(Networks(Black(), Sum()), batch, step_at(images_seen, update_index))
        return float(loss.total.detach() - loss.logs["adversarial"])

    falling = [{"start": 2, "end": 0.5, "over_kimg": 10}]
    found = [penalty(images_seen, 3, gamma=falling) for images_seen in (0, 5_000, 10_000, 99_000)]
    assert found == pytest.approx([2 * 36, 1.25 * 36, 0.5 * 36, 0.5 * 36])
    assert [penalty(0, index, gamma=2, penalty_every=4) for index in range(5)] == pytest.approx([288, 0, 0, 0, 288])


# --- classes -----------------------------------------------------------------------------------------------------


def test_fakes_take_the_classes_of_the_real_images_they_are_paired_with() -> None:
    class Shade(nn.Module):
        """Draws the class's number."""

        def forward(self, latents_NZ: Tensor, label_N: Tensor) -> Tensor:
            return label_N.float().view(-1, 1, 1, 1).expand(-1, 1, 2, 2)

    class Same(nn.Module):
        """Gives 5 where an image shows the class it is judged for, else 0."""

        def forward(self, images_NCHW: Tensor, label_N: Tensor) -> Tensor:
            return 5 * (images_NCHW[:, 0, 0, 0] == label_N) + 0 * images_NCHW.sum((1, 2, 3))

    recipe, label_N = R3GAN(R3GANConfig(conditioning="projection")), torch.arange(16) % 10
    batch = {"image": torch.full((16, 1, 2, 2), -1.0), "label": label_N}
    nets = Networks(Shade(), Same())
    certain = F.softplus(torch.tensor(5.0)).item()
    assert recipe.discriminator_loss(nets, batch, step_at()).total.item() == pytest.approx(certain)
    assert recipe.generator_loss(nets, batch, step_at()).total.item() == pytest.approx(certain - 5, abs=1e-6)


def test_samples_show_the_class_asked_for_and_stay_within_black_and_white(digits: Dataset) -> None:
    torch.manual_seed(0)
    recipe = R3GAN(R3GANConfig.model_validate({**SMALL_R3GAN, "conditioning": "projection"}))
    generator = recipe.build_networks(digits.spec()).generator
    with torch.no_grad():
        images, same, other = (
            recipe.sample(generator, Request(SampleRng(0, range(6), CPU), 6, label=torch.tensor(label)))
            for label in ([3] * 6, [3] * 6, [4] * 6)
        )
        drawn = recipe.sample(generator, Request(SampleRng(0, range(6), CPU), 6))
    assert images.shape == drawn.shape == (6, 1, 8, 8)
    assert images.abs().max() == 1  # an untrained generator's deviation is 1
    assert torch.equal(images, same) and not torch.isclose(images, other).all((1, 2, 3)).any()


# --- refused -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("prepare.resolution=16", r"gan\.widths has 2 stages.*8 pixels.*prepare\.resolution is 16.*4, 8, \.\.\., 16"),
        ("gan.widths=[8, 8, 8]", r"gan\.cardinality has 2 numbers and gan\.widths 3"),
        ("gan.cardinality=[4, 5]", r"gan\.cardinality 5 does not divide the 12 features.*gan\.widths 6"),
        ("gan.widths=[8]", r"gan\.widths"),
        ("gan.widths=[8, 0]", r"gan\.widths"),
        ("gan.gamma=-1", r"gan\.gamma"),
        ("gan.conditioning=concat", r"gan\.conditioning"),
        ("gan.network=mlp", r"gan\.network"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(override: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_config(small_raw(), [override])


def test_points_and_missing_labels_are_refused_before_any_work() -> None:
    with pytest.raises(InputError, match=r"gan\.name r3gan .*points"):
        load_config({**points_raw(), "gan": SMALL_R3GAN})
    raw = small_raw(conditioning="projection")
    raw["prepare"]["source"] = {"name": "folder", "path": "x", "labels": "none"}
    with pytest.raises(InputError, match=r"gan\.conditioning projection needs labels"):
        load_config(raw)


def test_the_papers_optimizer_is_the_default() -> None:
    optimizers = load_config(small_raw()).train.optimizers
    assert optimizers is not None
    for side in (optimizers.generator, optimizers.discriminator):
        assert side is not None and side.name == "adam"
        assert (side.lr.at(0), side.beta1.at(0), side.beta2.at(0)) == (2e-4, 0, 0.99)
