"""Registering, promoting, rolling back; hands in MLflow; races."""

from __future__ import annotations

import json
import logging
import math
import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest

from ganpipe import register, sample
from ganpipe.errors import InputError, WorkFailed
from ganpipe.refs import ModelRef
from ganpipe.register import audit, registry
from ganpipe.settings import Settings
from ganpipe.storage import Conflict, CorruptObject, Store, open_store

if TYPE_CHECKING:
    from .conftest import Factory

Scores = Callable[[dict[str, list[float]]], Any]


def aliases(factory: Factory) -> dict[str, str]:
    found = registry.aliases(factory.product, factory.settings)
    assert found is not None
    return found


def champion(factory: Factory) -> ModelRef | None:
    return audit.read_pointer(factory.store, factory.product)[0].champion


def log_kinds(factory: Factory) -> list[str]:
    return [record.kind for _, record in audit.read_log(factory.store, factory.product)]


def run_of(*refs: ModelRef) -> list[str]:
    return [ref.checkpoint.run_id for ref in refs]


def test_a_version_tells_what_it_is_made_of(factory: Factory) -> None:
    config = factory.config()
    report = factory.report(factory.checkpoint(config), fid=5.0)
    ref = register.run(config, report, factory.settings)
    assert (ref.product, ref.version, ref.checkpoint) == (factory.product, "1", report.best.checkpoint)
    client = registry.client_of(factory.settings)
    version = client.get_model_version(factory.product, "1")
    assert version.tags == {
        "ganpipe.run_id": report.run_id, "ganpipe.checkpoint": ref.checkpoint.prefix,
        "ganpipe.generator_sha256": ref.checkpoint.generator_sha256, "ganpipe.images_seen": "1000",
        "ganpipe.config_digest": ref.config_digest, "ganpipe.dataset_digest": report.dataset_digest,
        "ganpipe.protocol_hash": "p1", "ganpipe.git_sha": "abc123", "ganpipe.git_dirty": "true",
        "ganpipe.flow_run_id": "flow-1",
    }  # fmt: skip
    assert "| fid_domain | 5 | 1 | 16 |" in version.description
    assert aliases(factory) == {"candidate": "1"}
    assert version.source.startswith("models:/m-")
    logged = client.get_logged_model(version.source.removeprefix("models:/"))
    assert {metric.key: metric.value for metric in logged.metrics}["fid_domain"] == 5.0
    assert json.loads(logged.tags["mlflow.modelVersions"]) == [{"name": factory.product, "version": 1}]
    assert logged.artifact_location.startswith(f"{factory.settings.store}/mlflow/")


def test_registering_again_gives_the_same_version(factory: Factory) -> None:
    config = factory.config()
    report = factory.report(factory.checkpoint(config), fid=5.0)
    first = register.run(config, report, factory.settings)
    (factory.settings.home / f"store/models/{factory.product}/versions/1.json").unlink()  # died just before this
    assert register.run(config, report, factory.settings) == first
    assert audit.read_versions(factory.store, factory.product) == [first]
    second = factory.version()
    assert second.version == "2" and register.run(config, report, factory.settings) == first
    assert aliases(factory)["candidate"] == "2"


def test_a_life_in_production(factory: Factory, scores: Callable[..., Any], tmp_path: Path) -> None:
    first, second, third = (factory.version(fid) for fid in (8.0, 4.0, 9.0))
    table = dict(zip(run_of(first, second, third), ([8.0] * 5, [4.0] * 5, [9.0] * 5), strict=True))
    ask = {"settings": factory.settings, "score": scores(table), "where": "a test"}

    decision = register.promote(factory.product, version="1", **ask)
    assert decision.promoted and decision.champion is None and decision.candidate == first
    assert decision.candidate_scores is not None and len(decision.candidate_scores.seeds) == 5
    assert champion(factory) == first and aliases(factory)["champion"] == "1"

    decision = register.promote(factory.product, **ask)  # the better one of 2 and 3
    assert decision.promoted and decision.candidate == second and decision.champion == first
    assert aliases(factory) == {"candidate": "3", "champion": "2", "previous": "1"}

    decision = register.promote(factory.product, **ask)
    assert not decision.promoted and decision.candidate == third and "9 against the champion's 4" in decision.reason
    assert champion(factory) == second

    decision = register.promote(factory.product, version="2", **ask)
    assert not decision.promoted and "the champion already" in decision.reason

    assert register.rollback(factory.product, factory.settings) == first
    assert aliases(factory) == {"candidate": "3", "champion": "1", "previous": "2"}
    assert champion(factory) == first

    log = audit.read_log(factory.store, factory.product)
    assert [(record.kind, record.decision and record.decision.promoted) for _, record in log] == [
        ("promote", True), ("promote", True), ("promote", False), ("promote", False), ("rollback", None),
    ]  # fmt: skip
    assert all("@" in record.by and record.reason for _, record in log) and log[0][1].where == "a test"
    assert audit.read_pointer(factory.store, factory.product)[0].decision == log[-1][0]

    data = json.loads(json.dumps(register.lineage(factory.product, factory.settings, "2")))
    assert data["data"]["digest"] == second.dataset_digest and data["run"]["git"]["sha"] == "abc123"
    assert [entry["kind"] for entry in data["decisions"]] == ["promote", "promote", "rollback"]
    page = register.lineage_markdown(data)
    assert f"# {factory.product} version 2, previous" in page and "| fid_domain | 4 | 1 | 16 |" in page
    assert register.lineage(factory.product, factory.settings)["version"] == "1"

    names = {"champion": first, "previous": second, "candidate": third}
    for name, ref in names.items():
        weights = register.resolve(f"models:/{factory.product}@{name}", factory.settings)
        assert sample.load_generator(weights).metadata["run_id"] == ref.checkpoint.run_id

    import mlflow

    monkey = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(factory.settings.tracking_uri)
    try:
        served = mlflow.pyfunc.load_model(f"models:/{factory.product}@champion")
    finally:
        mlflow.set_tracking_uri(monkey)
    loaded = sample.load_generator(register.resolve(f"models:/{factory.product}@champion", factory.settings))
    expected = sample.draw_images(loaded.gan, loaded.module, 0, 4).permute(0, 2, 3, 1).numpy()
    np.testing.assert_array_equal(served.predict(pd.DataFrame({"seed": [0] * 4})), expected)


def test_a_run_of_another_size_than_the_champion_is_refused_before_it_trains(
    factory: Factory, scores: Callable[..., Any]
) -> None:
    config = factory.config()
    register.check(config, factory.settings)
    first = factory.version()
    assert register.promote(factory.product, factory.settings, score=scores({run_of(first)[0]: [5.0] * 5})).promoted
    register.check(config, factory.settings)
    other = config.model_copy(update={"prepare": config.prepare.model_copy(update={"resolution": 16})})
    with pytest.raises(InputError, match=r"register\.model .* version 1, of 8 px and 1 channel, .* 16 px"):
        register.check(other, factory.settings)


def test_what_the_gaussian_beats_never_becomes_the_first_champion(factory: Factory, scores: Callable[..., Any]) -> None:
    for fid in (40.0, math.nan):
        ref = factory.version(fid=2.0)
        decision = register.promote(factory.product, factory.settings, score=scores({ref.checkpoint.run_id: [fid] * 5}))
        assert not decision.promoted and decision.candidate == ref
    assert champion(factory) is None and "champion" not in aliases(factory)
    assert log_kinds(factory) == ["promote", "promote"]
    with pytest.raises(InputError, match="no champion yet; there is models:/"):
        register.resolve(f"models:/{factory.product}@champion", factory.settings)
    with pytest.raises(InputError, match="no previous champion"):
        register.rollback(factory.product, factory.settings)


def test_only_comparable_versions_compete(factory: Factory, scores: Callable[..., Any]) -> None:
    factory.version(fid=1.0, protocol_hash="another")
    config = factory.config()
    report = factory.report(factory.checkpoint(config), fid=1.0)
    on_other_seeds = report.best.model_copy(update={"seeds": [seed + 1 for seed in report.best.seeds]})
    register.run(config, report.model_copy(update={"best": on_other_seeds}), factory.settings)
    better, newest = factory.version(fid=3.0), factory.version(fid=math.nan)
    ask = scores(dict.fromkeys(run_of(better, newest), [3.0] * 5))
    assert register.promote(factory.product, factory.settings, score=ask).candidate == better


def test_a_hand_moved_alias_is_put_back_or_adopted(
    factory: Factory, scores: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    first, second = factory.version(), factory.version()
    table = dict(zip(run_of(first, second), ([8.0] * 5, [9.0] * 5), strict=True))
    register.promote(factory.product, factory.settings, version="1", score=scores(table))
    client = registry.client_of(factory.settings)
    client.set_registered_model_alias(factory.product, "champion", "2")
    with caplog.at_level(logging.WARNING):
        weights = register.resolve(f"models:/{factory.product}@champion", factory.settings)
    assert sample.load_generator(weights).metadata["run_id"] == first.checkpoint.run_id
    assert "the alias champion in MLflow was on version 2" in caplog.text
    assert aliases(factory)["champion"] == "1"

    client.set_registered_model_alias(factory.product, "champion", "2")
    decision = register.promote(factory.product, factory.settings, adopt=True)
    assert decision.promoted and "by hand" in decision.reason
    assert champion(factory) == second and aliases(factory)["previous"] == "1"
    assert log_kinds(factory) == ["promote", "adopt"]
    again = register.promote(factory.product, factory.settings, adopt=True)
    assert not again.promoted and champion(factory) == second

    client.delete_registered_model_alias(factory.product, "champion")
    with pytest.raises(InputError, match="no alias champion"):
        register.promote(factory.product, factory.settings, adopt=True)
    register.lineage(factory.product, factory.settings)
    assert aliases(factory)["champion"] == "2"


def test_names_that_mean_nothing_are_answered_with_those_that_do(factory: Factory, tmp_path: Path) -> None:
    ref = factory.version()
    settings, product = factory.settings, factory.product
    with pytest.raises(InputError, match=f"no product 'nothing'.*{product}"):
        register.promote("nothing", settings)
    for call in (register.rollback, register.lineage):
        with pytest.raises(InputError, match="no product 'nothing'"):
            call("nothing", settings)
    with pytest.raises(InputError, match="no version '7'; there is 1"):
        register.promote(product, settings, version="7")
    with pytest.raises(InputError, match="no version '7'; there is 1"):
        register.resolve(f"models:/{product}/7", settings)
    with pytest.raises(InputError, match="no alias 'best'; there is champion"):
        register.resolve(f"models:/{product}@best", settings)
    with pytest.raises(InputError, match="write models:/"):
        register.resolve(f"models:/{product}", settings)
    with pytest.raises(InputError, match="neither"):
        register.resolve("no-such-run", settings)
    with pytest.raises(InputError, match="no such file"):
        register.resolve(str(tmp_path / "generator.safetensors"), settings)
    with pytest.raises(InputError, match="GANPIPE_TRACKING_URI is off"):
        report = factory.report(ref.checkpoint, 1.0)
        register.run(factory.config(), report, settings.model_copy(update={"tracking_uri": "off"}))


def test_every_form_of_a_model_leads_to_its_weights(factory: Factory) -> None:
    ref = factory.version()
    run_id, wanted = ref.checkpoint.run_id, ref.checkpoint.generator_sha256
    for model in (f"models:/{factory.product}/1", f"models:/{factory.product}@candidate", run_id):
        path = register.resolve(model, factory.settings)
        assert factory.store.manifest(ref.checkpoint.prefix)["files"][path.name]["sha256"] == wanted
        assert register.resolve(str(path), factory.settings) == path


def test_an_evaluated_run_is_its_best_checkpoint(factory: Factory) -> None:
    config = factory.config()
    best = factory.checkpoint(config)
    weights = factory.store.fetch(best.prefix)["generator.safetensors"]
    later = f"runs/{best.run_id}/checkpoints/kimg-000900.000"
    factory.store.publish(later, weights.parent, {"run_id": best.run_id, "images_seen": 900_000})
    assert register.resolve(best.run_id, factory.settings).parent.name == "kimg-000900.000"
    report = factory.report(best, 5.0).model_dump_json().encode()
    factory.store.write_bytes(f"runs/{best.run_id}/reports/p1.json", report)
    assert register.resolve(best.run_id, factory.settings) == weights


def test_an_unreadable_pointer_stops_every_command(factory: Factory) -> None:
    factory.version()
    factory.store.write_bytes(f"models/{factory.product}/champion.json", b"{")
    for call in (register.promote, register.rollback, register.lineage):
        with pytest.raises(CorruptObject, match=r"champion\.json"):
            call(factory.product, factory.settings)


def test_with_mlflow_away_production_still_moves(
    factory: Factory, scores: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    ref = factory.version()
    away = factory.settings.model_copy(update={"tracking_uri": "http://127.0.0.1:9"})
    begun = time.monotonic()
    assert register.promote(factory.product, away, score=scores({ref.checkpoint.run_id: [5.0] * 5})).promoted
    assert time.monotonic() - begun < 60
    assert champion(factory) == ref and "the next command tries again" in caplog.text
    assert "champion" not in aliases(factory)
    register.lineage(factory.product, factory.settings)
    assert aliases(factory)["champion"] == ref.version


def test_with_mlflow_lost_production_still_moves(
    factory: Factory, scores: Callable[..., Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ref = factory.version()
    ask = scores({ref.checkpoint.run_id: [5.0] * 5})
    lost = factory.settings.model_copy(update={"tracking_uri": f"sqlite:///{tmp_path}/gone/mlflow.db"})
    assert register.promote(factory.product, lost, score=ask).promoted
    assert champion(factory) == ref and "aliases" in caplog.text
    with pytest.raises(WorkFailed, match="does not know version 1"):
        config = factory.config()
        register.run(config, factory.report(factory.checkpoint(config), 1.0), lost)


def test_weights_that_are_gone_are_named(factory: Factory, scores: Callable[..., Any]) -> None:
    ref = factory.version()
    factory.store.remove(ref.checkpoint.prefix)
    with pytest.raises(WorkFailed, match=r"version 1 are gone .*--adopt"):
        register.promote(factory.product, factory.settings, score=scores({}))


# --- races -------------------------------------------------------------------------------------------------------


def _move(uri: str, ref: ModelRef, barrier: Any, results: Any) -> None:
    record = audit.AuditRecord(
        kind="promote", product=ref.product, at=datetime.now(UTC), by="a@b", where="race", reason="first",
        before=None, after=ref,
    )  # fmt: skip
    barrier.wait()
    try:
        audit.move(open_store(uri), None, record, previous=None)
        results.put(ref.version)
    except Conflict:
        results.put(None)


def test_eight_processes_move_the_pointer_and_one_wins(store: Store) -> None:
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(8), context.Queue()
    refs = [made_up("racing", str(i)) for i in range(8)]
    workers = [context.Process(target=_move, args=(store.uri, ref, barrier, results)) for ref in refs]
    for worker in workers:
        worker.start()
    answers = [results.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join()
    winners = [answer for answer in answers if answer is not None]
    pointer, _ = audit.read_pointer(store, "racing")
    assert len(winners) == 1 and pointer.champion is not None and pointer.champion.version == winners[0]
    kinds = [record.kind for _, record in audit.read_log(store, "racing")]
    assert (kinds.count("promote"), kinds.count("overtaken")) == (8, 7)


def test_eight_equal_candidates_and_one_champion(factory: Factory, scores: Callable[..., Any], tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, store=f"file://{tmp_path}/store", tracking_uri="off")
    own = type(factory)(settings, "equal")
    config = own.config()
    checkpoints = [own.checkpoint(config) for _ in range(8)]
    for number, checkpoint in enumerate(checkpoints, start=1):
        ref = made_up("equal", str(number)).model_copy(update={"checkpoint": checkpoint})
        audit.write_version(own.store, ref, own.report(checkpoint, 5.0))
    score = scores({checkpoint.run_id: [5.0] * 5 for checkpoint in checkpoints})

    def ask(number: int) -> bool:
        return register.promote("equal", settings, version=str(number), score=score).promoted

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(ask, range(1, 9))) == 1


def made_up(product: str, version: str) -> ModelRef:
    from ganpipe.refs import CheckpointRef

    checkpoint = CheckpointRef(run_id="r", images_seen=1, prefix=f"runs/r/checkpoints/{version}", generator_sha256="0")
    return ModelRef(
        product=product, version=version, checkpoint=checkpoint, dataset_digest="d", tracking_run_id="t",
        config_digest="c", created=datetime.now(UTC),
    )  # fmt: skip
