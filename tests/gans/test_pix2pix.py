"""pix2pix: its three objectives, every adversarial game, and noise that belongs to a row."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from translation_data import CPU, discriminator_of, image_column, step_at, unreached

from ganpipe.errors import InputError
from ganpipe.gans.base import Networks, Plan, Request
from ganpipe.gans.pix2pix import Pix2Pix, Pix2PixConfig
from ganpipe.networks import unet
from ganpipe.rng import SampleRng

SPEC = {"source": image_column(), "target": image_column(3)}
SMALL = {"feature_dim": 4, "patch_layers": 1}
GAMES: list[dict[str, Any]] = [
    {"adversarial": "minimax"},
    {"adversarial": "non_saturating", "r1": 1, "patch_norm": "none"},
    {"adversarial": "lsgan", "patch_norm": "instance"},
    {"adversarial": "hinge"},
    {"adversarial": "wasserstein", "gradient_penalty": 10, "patch_norm": "instance"},
    {"adversarial": "relativistic", "r1": 1, "r2": 1, "patch_norm": "none"},
]


def recipe(**options: Any) -> Pix2Pix:
    return Pix2Pix(Pix2PixConfig.model_validate(SMALL | options))


def built(gan: Pix2Pix) -> Networks:
    torch.manual_seed(0)
    return gan.build_networks(SPEC)


def batch(n: int = 4) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    sources = torch.rand(n, 1, 16, 16, generator=generator) * 2 - 1
    return {"source": sources, "target": -sources.expand(-1, 3, -1, -1)}


def test_both_is_the_sum_of_its_terms() -> None:
    totals, logs = {}, {}
    for objective in ("l1", "gan", "both"):
        gan = recipe(objective=objective, l1_weight=7)
        loss = gan.generator_loss(built(gan), batch(), step_at("g0"))
        totals[objective], logs[objective] = loss.total, loss.logs
    torch.testing.assert_close(totals["both"], totals["gan"] + totals["l1"])
    torch.testing.assert_close(totals["l1"], 7 * logs["gan"]["l1"])
    assert logs["both"].keys() == logs["gan"].keys() == {"adversarial", "l1"} and logs["l1"].keys() == {"l1"}


def test_l1_alone_has_no_discriminator() -> None:
    gan = recipe(objective="l1")
    assert built(gan).discriminator is None
    assert gan.plan(0) == Plan(0, 1)
    assert gan.optimizers().discriminator is None
    assert not gan.absolute_logits()


@pytest.mark.parametrize("game", GAMES, ids=lambda game: game["adversarial"])
def test_each_phase_reaches_every_parameter(game: dict[str, Any]) -> None:
    gan = recipe(**game)
    nets = built(gan)
    judging = gan.discriminator_loss(nets, batch(), step_at("d0"))
    assert unreached(discriminator_of(nets), judging.total) == []
    assert unreached(nets.generator, gan.generator_loss(nets, batch(), step_at("g0")).total) == []
    assert gan.absolute_logits() == ("sign_real" in judging.stats)
    assert {"gradient_penalty", "r1", "r2"} & judging.logs.keys() == {"gradient_penalty", "r1", "r2"} & game.keys()


def test_penalties_are_of_the_image_and_count_every_so_many_steps() -> None:
    """Each of 4 logits is 3 sum(y) + 5 sum(x) of 64 pixels: |grad|^2 / 2 of their mean in y is 288."""

    class Linear(nn.Module):
        def forward(self, images_NCHW: Tensor, sources_NCHW: Tensor) -> Tensor:
            logits_N = 3 * images_NCHW.sum((1, 2, 3)) + 5 * sources_NCHW.sum((1, 2, 3))
            return logits_N[:, None, None].expand(-1, 2, 2)

    def totals(**options: Any) -> list[float]:
        gan = recipe(patch_norm="none", dropout=False, **options)
        torch.manual_seed(0)
        nets = Networks(unet.Generator(1, 1, 2, 8, dropout=False), Linear())
        still = {"source": torch.zeros(4, 1, 8, 8), "target": torch.zeros(4, 1, 8, 8)}
        return [float(gan.discriminator_loss(nets, still, step_at("d0", index)).total.detach()) for index in range(3)]

    plain, penalised = totals(), totals(r1=0.5, penalty_every=2)
    added = [ours - theirs for ours, theirs in zip(penalised, plain, strict=True)]
    assert added == [pytest.approx(0.5 * 2 * 288, rel=1e-4), 0, pytest.approx(0.5 * 2 * 288, rel=1e-4)]


def translated(gan: Pix2Pix, nets: Networks, sources: Tensor, indices: range, seed: int = 7) -> Tensor:
    request = Request(SampleRng(seed, indices, CPU), len(indices), sources=sources)
    return gan.sample(nets.generator.eval(), request)


def test_a_row_is_translated_by_its_own_noise_alone() -> None:
    gan = recipe()
    nets, sources = built(gan), batch(1)["source"].expand(6, -1, -1, -1)
    many = translated(gan, nets, sources, range(6))
    assert len(many.flatten(1).unique(dim=0)) == 6
    torch.manual_seed(5)
    torch.testing.assert_close(translated(gan, nets, sources[2:4], range(2, 4)), many[2:4], rtol=1e-4, atol=1e-6)
    assert not torch.isclose(translated(gan, nets, sources, range(6), seed=8), many).flatten(1).all(1).any()
    silent = recipe(dropout=False)
    once = translated(silent, built(silent), sources, range(6))
    torch.testing.assert_close(once, once[:1].expand(6, -1, -1, -1), rtol=1e-4, atol=1e-6)


def test_it_learns_a_translation() -> None:
    """From an image to its negative in another number of channels."""
    gan = recipe(feature_dim=8, dropout=False)
    nets = built(gan)
    discriminator = discriminator_of(nets)
    optimizers = [
        torch.optim.Adam(network.parameters(), 2e-3, (0.5, 0.999)) for network in (discriminator, nets.generator)
    ]
    distances = []
    for index in range(40):
        for phase, optimizer in zip((gan.discriminator_loss, gan.generator_loss), optimizers, strict=True):
            optimizer.zero_grad()
            loss = phase(nets, batch(), step_at(phase.__name__[0] + "0", index))
            loss.total.backward()
            optimizer.step()
        distances.append(float(loss.logs["l1"]))
    assert distances[-1] < 0.5 * distances[0]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"r1": 1}, "gan.patch_norm batch"),
        ({"adversarial": "wasserstein", "patch_norm": "none"}, "set gan.gradient_penalty"),
        ({"penalty_every": 4}, "gan.penalty_every is for gan.r1"),
    ],
)
def test_unsound_pairs_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Pix2PixConfig.model_validate(options)


def test_data_that_do_not_fit_are_refused() -> None:
    gan = recipe(patch_layers=3)
    assert gan.columns({"source", "target", "label"}) == {"source", "target"}
    with pytest.raises(InputError, match=r"the data has no source and no target; change prepare\.source"):
        gan.columns({"image"})
    with pytest.raises(InputError, match=r"gan\.patch_layers 3 .* lower gan\.patch_layers to 2"):
        gan.check_resolution(16)
    with pytest.raises(InputError, match=r"change prepare\.resolution"):
        gan.check_resolution(48)
    with pytest.raises(InputError, match="none were given"):
        gan.sample(built(recipe()).generator, Request(SampleRng(0, range(2), CPU), 2))
