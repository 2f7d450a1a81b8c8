"""Draws are functions of their key: equal for any split into micro-batches, different between names and positions."""

from __future__ import annotations

from dataclasses import replace

import torch

from ganpipe.rng import SampleRng, StepRng
from ganpipe.seeds import derive_seed

CPU = torch.device("cpu")
STEP = StepRng(seed=7, images_seen=320, update="d0", global_batch=8, rows=slice(0, 8), device=CPU)


def test_micro_batches_hold_the_rows_of_the_global_batch() -> None:
    for name in ("normal", "uniform"):
        whole = getattr(STEP, name)("x", 8, (3,))
        parts = [getattr(replace(STEP, rows=slice(a, a + 2)), name)("x", 2, (3,)) for a in range(0, 8, 2)]
        assert torch.equal(whole, torch.cat(parts))


def test_every_part_of_the_key_matters() -> None:
    draws = [
        rng.normal(name, 8)
        for rng, name in [
            (STEP, "x"),
            (STEP, "y"),
            (replace(STEP, seed=8), "x"),
            (replace(STEP, images_seen=352), "x"),
            (replace(STEP, update="g0"), "x"),
        ]
    ]
    assert len({tuple(draw.tolist()) for draw in draws}) == len(draws)
    assert torch.equal(STEP.normal("x", 8), STEP.normal("x", 8))


def test_integers_cover_their_range_and_no_more() -> None:
    wide = replace(STEP, global_batch=2000, rows=slice(0, 2000))
    assert set(wide.integers("i", 2000, -2, 3).tolist()) == {-2, -1, 0, 1, 2}


def test_a_sample_depends_on_its_own_index_alone() -> None:
    together = SampleRng(3, range(10), CPU).normal("latents", 10, (4,))
    alone = SampleRng(3, [7], CPU).normal("latents", 1, (4,))
    assert torch.equal(together[7:8], alone)
    assert not torch.equal(together[7], SampleRng(4, [7], CPU).normal("latents", 1, (4,))[0])


def test_samples_are_standard_normal() -> None:
    draws = SampleRng(0, range(2000), CPU).normal("latents", 2000, (8,))
    assert abs(float(draws.mean())) < 0.03
    assert abs(float(draws.std()) - 1) < 0.03


def test_seeds_are_the_same_on_every_platform() -> None:
    assert derive_seed("a", 1) == 0x40C0E0B5A56C1E60
    assert derive_seed("a", 1) != derive_seed("a1")
    assert 0 <= derive_seed("x") < 2**63
