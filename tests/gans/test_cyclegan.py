"""CycleGAN: its terms, both directions, and pools that are part of the recipe's state."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from translation_data import CPU, Times, discriminator_of, image_column, step_at, unreached

from ganpipe.errors import InputError
from ganpipe.gans.base import Networks, Request
from ganpipe.gans.cyclegan import CycleGAN, CycleGANConfig, Pool
from ganpipe.networks.resnet_translation import BothSides, BothWays
from ganpipe.rng import SampleRng, StepRng

SMALL = {"feature_dim": 4, "patch_layers": 1, "blocks": 1}
SPEC = {"a": image_column(), "b": image_column()}


def recipe(**options: Any) -> CycleGAN:
    return CycleGAN(CycleGANConfig.model_validate(SMALL | options))


def built(gan: CycleGAN) -> Networks:
    torch.manual_seed(0)
    return gan.build_networks(SPEC)


def batch(seed: int = 1) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {side: torch.rand(4, 1, 16, 16, generator=generator) * 2 - 1 for side in "ab"}


def test_losses_are_the_papers() -> None:
    """Generators that multiply by 2 and by 3, discriminators by 5 and by 7, each pixel a patch."""
    nets = Networks(BothWays(Times(2), Times(3)), BothSides(Times(5), Times(7)))
    rows = batch()
    a, b = rows["a"], rows["b"]
    found = recipe(cycle=4, identity=0.5).generator_loss(nets, rows, step_at("g0"))
    fooling = (7 * 2 * a - 1).square().mean() + (5 * 3 * b - 1).square().mean()
    cycle, identity = 5 * (a.abs().mean() + b.abs().mean()), 2 * a.abs().mean() + b.abs().mean()
    torch.testing.assert_close(found.logs, {"adversarial": fooling, "cycle": cycle, "identity": identity})
    torch.testing.assert_close(found.total, fooling + 4 * cycle + 0.5 * identity)

    judging = recipe().discriminator_loss(nets, rows, step_at("d0"))
    of_a = ((5 * a - 1).square().mean() + (5 * 3 * b).square().mean()) / 2
    of_b = ((7 * b - 1).square().mean() + (7 * 2 * a).square().mean()) / 2
    torch.testing.assert_close(judging.total, of_a + of_b)


def test_r1_is_the_sum_of_both_sides() -> None:
    """Mean logits 5 / 256 and 7 / 256 times a sum of 256 pixels."""
    nets, plain, penalised = (
        Networks(BothWays(Times(2), Times(3)), BothSides(Times(5), Times(7))),
        recipe(),
        recipe(r1=3),
    )
    totals = [gan.discriminator_loss(nets, batch(), step_at("d0")).total for gan in (plain, penalised)]
    torch.testing.assert_close(totals[1] - totals[0], torch.tensor(3 * (25 + 49) / 256 / 2), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"adversarial": "relativistic", "r1": 1, "r2": 1, "patch_norm": "none", "identity": 0},
        {"adversarial": "wasserstein", "gradient_penalty": 10},
    ],
    ids=["lsgan", "relativistic", "wasserstein"],
)
def test_each_phase_reaches_every_parameter_of_both_directions(options: dict[str, Any]) -> None:
    gan = recipe(**options)
    nets = built(gan)
    assert unreached(discriminator_of(nets), gan.discriminator_loss(nets, batch(), step_at("d0")).total) == []
    assert unreached(nets.generator, gan.generator_loss(nets, batch(), step_at("g0")).total) == []


def test_the_direction_is_asked_for() -> None:
    gan, generator, sources = recipe(), BothWays(Times(2), Times(3)), batch()["a"]
    rng = SampleRng(0, range(4), CPU)
    torch.testing.assert_close(gan.sample(generator, Request(rng, 4, sources=sources)), 2 * sources)
    back = gan.sample(generator, Request(rng, 4, sources=sources, direction="BtoA"))
    torch.testing.assert_close(back, 3 * sources)
    with pytest.raises(InputError, match="none were given"):
        gan.sample(generator, Request(rng, 4))


def test_sides_of_unlike_channels_have_no_identity() -> None:
    spec = {"a": image_column(1), "b": image_column(3)}
    with pytest.raises(InputError, match=r"a have 1 channels, those of b 3; set gan\.identity to 0"):
        recipe().build_networks(spec)
    gan = recipe(identity=0)
    rows = {"a": batch()["a"], "b": batch()["b"].expand(-1, 3, -1, -1)}
    nets = gan.build_networks(spec)
    assert gan.generator_loss(nets, rows, step_at("g0")).total.isfinite()
    assert gan.discriminator_loss(nets, rows, step_at("d0")).total.isfinite()
    assert nets.generator(rows["a"], rows["b"]).b_of_a.shape == (4, 3, 16, 16)


@pytest.mark.parametrize(("resolution", "said"), [(18, "8, 12, 16, 20"), (8, r"lower gan\.patch_layers to 1")])
def test_impossible_sizes_name_the_field(resolution: int, said: str) -> None:
    with pytest.raises(InputError, match=said):
        recipe(patch_layers=2).check_resolution(resolution)


# --- pools -------------------------------------------------------------------------------------------------------


def numbered(first: int, n: int = 8) -> Tensor:
    """Images of one pixel that holds their number."""
    return torch.arange(first, first + n).float().view(n, 1, 1, 1)


def shown(pool: Pool, first: int) -> list[int]:
    rng = StepRng(0, first, "d0", 8, slice(0, 8), CPU)
    return pool.exchange(numbered(first), rng, "pool").flatten().int().tolist()


def test_a_pool_keeps_all_while_there_is_room_and_gives_half_of_them_back_later() -> None:
    pool = Pool(20)
    assert shown(pool, 0) + shown(pool, 8) == list(range(16))
    history = [number for first in range(16, 816, 8) for number in shown(pool, first)]
    new = sum(number == 16 + place for place, number in enumerate(history))
    assert 330 < new < 470
    assert all(number <= 16 + place for place, number in enumerate(history))
    later = [number for number in history if number >= 20]
    assert len(set(later)) == len(later)  # who is shown from the pool has left it
    assert pool.images is not None and pool.images.shape == (20, 1, 1, 1)
    waiting = set(pool.images.flatten().int().tolist())
    assert len(waiting) == 20 and not waiting & set(later)


def test_no_pool_shows_what_was_made() -> None:
    pool = Pool(0)
    assert shown(pool, 800) == list(range(800, 808)) and pool.state() == {}


def test_pools_go_on_from_a_file_as_if_nothing_had_happened(tmp_path: Path) -> None:
    """Also when the checkpoint is written while they still fill."""
    gan = recipe(pool=10)
    nets = built(gan)
    assert gan.state_dict() == {"shared": {}, "rank": {}}
    shapes = set()
    for index in range(6):
        state = gan.state_dict()["rank"]
        save_file(state, tmp_path / "rank.safetensors")
        shapes.add(tuple(tuple(state[name].shape) for name in sorted(state)))
        resumed = recipe(pool=10)
        resumed.load_state_dict({"shared": {}, "rank": load_file(tmp_path / "rank.safetensors")})
        totals = [each.discriminator_loss(nets, batch(index), step_at("d0", index)).total for each in (gan, resumed)]
        assert torch.equal(*totals)
        for name, value in gan.state_dict()["rank"].items():
            assert torch.equal(resumed.state_dict()["rank"][name], value)
    assert len(shapes) == 2  # nothing yet, and the one shape ever after
    assert int(gan.state_dict()["rank"]["pool_a.held"]) == 10


def test_each_side_has_a_pool_of_its_own() -> None:
    gan = recipe(pool=4)
    rows = batch()
    gan.discriminator_loss(Networks(BothWays(Times(2), Times(3)), BothSides(Times(1), Times(1))), rows, step_at("d0"))
    rank = gan.state_dict()["rank"]
    torch.testing.assert_close(rank["pool_a.images"], 3 * rows["b"])
    torch.testing.assert_close(rank["pool_b.images"], 2 * rows["a"])
