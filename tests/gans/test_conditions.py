"""What recipes that are asked for a class or a caption share: whether the data has any, and who draws them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny import points_raw, tiny_raw
from torch import Tensor, nn

from ganpipe.augment import Augment, Door
from ganpipe.augmentconfig import AugmentConfig
from ganpipe.config import load_config
from ganpipe.errors import InputError
from ganpipe.gans.base import Request, conditioned
from ganpipe.losses import gradient_penalty, zero_centred_penalty
from ganpipe.rng import SampleRng, StepRng
from ganpipe.spec import Column, class_count

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("source", "wanted"),
    [
        ({"name": "digits"}, {"image", "label"}),
        ({"name": "folder", "path": "x"}, {"image", "label"}),
        ({"name": "folder", "path": "x", "labels": "none"}, {"image"}),
        ({"name": "s3", "uri": "s3://b/p", "labels": "none", "caption_column": "text"}, {"image", "caption"}),
        ({"name": "parquet", "path": "x"}, {"image"}),
        ({"name": "hub", "id": "x", "label_column": "y", "caption_column": "t"}, {"image", "label", "caption"}),
    ],
)
def test_what_a_source_may_have_is_known_before_it_is_read(source: dict[str, Any], wanted: set[str]) -> None:
    raw = tiny_raw()
    raw["prepare"]["source"] = source
    assert load_config(raw).prepare.columns == wanted
    assert load_config(points_raw()).prepare.columns == {"point"}


def test_a_condition_that_the_data_lacks_is_refused() -> None:
    assert conditioned("image", "label", {"image", "label", "caption"}, "gan.x") == {"image", "label"}
    with pytest.raises(InputError, match=r"gan\.x needs labels.*prepare\.source\.label_column.*change gan\.x"):
        conditioned("image", "label", {"image", "caption"}, "gan.x")
    with pytest.raises(InputError, match=r"gan\.x needs captions.*prepare\.source\.caption_column"):
        conditioned("image", "caption", {"image", "label"}, "gan.x")


def test_classes_are_counted_by_their_names() -> None:
    label = Column(kind="label", dtype="int64", shape=(), vocabulary=("cat", "dog", "owl"), shards=())
    assert class_count({"label": label}) == 3
    with pytest.raises(InputError, match="no column of labels"):
        class_count({"image": label})


def test_classes_are_drawn_unless_asked_for() -> None:
    drawn = Request(SampleRng(3, range(3000), CPU), 3000).labels(3)
    assert drawn.dtype == torch.int64
    assert 900 < drawn.bincount(minlength=3).min() <= drawn.bincount().max() < 1100
    assert torch.equal(Request(SampleRng(3, range(7, 20), CPU), 13).labels(3), drawn[7:20])
    asked = torch.tensor([2, 0])
    assert torch.equal(Request(SampleRng(3, range(2), CPU), 2, label=asked).labels(3), asked)


class Quadratic(nn.Module):
    """D(x, y) = y |x|^2 / 2, so that the gradient in x is y x."""

    def forward(self, images_NCHW: Tensor, label_N: Tensor) -> Tensor:
        return label_N * images_NCHW.square().sum((1, 2, 3)) / 2


def test_conditions_pass_the_door_as_they_are_and_penalties_reach_through_it() -> None:
    """Images are shifted about, a shift moves no norm of a border of zeros, and |y x|^2 = y^2 |x|^2."""
    door = Door(Quadratic(), Augment(AugmentConfig(translation=0.25), 16, CPU))
    door.augment.p.fill_(1)
    door.open(StepRng(0, 0, "d0", 4, slice(0, 4), CPU))
    images_NCHW = torch.zeros(4, 1, 8, 8)
    images_NCHW[:, :, 3:5, 3:5] = torch.randn(4, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    label_N, norms_N = torch.tensor([0, 1, 2, 3]), images_NCHW.square().sum((1, 2, 3))
    torch.testing.assert_close(door(images_NCHW, label_N), label_N * norms_N / 2)
    zero_centred = zero_centred_penalty(lambda images: door(images, label_N), images_NCHW)
    torch.testing.assert_close(zero_centred, (label_N.square() * norms_N).mean() / 2)
    mixed = gradient_penalty(lambda images: door(images, label_N), images_NCHW, -images_NCHW, torch.ones(4))
    torch.testing.assert_close(mixed, (label_N * norms_N.sqrt() - 1).square().mean())


def test_a_source_is_augmented_as_what_is_made_of_it() -> None:
    class Difference(nn.Module):
        def forward(self, images_NCHW: Tensor, sources_NCHW: Tensor) -> Tensor:
            return (images_NCHW - sources_NCHW).flatten(1)

    door = Door(Difference(), Augment(AugmentConfig(translation=0.25, cutout=0.5), 16, CPU))
    door.augment.p.fill_(1)
    door.open(StepRng(0, 0, "d0", 4, slice(0, 4), CPU))
    images_NCHW = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert not door(images_NCHW, images_NCHW.clone()).any()
    assert door(images_NCHW, torch.zeros(4, 1, 8, 8)).count_nonzero() < images_NCHW.numel()
