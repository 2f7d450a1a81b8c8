"""Batches of images to translate: pairs cropped and mirrored alike, sides that walk by themselves."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny import pairs_raw, sides_raw
from torch import Tensor

from ganpipe import prepare
from ganpipe.batches import Batches, jittered
from ganpipe.config import load_config
from ganpipe.errors import InputError
from ganpipe.prepare.manifest import Dataset
from ganpipe.sample import to_uint8
from ganpipe.settings import Settings
from ganpipe.storage import Store

CPU = torch.device("cpu")


@pytest.fixture
def pairs(settings: Settings, store: Store) -> Dataset:
    return Dataset.open(store, prepare.run(load_config(pairs_raw()), settings).digest)


@pytest.fixture
def sides(settings: Settings, store: Store) -> Dataset:
    return Dataset.open(store, prepare.run(load_config(sides_raw()), settings).digest)


def batches(dataset: Dataset, columns: str, mirror: bool = True, jitter: int | None = 20) -> Batches:
    return Batches(dataset, columns.split(), "train", seed=3, device=CPU, mirror=mirror, jitter=jitter)


def test_source_and_target_are_of_one_row_one_crop_and_one_flip(pairs: Dataset) -> None:
    """The upper half of a masked digit is that of the digit: wherever both are cropped and turned alike."""
    plain = batches(pairs, "source target", mirror=False, jitter=None).at(0, 64, slice(0, 64))
    moved = batches(pairs, "source target").at(0, 64, slice(0, 64))
    for batch in (plain, moved):
        assert all(rows.shape == (64, 1, 16, 16) for rows in batch.values())
        assert float(batch["source"].abs().max()) <= 1
        torch.testing.assert_close(batch["source"][:, :, :3], batch["target"][:, :, :3])
    changed = (plain["target"] - moved["target"]).flatten(1).abs().mean(1)
    assert (changed > 0.05).float().mean() > 0.9
    hidden = plain["source"][0, 0, -1, 0]
    torch.testing.assert_close(moved["source"][:, :, -3:], hidden.expand(64, 1, 3, 16))


def test_every_place_of_the_crop_is_drawn() -> None:
    ramp = torch.linspace(-1, 1, 16).expand(1, 1, 16, 16)
    share = torch.rand(256, 2, generator=torch.Generator().manual_seed(0))
    crops = jittered(ramp.expand(256, -1, -1, -1), 20, share)
    across = crops[:, 0, 0, 8].round(decimals=3).unique()
    assert len(across) == 5  # 20 - 16 + 1 places
    down = jittered(ramp.mT.expand(256, -1, -1, -1), 20, share)
    torch.testing.assert_close(down[:, 0, 8, 0].round(decimals=3).unique(), across)
    corner = jittered(ramp, 20, torch.zeros(1, 2))
    enlarged = torch.nn.functional.interpolate(ramp, (20, 20), mode="bicubic").clamp(-1, 1)
    torch.testing.assert_close(corner, enlarged[:, :, :16, :16])


def test_neither_ranks_nor_resumes_change_a_batch(pairs: Dataset, sides: Dataset) -> None:
    for dataset, columns in ((pairs, "source target"), (sides, "a b")):
        whole = batches(dataset, columns).at(48, 16, slice(0, 16))
        for name, rows in whole.items():
            parts = [batches(dataset, columns).at(48, 16, slice(start, start + 4))[name] for start in (0, 4, 8, 12)]
            assert torch.equal(torch.cat(parts), rows)


def test_each_side_walks_through_all_of_its_own_images(sides: Dataset) -> None:
    walk = batches(sides, "a b", mirror=False, jitter=None)
    sizes = {side: len(sides.column("image", "train", side)) for side in "ab"}
    assert len(set(sizes.values())) == 2
    most = max(sizes.values())
    seen = {side: seen_of(walk, side, most) for side in "ab"}
    for side, size in sizes.items():
        given = {row.tobytes() for row in np.array(sides.column("image", "train", side))}
        assert set(seen[side][:size]) == given
        assert len(seen[side]) == most
    smaller = min(sizes, key=sizes.__getitem__)
    assert set(seen[smaller][sizes[smaller] :]) <= set(seen[smaller][: sizes[smaller]])


def seen_of(walk: Batches, side: str, n: int) -> list[bytes]:
    rows: Tensor = to_uint8(walk.at(0, n, slice(0, n))[side])
    return [row.tobytes() for row in rows.contiguous().numpy()]


def test_sides_are_moved_by_draws_of_their_own(sides: Dataset) -> None:
    plain, mirrored = (batches(sides, "a b", mirror, None).at(0, 256, slice(0, 256)) for mirror in (False, True))
    flipped = {side: (plain[side] != mirrored[side]).flatten(1).any(1) for side in "ab"}
    assert all(0.3 < float(of_side.float().mean()) < 0.7 for of_side in flipped.values())
    assert not torch.equal(flipped["a"], flipped["b"])


def test_jitter_must_enlarge() -> None:
    raw = pairs_raw(jitter=16)
    with pytest.raises(InputError, match=r"train\.jitter is 16, and prepare\.resolution 16"):
        load_config(raw)
