"""Every adversarial term and penalty against a closed form or float64 autograd."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from ganpipe import losses
from ganpipe.gans.classic import OBJECTIVES, Objective

REAL = torch.tensor([-3.0, -0.2, 0.0, 0.7, 4.0], dtype=torch.float64)
WRONG = torch.tensor([-2.0, -0.7, 0.1, 1.3, 3.5], dtype=torch.float64)
FAKE = torch.tensor([-5.0, -1.1, 0.3, 0.9, 2.5], dtype=torch.float64)


def probability(logits: torch.Tensor) -> torch.Tensor:
    return 1 / (1 + torch.exp(-logits))


@pytest.mark.parametrize(
    ("computed", "expected"),
    [
        (
            losses.cross_entropy_discriminator(REAL, FAKE),
            -probability(REAL).log().mean() - (1 - probability(FAKE)).log().mean(),
        ),
        (losses.minimax_generator(FAKE), (1 - probability(FAKE)).log().mean()),
        (losses.non_saturating_generator(FAKE), -probability(FAKE).log().mean()),
        (losses.wasserstein_discriminator(REAL, FAKE), FAKE.mean() - REAL.mean()),
        (losses.wasserstein_generator(FAKE), -FAKE.mean()),
        (losses.least_squares_discriminator(REAL, FAKE), 0.5 * ((REAL - 1) ** 2).mean() + 0.5 * (FAKE**2).mean()),
        (losses.least_squares_generator(FAKE), 0.5 * ((FAKE - 1) ** 2).mean()),
        (losses.hinge_discriminator(REAL, FAKE), (1 - REAL).clamp(min=0).mean() + (1 + FAKE).clamp(min=0).mean()),
        (losses.relativistic_discriminator(REAL, FAKE), -probability(REAL - FAKE).log().mean()),
        (losses.relativistic_generator(REAL, FAKE), -probability(FAKE - REAL).log().mean()),
        (
            losses.matching_aware_discriminator(REAL, FAKE, WRONG, 0.25),
            -probability(REAL).log().mean()
            - 0.75 * (1 - probability(FAKE)).log().mean()
            - 0.25 * (1 - probability(WRONG)).log().mean(),
        ),
        (
            losses.matching_aware_discriminator(REAL, FAKE),
            -probability(REAL).log().mean() - (1 - probability(FAKE)).log().mean(),
        ),
    ],
    ids=[
        *("cross_entropy", "minimax", "non_saturating", "wasserstein_d", "wasserstein_g"),
        *("lsgan_d", "lsgan_g", "hinge_d", "relativistic_d", "relativistic_g"),
        *("matching_aware", "matching_aware_without_wrong"),
    ],
)
def test_terms_equal_their_textbook_form(computed: torch.Tensor, expected: torch.Tensor) -> None:
    assert float(computed) == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=list(OBJECTIVES))
def test_patches_count_as_one_logit_each(objective: Objective) -> None:
    real, fake = torch.randn(2, 12, generator=torch.Generator().manual_seed(0))
    sides = (real, fake) if objective.paired else (fake,)
    patches = [side.view(2, 3, 2) for side in (real, fake)]
    assert torch.equal(objective.discriminator(*patches), objective.discriminator(real, fake))
    assert torch.equal(objective.generator(*patches[-len(sides) :]), objective.generator(*sides))


def test_terms_stay_finite_where_the_textbook_form_does_not() -> None:
    extreme = torch.tensor([-1e4, 1e4])
    for value in (
        losses.cross_entropy_discriminator(extreme, extreme),
        losses.minimax_generator(extreme),
        losses.non_saturating_generator(extreme),
    ):
        assert value.isfinite()


def test_generator_terms_push_fakes_towards_higher_logits() -> None:
    for term in (losses.minimax_generator, losses.non_saturating_generator, losses.wasserstein_generator):
        logits = FAKE.clone().requires_grad_(True)
        term(logits).backward()
        assert logits.grad is not None
        assert (logits.grad < 0).all()


def test_saturating_and_non_saturating_gradients_differ_where_the_discriminator_is_sure() -> None:
    """At D(G(z)) -> 0 the minimax gradient vanishes and the non-saturating one does not."""
    sure = torch.tensor([-20.0], dtype=torch.float64)
    gradients = []
    for term in (losses.minimax_generator, losses.non_saturating_generator):
        logits = sure.clone().requires_grad_(True)
        (gradient,) = torch.autograd.grad(term(logits), logits)
        gradients.append(abs(float(gradient)))
    assert gradients[0] < 1e-8
    assert gradients[1] == pytest.approx(1.0, abs=1e-6)


def test_js_bound_is_the_divergence_at_the_optimal_discriminator() -> None:
    """Two distributions over three outcomes, as exact counts out of ten; the optimal logit is log(p / q)."""
    p, q = torch.tensor([5, 4, 1]), torch.tensor([2, 2, 6])
    optimal = (p.double() / q.double()).log()
    loss = losses.cross_entropy_discriminator(optimal.repeat_interleave(p), optimal.repeat_interleave(q))
    middle = (p + q) / 20
    divergence = sum(0.5 * float((side / 10 * (side / 10 / middle).log()).sum()) for side in (p.double(), q.double()))
    assert float(losses.js_divergence_bound(loss)) == pytest.approx(divergence, rel=1e-6)


def test_gradient_penalty_of_a_linear_critic() -> None:
    weight = torch.tensor([3.0, -4.0, 12.0])
    real, fake, mix = torch.randn(7, 3), torch.randn(7, 3), torch.rand(7)
    penalty = losses.gradient_penalty(lambda rows: rows @ weight, real, fake, mix)
    assert penalty.item() == pytest.approx((13 - 1) ** 2, rel=1e-6)


def test_gradient_penalty_is_taken_at_the_interpolates() -> None:
    """For f(x) = |x|^2 / 2 the gradient is x itself."""
    real, fake, mix = torch.randn(5, 2, 3, 3), torch.randn(5, 2, 3, 3), torch.rand(5)
    penalty = losses.gradient_penalty(lambda rows: rows.square().sum((1, 2, 3)) / 2, real, fake, mix)
    mixed = mix.view(-1, 1, 1, 1) * real + (1 - mix.view(-1, 1, 1, 1)) * fake
    expected = (mixed.double().flatten(1).norm(dim=1) - 1).square().mean()
    assert penalty.item() == pytest.approx(expected.item(), rel=1e-5)


def test_gradient_penalty_weight_gradients_equal_finite_differences() -> None:
    torch.manual_seed(0)
    critic = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    real, fake, mix = torch.randn(6, 4), torch.randn(6, 4), torch.rand(6)
    losses.gradient_penalty(lambda rows: critic(rows).flatten(), real, fake, mix).backward()
    weight = critic[0].weight
    assert weight.grad is not None

    exact = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    exact.load_state_dict(critic.state_dict())
    mixed = (mix[:, None] * real + (1 - mix[:, None]) * fake).double()

    def penalty() -> float:
        """The gradient of tanh's network by hand: W1^T (w2 * (1 - h^2))."""
        hidden = torch.tanh(exact[0](mixed))
        gradient = ((1 - hidden**2) * exact[2].weight) @ exact[0].weight
        return float((gradient.norm(dim=1) - 1).square().mean())

    with torch.no_grad():
        for row, column in [(0, 0), (3, 2), (7, 1)]:
            step = 1e-6
            exact[0].weight[row, column] += step
            above = penalty()
            exact[0].weight[row, column] -= 2 * step
            below = penalty()
            exact[0].weight[row, column] += step
            assert float(weight.grad[row, column]) == pytest.approx((above - below) / (2 * step), rel=1e-3, abs=1e-5)


def test_zero_centred_penalty_is_half_the_squared_gradient() -> None:
    """For f(x) = a |x|^2 / 2 the gradient is a x, and the penalty's derivative with respect to a is E[a |x|^2]."""
    images, scale = torch.randn(5, 2, 3, 3), torch.tensor(3.0, requires_grad=True)
    penalty = losses.zero_centred_penalty(lambda rows: scale * rows.square().sum((1, 2, 3)) / 2, images)
    squared_norm = float(images.double().square().sum((1, 2, 3)).mean())
    assert penalty.item() == pytest.approx(9 * squared_norm / 2, rel=1e-6)
    (slope,) = torch.autograd.grad(penalty, scale)
    assert slope.item() == pytest.approx(3 * squared_norm, rel=1e-6)


def test_path_lengths_of_a_linear_generator() -> None:
    """For x = A_1 w_1 + A_2 w_2 the lengths are those of A_l^T y, as a root mean square over l, over the side."""
    torch.manual_seed(0)
    maps, styles, directions = torch.randn(2, 48, 5), torch.randn(7, 2, 5), torch.randn(7, 3, 4, 4)
    styles.requires_grad_(True)
    images = torch.einsum("lpv,nlv->np", maps, styles).unflatten(1, (3, 4, 4))
    found = losses.path_lengths(images, styles, directions)
    for length, direction in zip(found, directions.double(), strict=True):
        first, second = (matrix.T @ direction.flatten() for matrix in maps.double())
        assert length.item() == pytest.approx(math.sqrt((first @ first + second @ second) / 2) / 4, rel=1e-5)


@pytest.mark.parametrize("penalty", ["gradient_penalty", "zero_centred_penalty"])
def test_penalty_is_float32_under_autocast(penalty: str) -> None:
    weight = torch.tensor([[1.0, 2.0**-10]])
    seen = []

    def critic(rows: torch.Tensor) -> torch.Tensor:
        logits = nn.functional.linear(rows, weight)
        seen.append(logits.dtype)
        return logits.flatten()

    with torch.autocast("cpu", torch.bfloat16):
        rows = [torch.randn(3, 2), torch.randn(3, 2), torch.rand(3)]
        getattr(losses, penalty)(critic, *(rows if penalty == "gradient_penalty" else rows[:1]))
    assert seen == [torch.float32]


def test_a_classifiers_loss_is_minus_the_log_of_the_right_probability() -> None:
    logits = torch.tensor([[0.0, math.log(3)], [math.log(7), 0.0]])
    wanted = (-math.log(3 / 4) - math.log(1 / 8)) / 2
    assert losses.class_loss(logits, torch.tensor([1, 1])).item() == pytest.approx(wanted, rel=1e-6)
    assert losses.class_loss(logits.bfloat16(), torch.tensor([1, 1])).dtype == torch.float32


def test_two_log_two_at_indifference() -> None:
    zeros = torch.zeros(4)
    assert float(losses.cross_entropy_discriminator(zeros, zeros)) == pytest.approx(2 * math.log(2))
    assert float(losses.js_divergence_bound(losses.cross_entropy_discriminator(zeros, zeros))) == pytest.approx(
        0, abs=1e-6
    )
