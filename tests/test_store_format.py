"""A store that an earlier version wrote is read by this one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ganpipe import runs, sample
from ganpipe.evaluate.protocol import Protocol
from ganpipe.launch import StopSignal
from ganpipe.prepare.manifest import Dataset
from ganpipe.refs import EvalReport
from ganpipe.register import audit
from ganpipe.storage import Store, open_store
from ganpipe.train.trainer import Trainer

FIXTURES = Path(__file__).parent / "fixtures"
RUN = "fixture-20261123t000000-"


@pytest.fixture(params=["store-format-1"])
def old(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return open_store(f"file://{shutil.copytree(FIXTURES / request.param, tmp_path / 'store')}")


def test_every_kind_of_thing_is_read(old: Store) -> None:
    (run_id,) = runs.run_ids(old)
    assert run_id.startswith(RUN)
    record, config = runs.open_run(old, run_id)
    dataset = Dataset.open(old, record.dataset.digest)
    assert dataset.column("image", "train").shape[1:] == (1, 8, 8)
    assert dataset.spec()["label"].vocabulary == ("bright", "dark")
    first, last = runs.checkpoints(old, run_id)
    assert (first.images_seen, last.images_seen) == (32, 64)
    (report_key,) = [item.key for item in old.list(f"runs/{run_id}/reports") if item.key.endswith(".json")]
    report = EvalReport.model_validate_json(old.read_bytes(report_key))
    assert {control.name for control in report.controls} == {"real", "pca_gaussian", "resampled_train"}
    assert report.best.intervals == report.best.by_class == {}
    assert Protocol.model_validate(report.protocol).hash == report.protocol_hash
    pointer, _ = audit.read_pointer(old, "fixture")
    assert pointer.champion is not None
    assert pointer.champion.checkpoint.run_id == run_id
    assert audit.read_version(old, "fixture", pointer.champion.version) == pointer.champion
    assert config.registration.model == "fixture"


def test_its_generator_draws_and_its_run_goes_on(old: Store, tmp_path: Path) -> None:
    (run_id,) = runs.run_ids(old)
    record, config = runs.open_run(old, run_id)
    newest = runs.checkpoints(old, run_id)[-1]
    loaded = sample.load_generator(old.fetch(newest.prefix)["generator.safetensors"])
    assert sample.draw_images(loaded.gan, loaded.module, 0, 3).shape == (3, 1, 8, 8)
    work = tmp_path / "work"
    work.mkdir()
    trainer = Trainer(config, Dataset.open(old, record.dataset.digest), run_id, old, work)
    assert trainer.fit(StopSignal()) == newest
    trainer.train = trainer.train.model_copy(update={"stop": trainer.train.stop.model_copy(update={"kimg": 0.08})})
    assert trainer.fit(StopSignal()).images_seen == 80
