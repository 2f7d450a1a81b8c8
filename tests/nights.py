"""Stand-ins for the stages: a night without its work."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from ganpipe.config import RunConfig
from ganpipe.refs import CheckpointRef, ControlScores, DatasetRef, Decision, EvalReport, ModelRef, SnapshotScores

DATASET = DatasetRef(digest="d" * 64, rows={"train": 8, "test": 4})


def checkpoint(run_id: str = "tiny-run") -> CheckpointRef:
    prefix = f"runs/{run_id}/checkpoints/kimg-000002.000"
    return CheckpointRef(run_id=run_id, images_seen=2000, prefix=prefix, generator_sha256="0" * 64)


def scored(value: float, run_id: str = "tiny-run") -> SnapshotScores:
    by_seed = {"fid_domain": [value, value]}
    return SnapshotScores(checkpoint=checkpoint(run_id), scores={"fid_domain": value}, by_seed=by_seed, seeds=[1, 2])


def report(run_id: str = "tiny-run") -> EvalReport:
    controls = [ControlScores(name="real", n=4, scores={"fid_domain": 1.5})]
    best = scored(5.0, run_id)
    return EvalReport(
        run_id=run_id, dataset_digest="d" * 64, protocol={}, protocol_hash="p" * 16, metric="fid_domain",
        snapshots=[best], best=best, controls=controls,
    )  # fmt: skip


def model(run_id: str = "tiny-run") -> ModelRef:
    return ModelRef(
        product="tiny", version="7", checkpoint=checkpoint(run_id), dataset_digest="d" * 64, tracking_run_id="t",
        config_digest="c", created=datetime(2026, 11, 23, tzinfo=UTC),
    )  # fmt: skip


def decision(promoted: bool = False, run_id: str = "tiny-run") -> Decision:
    return Decision(
        product="tiny", promoted=promoted, reason="5 is not below 4.9", candidate=model(run_id), champion=None,
        metric="fid_domain", protocol_hash="p" * 16, candidate_scores=scored(5.0, run_id), champion_scores=None,
        controls=[], checks=[], decided=datetime(2026, 11, 23, tzinfo=UTC), by="a@b", where="test",
    )  # fmt: skip


def replace_stages(
    monkeypatch: pytest.MonkeyPatch, failures: dict[str, list[Exception]] | None = None
) -> list[tuple[str, Any]]:
    """Replace all stages; returns their calls, as (stage, run id) in order. A stage first raises its `failures`."""
    from ganpipe import evaluate, morning, night, prepare, register, train

    calls: list[tuple[str, Any]] = []
    left = {name: list(errors) for name, errors in (failures or {}).items()}

    def called(name: str, about: Any, result: Any) -> Any:
        calls.append((name, about))
        if left.get(name):
            raise left[name].pop(0)
        return result

    def fake_train(_config: RunConfig, record: Any, _settings: Any) -> CheckpointRef:
        return called("train", record, checkpoint(record.run_id))

    def fake_register(_config: RunConfig, seen: EvalReport, _settings: Any) -> ModelRef:
        return called("register", seen.run_id, model(seen.run_id))

    def fake_promote(*_: Any, version: str, **__: Any) -> Decision:
        return called("promote", version, decision())

    monkeypatch.setattr(prepare, "run", lambda config, settings: called("prepare", None, DATASET))
    monkeypatch.setattr(train, "run", fake_train)
    monkeypatch.setattr(evaluate, "run", lambda config, run_id, settings: called("evaluate", run_id, report(run_id)))
    monkeypatch.setattr(register, "run", fake_register)
    monkeypatch.setattr(register, "promote", fake_promote)
    monkeypatch.setattr(night, "mirror_scores", lambda *_: None)
    monkeypatch.setattr(morning, "pictures", lambda *_: {})
    return calls
