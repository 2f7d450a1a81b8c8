"""Configurations: each shipped one loads, each mistake is named by its field."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny import tiny_raw

from ganpipe.config import (
    RunConfig,
    Section,
    config_digest,
    config_to_json,
    config_to_yaml,
    differences,
    load_config,
    read_yaml,
)
from ganpipe.errors import InputError
from ganpipe.options import RMSProp

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_config_loads_and_is_named_after_its_file(path: Path) -> None:
    config = load_config(path)
    assert config.name == path.stem
    assert config.train.optimizers is not None


def test_resolved_yaml_reads_back_to_the_same(tmp_path: Path) -> None:
    config = load_config(tiny_raw())
    path = tmp_path / "resolved.yaml"
    path.write_text(config_to_yaml(config))
    assert load_config(path) == config
    assert config_digest(load_config(path)) == config_digest(config)


def test_yaml_1_2_numbers_and_booleans(tmp_path: Path) -> None:
    path = tmp_path / "numbers.yaml"
    path.write_text("a: 1e-4\nb: off\nc: 06:30\nd: yes\ne: true\nf: 010\ng: 2026-11-23\n")
    expected = {"a": 1e-4, "b": "off", "c": "06:30", "d": "yes", "e": True, "f": 10, "g": "2026-11-23"}
    assert read_yaml(path) == expected


def test_a_yaml_that_holds_itself_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "circle.yaml"
    path.write_text("name: tiny\ngan: &gan\n  inner: *gan\n")
    with pytest.raises(InputError, match="Circular"):
        load_config(path, ["train.batch=3"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.bach=3", "train.bach"),
        ("gan.name=[classic]", "gan.name"),
        ("prepare.background=[1, 2]", "prepare.background"),
        ("train.stop.kimg=2026-13-45", "train.stop.kimg"),
        ("train.optimizers.generator.lr=-1", "train.optimizers.generator.lr"),
        ("train.optimizers.generator.lr=.nan", "train.optimizers.generator.lr"),
        ("train.optimizers.discriminator.beta1=1", "train.optimizers.discriminator.beta1"),
        ("train.ema_half_life_kimg=-1", "train.ema_half_life_kimg"),
        ("register.metric=fid", "^config: register.metric: 'fid' is not measured"),
        ("register.require={kid: {at_most: 1}}", "register.require.kid"),
        ("train.batch=1", "train.batch"),
        ("train.micro_batch=5", "train.micro_batch"),
        ("train.stop={}", r"train\.stop\.kimg"),
        ("train.stop.at=25:00", "train.stop.at"),
        ("train.optimizers.generator.lr=fast", "train.optimizers.generator"),
        ("train.augment.p=2", "train.augment.p"),
        ("prepare.resolution=48", "prepare.resolution"),
        ("prepare.source={name: folder}", "prepare.source.path"),
        ("prepare.source.name=ftp", "prepare.source"),
        ("prepare.source={name: hub}", "prepare.source.id"),
        ("prepare.source={name: parquet, path: x, labels: none}", "prepare.source.labels"),
        ("prepare.source={name: archive, path: x.zip, classes: [a, a]}", "prepare.source.classes: 'a' stands"),
        ("prepare.background=[0, 0, 256]", "prepare.background"),
        ("gan.name=stylegan9", "gan.name"),
        ("gan.objective=wasserstein", "gan.gradient_penalty"),
        ("gan.gradient_penalty=10", "gan.network.norm"),
        ("gan.r1=5", "gan.network.norm"),
        ("gan.spectral_norm=true", "gan.network.norm"),
        ("gan.penalty_every=4", "gan.penalty_every"),
        ("gan.network.nrom=batch", "gan.network.nrom"),
        ("evaluate.extractor=resnet", "evaluate.extractor"),
        ("register.model=", "register.model"),
        ("register.require={fid_domain: {}}", "register.require.fid_domain"),
        ("name=Upper Case", "name"),
    ],
)
def test_mistakes_name_their_field(override: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_config(tiny_raw(), [override])


@pytest.mark.parametrize("override", ["train.batch", "=3", "train..batch=3", "train.batch.x=3", "train.batch={"])
def test_malformed_overrides_are_quoted_back(override: str) -> None:
    with pytest.raises(InputError, match="--set"):
        load_config(tiny_raw(), [override])


def test_several_mistakes_are_told_at_once() -> None:
    with pytest.raises(InputError) as caught:
        load_config(tiny_raw(), ["train.bach=3", "prepare.resolution=48"])
    assert "train.bach" in str(caught.value)
    assert "prepare.resolution" in str(caught.value)


def test_a_clipped_and_penalised_critic_is_refused() -> None:
    with pytest.raises(InputError, match=r"gan\.weight_clip and gan\.gradient_penalty"):
        load_config(tiny_raw(), ["gan.weight_clip=0.01", "gan.gradient_penalty=10"])


def test_recipe_defaults_stand_in_the_resolved_config_and_may_be_overridden_in_part() -> None:
    config = load_config(
        tiny_raw(), ["gan.objective=wasserstein", "gan.weight_clip=0.01", "train.optimizers.generator.lr=1e-3"]
    )
    optimizers = config.train.optimizers
    assert optimizers is not None
    assert isinstance(optimizers.generator, RMSProp)
    assert isinstance(optimizers.discriminator, RMSProp)
    assert optimizers.generator.lr.at(0) == 1e-3
    assert optimizers.discriminator.lr.at(0) == 5e-5


def test_a_new_name_replaces_the_section() -> None:
    config = load_config(
        tiny_raw(), ["train.optimizers.generator={name: adam, beta1: 0.1}", "train.optimizers.generator.name=sgd"]
    )
    assert config.train.optimizers is not None
    assert config.train.optimizers.generator.name == "sgd"
    with pytest.raises(InputError, match=r"gan\.feature"):
        load_config(tiny_raw(), ["gan.network.name=mlp", "gan.feature=1"])


def test_names_of_optimizers_decide_about_defaults() -> None:
    config = load_config(tiny_raw(), ["train.optimizers.discriminator={name: sgd, lr: 0.1}"])
    assert config.train.optimizers is not None
    assert config.train.optimizers.generator.name == "adam"


def test_files_that_are_no_configuration(tmp_path: Path) -> None:
    for name, text in {"list.yaml": "- 1\n", "broken.yaml": "a: [1\n", "twice.yaml": "a: 1\na: 2\n"}.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(InputError, match=name):
            load_config(tmp_path / name)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    for name in ("binary.yaml", "missing.yaml"):
        with pytest.raises(InputError, match=name):
            load_config(tmp_path / name)


def test_differences_are_listed_field_by_field() -> None:
    before, after = (config_to_json(load_config(tiny_raw(**train))) for train in ({}, {"batch": 32, "seed": 2}))
    assert differences(before, after) == ["train.batch: 16 -> 32", "train.seed: 1 -> 2"]


def _sections(model: type[Any], seen: set[type[Any]]) -> set[type[Any]]:
    seen.add(model)
    for subclass in model.__subclasses__():
        _sections(subclass, seen)
    return seen


def test_every_field_is_documented() -> None:
    bare = [
        f"{section.__name__}.{name}"
        for section in _sections(Section, set())
        for name, field in section.model_fields.items()
        if name != "name" and not field.description
    ]
    assert not bare
    assert RunConfig.model_fields["name"].description
