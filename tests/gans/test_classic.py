"""The classic recipe's own parts: its prior, and when its penalties count."""

from __future__ import annotations

import torch
from torch import nn

from ganpipe.gans.base import Networks, Request, Step
from ganpipe.gans.classic import Classic, ClassicConfig
from ganpipe.rng import SampleRng, StepRng

CPU = torch.device("cpu")


class Echo(nn.Module):
    """Draws its own latents."""

    def forward(self, latents_NZ: torch.Tensor) -> torch.Tensor:
        return latents_NZ


def drawn(config: ClassicConfig, indices: range) -> torch.Tensor:
    return Classic(config).sample(Echo(), Request(rng=SampleRng(7, indices, CPU), n=len(indices)))


def test_a_prior_of_several_pieces() -> None:
    """Every piece as likely as any other, its coordinate half as long as the normal part, which stays as it was."""
    plain = drawn(ClassicConfig(latent_dim=16), range(600))
    pieces = drawn(ClassicConfig(latent_dim=16, latent_components=3), range(600))
    assert plain.shape == (600, 16) and pieces.shape == (600, 19)
    assert torch.equal(pieces[:, :16], plain)
    assert pieces[:, 16:].sum(1).unique().tolist() == [2.0]
    counts = (pieces[:, 16:] > 0).sum(0)
    assert counts.sum() == 600 and 160 < counts.min() <= counts.max() < 240
    assert torch.equal(drawn(ClassicConfig(latent_dim=16, latent_components=3), range(300, 400)), pieces[300:400])


def test_a_truncation_scales_each_piece_about_its_mean() -> None:
    recipe = Classic(ClassicConfig(latent_dim=16, latent_components=3))
    rng = SampleRng(7, range(8), CPU)
    whole, half, mean = (
        recipe.sample(Echo(), Request(rng=rng, n=8, truncation=truncation)) for truncation in (1, 0.5, 0)
    )
    assert torch.equal(half[:, :16], whole[:, :16] / 2) and not mean[:, :16].any()
    assert torch.equal(half[:, 16:], whole[:, 16:]) and torch.equal(mean[:, 16:], whole[:, 16:])


def test_r1_counts_every_so_many_steps_and_as_many_times_more() -> None:
    """D(x) = sum(3 x) of 4 pixels: |grad|^2 / 2 = 18."""

    class Linear(nn.Module):
        def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
            return 3 * images_NCHW.sum((1, 2, 3))

    class Black(nn.Module):
        def forward(self, latents_NZ: torch.Tensor) -> torch.Tensor:
            return torch.zeros(len(latents_NZ), 1, 2, 2)

    def totals(**options: float) -> list[float]:
        recipe = Classic(ClassicConfig.model_validate({"network": {"name": "dcgan", "norm": "none"}, **options}))
        rng = StepRng(0, 0, "d0", 8, slice(0, 8), CPU)
        batch = {"image": torch.zeros(8, 1, 2, 2)}
        steps = [Step(0, index, 8, 8, rng) for index in range(5)]
        return [
            float(recipe.discriminator_loss(Networks(Black(), Linear()), batch, step).total.detach()) for step in steps
        ]

    plain, penalised = totals(), totals(r1=0.5, penalty_every=4)
    added = [round(ours - theirs, 4) for ours, theirs in zip(penalised, plain, strict=True)]
    assert added == [0.5 * 4 * 18, 0, 0, 0, 0.5 * 4 * 18]
