"""StyleGAN2's own parts: its losses against a second implementation, lazy penalties, mixing, truncation, its seeds."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import stylegan2_reference as reference
import torch
from tiny import SMALL_STYLEGAN2, points_raw, tiny_raw
from torch import Tensor

from ganpipe import sample
from ganpipe.config import load_config
from ganpipe.errors import InputError
from ganpipe.gans.base import Loss, Request, parameter_count
from ganpipe.gans.stylegan2 import StyleGAN2
from ganpipe.launch import StopSignal
from ganpipe.networks.stylegan2 import Generator
from ganpipe.prepare.manifest import Dataset
from ganpipe.rng import SampleRng
from ganpipe.spec import Column
from ganpipe.storage import Store
from ganpipe.train.trainer import Trainer

CONFIGS = Path(__file__).parents[2] / "configs"
CPU = torch.device("cpu")


def trainer_of(digits: Dataset, store: Store, work: Path, **gan: Any) -> Trainer:
    """Every weight away from where it begins, so that each of them shows."""
    trainer = Trainer(load_config({**tiny_raw(), "gan": {**SMALL_STYLEGAN2, **gan}}), digits, "run", store, work)
    assert trainer.discriminator is not None
    with torch.no_grad():
        for network in (trainer.generator, trainer.ema.module, trainer.discriminator):
            torch.manual_seed(1)
            for parameter in network.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
    return trainer


def losses_at(trainer: Trainer, update_index: int = 0) -> tuple[Loss, Loss]:
    """Of both sides, for one batch."""
    trainer.progress = trainer.progress.model_copy(update={"steps": update_index})
    rows = slice(0, 16)
    batch = trainer.batches.at(0, 16, rows)
    sides = (trainer.gan.discriminator_loss, trainer.gan.generator_loss)
    discriminator, generator = (side(trainer.nets, batch, trainer._step_at("d0", 0, rows)) for side in sides)
    return discriminator, generator


# --- losses ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("style_mixing", "conditioning"), [(0, "none"), (0.9, "none"), (0.9, "projection")])
def test_losses_are_those_of_the_reference(
    style_mixing: float, conditioning: str, digits: Dataset, store: Store, tmp_path: Path
) -> None:
    """The networks in float64 from their state dicts, R1 and path lengths by autograd through them, image by image."""
    trainer = trainer_of(digits, store, tmp_path, r1=3, style_mixing=style_mixing, conditioning=conditioning)
    trainer.gan.load_state_dict({"shared": {"mean_path_length": torch.tensor(0.5)}})
    rng, batch = trainer._step_at("d0", 0, slice(0, 16)).rng, trainer.batches.at(0, 16, slice(0, 16))
    label = batch["label"] if conditioning == "projection" else None
    state = reference.double(trainer.generator)
    mapping = reference.part(state, "mapping")
    noise = rng.normal("noise", 16, (4 * 4 + 2 * 8 * 8,)).double()
    styles = torch.stack([reference.mapping(rng.normal("latents", 16, (8,)).double(), mapping, label)] * 4, 1)
    if style_mixing:
        others = replace(rng, update="d0-others").normal("latents", 16, (8,)).double()
        other = reference.mapping(others, mapping, label)
        crossover = rng.integers("crossover", 16, 1, 4)
        mixed = [i for i, drawn in enumerate(rng.uniform("mixed", 16).tolist()) if drawn < style_mixing]
        assert 0 < len(mixed) < 16
        for i in mixed:
            styles[i, crossover[i] :] = other[i]
    styles.requires_grad_(True)
    fake = reference.synthesis(state, styles, noise)
    state = reference.double(trainer.discriminator)
    real = batch["image"].double().requires_grad_(True)
    real_logits, fake_logits = (reference.discriminator(state, images, label) for images in (real, fake.detach()))

    # of the sum of all logits, as a group's deviation makes each depend on its neighbours, too
    (gradient,) = torch.autograd.grad(real_logits.sum(), real)
    r1 = torch.stack([row.norm() ** 2 / 2 for row in gradient]).mean()
    adversarial = torch.log1p(torch.exp(-real_logits)).mean() + torch.log1p(torch.exp(fake_logits)).mean()
    directions = rng.normal("directions", 16, (1, 8, 8)).double()
    lengths = []
    for i in range(16):
        (row,) = torch.autograd.grad((fake[i] * directions[i]).sum() / 8, styles, retain_graph=True)
        lengths.append((row[i].square().sum() / 4).sqrt())
    penalty = torch.stack([(length - 0.5) ** 2 for length in lengths]).mean()

    discriminator, generator = losses_at(trainer)
    assert discriminator.logs["r1"].item() == pytest.approx(r1.item(), rel=1e-4)
    assert discriminator.total.item() == pytest.approx((adversarial + 3 * 16 * r1).item(), rel=1e-4)
    assert generator.logs["path_length"].item() == pytest.approx(torch.stack(lengths).mean().item(), rel=1e-4)
    expected = torch.log1p(torch.exp(-fake_logits)).mean() + 2 * 4 * penalty
    assert generator.total.item() == pytest.approx(expected.item(), rel=1e-4)


def test_penalties_count_every_so_many_steps_and_as_many_times_more(
    digits: Dataset, store: Store, tmp_path: Path
) -> None:
    trainer = trainer_of(digits, store, tmp_path, r1=3, r1_every=3, path_length=5, path_length_every=2)
    for index in range(7):
        for name, loss, weight in zip(("r1", "path_length_penalty"), losses_at(trainer, index), (9, 10), strict=True):
            due = index % (3 if name == "r1" else 2) == 0
            assert (name in loss.logs) == due
            expected = loss.logs["adversarial"] + (weight * loss.logs[name] if due else 0)
            assert loss.total.item() == pytest.approx(expected.item(), rel=1e-5)


def test_gamma_follows_its_schedule(digits: Dataset, store: Store, tmp_path: Path) -> None:
    trainer = trainer_of(digits, store, tmp_path, r1=[{"start": 2, "end": 0, "over_kimg": 1}], r1_every=1)
    batch = trainer.batches.at(0, 16, slice(0, 16))
    for images_seen, gamma in ((0, 2), (500, 1), (1000, 0), (9000, 0)):
        loss = trainer.gan.discriminator_loss(trainer.nets, batch, trainer._step_at("d0", images_seen, slice(0, 16)))
        expected = loss.logs["adversarial"] + gamma * loss.logs["r1"]
        assert loss.total.item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_mean_path_length_follows_and_outlives_the_process(digits: Dataset, store: Store, tmp_path: Path) -> None:
    """0.01 of the way at every update that has one; a checkpoint keeps it."""
    raw = {**tiny_raw(), "gan": {**SMALL_STYLEGAN2, "path_length_every": 2}}
    raw["train"]["log_every_kimg"] = 0.016
    trainer = Trainer(load_config(raw), digits, "run", store, tmp_path)
    trainer.fit(StopSignal())
    expected = 0.0
    for line in store.read_bytes("runs/run/metrics.jsonl").splitlines():
        length = json.loads(line)["metrics"].get("generator/path_length")
        expected += 0.01 * (length - expected) if length is not None else 0
    assert 0 < trainer.gan.state_dict()["shared"]["mean_path_length"].item() == pytest.approx(expected, rel=1e-4)
    again = Trainer(load_config(raw), digits, "run", store, tmp_path)
    again._newest_checkpoint()
    assert again.gan.state_dict() == trainer.gan.state_dict()


# --- samples -----------------------------------------------------------------------------------------------------


def test_truncated_samples_do_not_depend_on_what_they_are_drawn_with(
    digits: Dataset, store: Store, tmp_path: Path
) -> None:
    trainer = trainer_of(digits, store, tmp_path, conditioning="projection")
    parts = [
        torch.cat(list(sample.draw(trainer.gan, trainer.ema.module, 5, rows, truncation=0.5)))
        for rows in (range(100), [70, 3])
    ]
    assert torch.equal(parts[1], parts[0][[70, 3]])


def drawn(gan: StyleGAN2, generator: Generator, **request: Any) -> Tensor:
    with torch.no_grad():
        return gan.sample(generator, Request(SampleRng(7, range(8), CPU), 8, **request))


def test_a_truncation_keeps_to_class_and_piece(digits: Dataset, store: Store, tmp_path: Path) -> None:
    """None of it left, samples are as many as there are pairs of a class and a piece, each row of its own pair."""
    trainer = trainer_of(digits, store, tmp_path, conditioning="projection", latent_components=2)
    gan, generator = trainer.gan, trainer.ema.module
    assert isinstance(gan, StyleGAN2) and isinstance(generator, Generator)
    for layer in generator.layers:
        layer.noise_strength.zero_()
    label = torch.tensor([3, 4, 3, 4, 5, 5, 5, 5])
    images = drawn(gan, generator, label=label, truncation=0.0).flatten(1)
    piece = SampleRng(7, range(8), CPU).integers("component", 8, 0, 2)
    kinds = label * 2 + piece
    assert 3 < len(kinds.unique()) < 8
    same = torch.tensor([[torch.allclose(one, other) for one in images] for other in images])
    assert torch.equal(same, kinds[:, None] == kinds)
    alone = gan.sample(generator, Request(SampleRng(7, [4], CPU), 1, label=label[4:5], truncation=0.0))
    torch.testing.assert_close(alone.flatten(1)[0], images[4])


def test_samples_show_the_class_asked_for(digits: Dataset, store: Store, tmp_path: Path) -> None:
    trainer = trainer_of(digits, store, tmp_path, conditioning="projection")
    gan, generator = trainer.gan, trainer.ema.module
    assert isinstance(gan, StyleGAN2) and isinstance(generator, Generator)
    threes, again, fours = (drawn(gan, generator, label=torch.tensor([number] * 8)) for number in (3, 3, 4))
    assert torch.equal(threes, again) and not torch.isclose(threes, fours).all((1, 2, 3)).any()
    by_class = {number: drawn(gan, generator, label=torch.tensor([number] * 8)) for number in range(10)}
    numbers = SampleRng(7, range(8), CPU).integers("label", 8, 0, 10)
    expected = torch.stack([by_class[number][row] for row, number in enumerate(numbers.tolist())])
    torch.testing.assert_close(drawn(gan, generator), expected)


def test_a_truncation_leads_styles_to_their_mean(
    digits: Dataset, store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Half of it is half way, none of it the mean, which 1,000 more latents have, too; noise is left as it is."""
    trainer = trainer_of(digits, store, tmp_path)
    gan, generator = trainer.gan, trainer.ema.module
    assert isinstance(gan, StyleGAN2) and isinstance(generator, Generator)
    seen: list[Tensor] = []
    synthesis = generator.synthesis

    def watched(styles_NLV: Tensor, noise_NF: Tensor) -> Tensor:
        seen.append(styles_NLV)
        return synthesis(styles_NLV, noise_NF)

    monkeypatch.setattr(generator, "synthesis", watched)
    images = [drawn(gan, generator, truncation=truncation) for truncation in (1.0, 0.5, 0.0)]
    whole, half, mean = seen
    torch.testing.assert_close(half, (whole + mean) / 2)
    assert torch.equal(mean, mean[:1, :1].expand_as(mean))
    with torch.no_grad():
        others = generator.mapping(torch.randn(4000, 8, generator=torch.Generator().manual_seed(0)))
    error = (others.mean(0) - mean[0, 0]).norm() / others.std(0).norm()
    assert error < 3 * (1 / 4000 + 1 / 1024) ** 0.5
    assert len(images[2].flatten(1).unique(dim=0)) == 8  # by noise alone
    assert all(image.abs().max() <= 1 for image in images)


def test_latents_may_be_given(digits: Dataset, store: Store, tmp_path: Path) -> None:
    trainer = trainer_of(digits, store, tmp_path)
    gan, generator = trainer.gan, trainer.ema.module
    assert isinstance(gan, StyleGAN2) and isinstance(generator, Generator)
    latents = SampleRng(7, range(8), CPU).normal("latents", 8, (8,))
    assert torch.equal(drawn(gan, generator, latents=latents), drawn(gan, generator))
    assert not torch.equal(drawn(gan, generator, latents=-latents), drawn(gan, generator))


# --- configurations ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "of_generator"), [("ffhq256", 24_767_458), ("ffhq64", 22_243_608), ("hw06", 22_243_608)]
)
def test_shipped_networks_are_of_the_published_size(name: str, of_generator: int) -> None:
    config = load_config(CONFIGS / f"{name}-stylegan2.yaml")
    shape = (3, config.prepare.resolution, config.prepare.resolution)
    spec = {"image": Column(kind="image", dtype="uint8", shape=shape, shards=())}
    with torch.device("meta"):
        networks = StyleGAN2(config.gan).build_networks(spec)
    assert parameter_count(networks.generator) == of_generator


# --- refused -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("gan.r1=-1", r"gan\.r1"),
        ("gan.r1_every=0", r"gan\.r1_every"),
        ("gan.path_length=0", r"gan\.path_length"),
        ("gan.style_mixing=1.5", r"gan\.style_mixing"),
        ("gan.network=mlp", r"gan\.network"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(override: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_config({**tiny_raw(), "gan": SMALL_STYLEGAN2}, [override])


def test_points_are_refused_before_any_work() -> None:
    with pytest.raises(InputError, match=r"gan\.name stylegan2 .*points"):
        load_config({**points_raw(), "gan": SMALL_STYLEGAN2})


def test_the_papers_optimizer_is_the_default() -> None:
    optimizers = load_config({**tiny_raw(), "gan": SMALL_STYLEGAN2}).train.optimizers
    assert optimizers is not None
    for side in (optimizers.generator, optimizers.discriminator):
        assert side is not None and side.name == "adam"
        assert (side.lr.at(0), side.beta1.at(0), side.beta2.at(0)) == (2e-3, 0, 0.99)
