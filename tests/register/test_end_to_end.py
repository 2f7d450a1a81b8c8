"""The whole chain with real scores: what has hardly been trained, or never, is registered and refused."""

from __future__ import annotations

import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ganpipe import evaluate, prepare, register, sample, train
from ganpipe.config import RunConfig, config_digest, load_config
from ganpipe.gans import GANS
from ganpipe.prepare.manifest import Dataset
from ganpipe.register import audit, registry
from ganpipe.runs import RunRecord, begin_run, checkpoint_name, new_run_id, with_seed
from ganpipe.settings import Settings
from ganpipe.storage import open_store

DEBUG = Path(__file__).parents[2] / "configs/debug.yaml"


def untrained_run(config: RunConfig, like: RunRecord, started: datetime, settings: Settings) -> str:
    """A run whose only checkpoint has never been trained."""
    store = open_store(settings.store)
    run_id = new_run_id(config, like.dataset, started)
    begin_run(store, like.model_copy(update={"run_id": run_id, "created": started}), config)
    spec = Dataset.open(store, like.dataset.digest).spec()
    gan = GANS[config.gan.name](config.gan)
    generator = gan.build_networks(spec).generator
    sample.refresh_batch_norm(gan, generator)
    with tempfile.TemporaryDirectory() as folder:
        sample.save_generator(Path(folder) / "generator.safetensors", gan, generator, spec, run_id, images_seen=0)
        prefix = f"runs/{run_id}/checkpoints/{checkpoint_name(0)}"
        store.publish(prefix, Path(folder), {"run_id": run_id, "images_seen": 0})
    return run_id


@pytest.mark.slow
def test_two_thousand_images_are_not_enough(shared_settings: Settings) -> None:
    started = datetime.now(UTC)
    config = with_seed(load_config(DEBUG, ["register.model=end-to-end"]), started)
    dataset = prepare.run(config, shared_settings)
    run_id = new_run_id(config, dataset, started)
    record = RunRecord(run_id=run_id, dataset=dataset, created=started, config_digest=config_digest(config))
    train.run(config, record, shared_settings)
    report = evaluate.run(config, run_id, shared_settings)
    ref = register.run(config, report, shared_settings)

    decision = register.promote("end-to-end", shared_settings)
    assert not decision.promoted and decision.candidate == ref
    assert "PCA-Gaussian control's" in decision.reason
    assert decision.candidate_scores is not None and decision.protocol_hash == report.protocol_hash
    store = open_store(shared_settings.store)
    assert audit.read_pointer(store, "end-to-end")[0].champion is None
    assert [entry.decision for _, entry in audit.read_log(store, "end-to-end")] == [decision]

    untrained = untrained_run(config, record, started + timedelta(seconds=1), shared_settings)
    worse = register.run(config, evaluate.run(config, untrained, shared_settings), shared_settings)
    registry.client_of(shared_settings).set_registered_model_alias("end-to-end", "champion", ref.version)
    assert register.promote("end-to-end", shared_settings, adopt=True).promoted
    decision = register.promote("end-to-end", shared_settings, version=worse.version)
    assert not decision.promoted and decision.champion == ref
    assert "beats_pca_gaussian" in [check.name for check in decision.checks if not check.passed]
    assert audit.read_pointer(store, "end-to-end")[0].champion == ref
    assert register.resolve(run_id, shared_settings).parent.name == report.best.checkpoint.prefix.split("/")[-1]
