"""Points: drawn the same everywhere, labelled with their mode, split by content like anything else."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tiny import points_raw, tiny_raw

from ganpipe import prepare
from ganpipe.config import RunConfig, config_to_json, load_config
from ganpipe.errors import InputError
from ganpipe.prepare.manifest import SPLITS, Dataset
from ganpipe.settings import Settings
from ganpipe.storage import open_store


def prepared(settings: Settings, **source: Any) -> Dataset:
    config = load_config(points_raw(**source))
    return Dataset.open(open_store(settings.store), prepare.run(config, settings).digest)


@pytest.mark.parametrize(("name", "modes", "deviation"), [("ring8", 8, 0.02), ("grid25", 25, 0.05)])
def test_every_point_lies_at_the_mode_that_its_label_says(
    settings: Settings, name: str, modes: int, deviation: float
) -> None:
    dataset = prepared(settings, name=name, samples=5000)
    spec = dataset.spec()
    assert (spec["point"].kind, spec["point"].dtype, spec["point"].shape) == ("point", "float32", (2,))
    assert spec["label"].vocabulary == tuple(map(str, range(modes)))
    mixture = spec["point"].mixture
    assert mixture is not None and len(mixture.centres) == modes and mixture.deviation == deviation
    points = np.concatenate([dataset.column("point", split) for split in SPLITS])
    labels = np.concatenate([dataset.column("label", split) for split in SPLITS])
    offsets = points - np.array(mixture.centres)[labels]
    assert np.abs(offsets).max() < 6 * deviation
    assert offsets.std() == pytest.approx(deviation, rel=0.03)
    assert np.abs(offsets.mean(0)).max() < 4 * deviation / len(points) ** 0.5
    assert np.abs(np.bincount(labels) - 5000 / modes).max() < 4 * (5000 / modes) ** 0.5


def test_where_the_modes_are(settings: Settings) -> None:
    ring, grid = (prepared(settings, name=name).spec()["point"].mixture for name in ("ring8", "grid25"))
    assert ring is not None and grid is not None
    assert np.linalg.norm(ring.centres, axis=1) == pytest.approx([2.0] * 8)
    assert sorted({x for x, _ in grid.centres}) == sorted({y for _, y in grid.centres}) == [-4, -2, 0, 2, 4]


def test_a_seed_is_one_data_set_on_every_machine(settings: Settings) -> None:
    dataset = prepared(settings, name="ring8")
    assert dataset.digest == "10a0e90aa4c9327ff16a0ddf02427b0e"
    assert prepared(settings, name="ring8").digest == dataset.digest
    others = {prepared(settings, **source).digest for source in ({"name": "ring8", "seed": 1}, {"name": "grid25"})}
    assert len({dataset.digest, *others}) == 3
    assert not list((settings.home / "work").glob("*"))


def test_points_are_split_by_their_content(settings: Settings) -> None:
    dataset = prepared(settings, name="ring8", samples=4000)
    rows = dataset.manifest.ref.rows
    assert rows["extractor"] == 0 and sum(rows.values()) == 4000
    assert abs(rows["test"] / 4000 - 0.2) < 0.03

    def fractions(split: str) -> list[float]:
        hashes = [hashlib.sha256(point.tobytes()).digest() for point in dataset.column("point", split)]
        return [int.from_bytes(digest[:8], "big") / 2**64 for digest in hashes]

    assert max(fractions("test")) < 0.2 <= min(fractions("train"))


def test_too_few_points_for_a_batch_are_refused(settings: Settings) -> None:
    raw = points_raw(name="ring8", samples=1000)
    raw["train"]["batch"] = 900
    with pytest.raises(InputError, match=r"train\.batch is 900, .* raise prepare\.source\.samples"):
        prepare.run(load_config(raw), settings)
    assert not list(open_store(settings.store).list())


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("prepare.resolution=32", r"prepare\.resolution: for images only, and prepare\.source is ring8"),
        ("prepare.crop=none", r"prepare\.crop: for images only"),
        ("prepare.extractor_fraction=0", r"prepare\.extractor_fraction: for images only"),
        ("prepare.source.samples=10", r"prepare\.source\.samples"),
        ("prepare.source.path=x", r"prepare\.source\.path"),
        ("gan.network={name: dcgan}", r"gan\.network\.name dcgan .* points; set gan\.network to \{name: mlp\}"),
        ("gan.network={name: resnet}", r"gan\.network\.name resnet"),
        ("evaluate.extractor=domain", r"evaluate\.extractor domain does not fit prepare\.source ring8"),
        ("train.mirror=true", r"train\.mirror is for images"),
        ("train.augment.translation=0.1", r"train\.augment\.translation is for images"),
        ("register.metric=is_point", r"register\.metric: 'is_point' is not measured"),
    ],
)
def test_what_does_not_fit_points_is_refused_by_its_field(override: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_config(points_raw(), [override])


def test_what_does_not_fit_images_is_refused_by_its_field() -> None:
    with pytest.raises(InputError, match=r"evaluate\.extractor point does not fit prepare\.source digits"):
        load_config(tiny_raw(), ["evaluate.extractor=point"])
    with pytest.raises(InputError, match=r"prepare\.resolution: Field required"):
        load_config(points_raw(), ["prepare.source={name: digits}"])


def test_a_resolved_config_of_points_is_read_back() -> None:
    config = load_config(points_raw())
    assert config.evaluate.extractor == "point"
    assert load_config(config_to_json(config)) == config


def test_image_columns_are_written_as_before_there_were_points(
    configure: Callable[..., RunConfig], settings: Settings
) -> None:
    """Digests of data sets hang on it."""
    ref = prepare.run(configure(None, channels=1), settings)
    columns = open_store(settings.store).manifest(f"datasets/{ref.digest}")["tables"]["main"]["columns"]
    keys = {"kind", "dtype", "shape", "range", "vocabulary", "ragged", "shards"}
    assert [set(column) for column in columns.values()] == [keys, keys]
