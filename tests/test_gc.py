"""What is kept of a store, and what goes: the rule by itself, after a night, and by `ganpipe gc`."""

from __future__ import annotations

import json
import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from tiny import tiny_raw

from ganpipe import night, prepare, retention, runs
from ganpipe.cli import main
from ganpipe.config import RunConfig, load_config
from ganpipe.errors import InputError
from ganpipe.launch import StopSignal
from ganpipe.night import new_record
from ganpipe.refs import CheckpointRef, EvalReport, ModelRef, SnapshotScores
from ganpipe.register import audit
from ganpipe.registerconfig import KeepConfig
from ganpipe.settings import Settings
from ganpipe.storage import Store
from ganpipe.train import process

DAY = 24 * 3600


def ref(kimg: int, run_id: str = "run") -> CheckpointRef:
    prefix = f"runs/{run_id}/checkpoints/{runs.checkpoint_name(kimg * 1000)}"
    return CheckpointRef(run_id=run_id, images_seen=kimg * 1000, prefix=prefix, generator_sha256="0" * 64)


def report(scores: dict[int, float], run_id: str = "run", metric: str = "fid_domain") -> EvalReport:
    """Of snapshots by their kimg."""
    rows = [
        SnapshotScores(checkpoint=ref(kimg, run_id), scores={metric: value}, by_seed={metric: [value]}, seeds=[1])
        for kimg, value in scores.items()
    ]
    sign = 1 if metric.startswith("fid") else -1
    best = min((row for row in rows if row.scores[metric] == row.scores[metric]), key=lambda r: sign * r.scores[metric])
    return EvalReport(
        run_id=run_id, dataset_digest="d" * 32, protocol={}, protocol_hash="p", metric=metric, snapshots=rows,
        best=best, controls=[],
    )  # fmt: skip


def gone(
    scores: dict[int, float], keep: KeepConfig | None, metric: str = "fid_domain", safe: tuple[int, ...] = ()
) -> Any:
    there = [ref(kimg) for kimg in (1, 2, 3, 4, 5)]
    evaluations = [report(scores, metric=metric)] if scores else []
    names = retention.superfluous(there, evaluations, {ref(kimg).prefix for kimg in safe}, keep)
    return [item.images_seen // 1000 for item in names]


SCORES = {1: 9.0, 2: 3.0, 3: 5.0, 4: 7.0, 5: 8.0}


def test_the_last_and_the_best_stay() -> None:
    assert gone(SCORES, KeepConfig(last=1, best=1)) == [1, 3, 4]
    assert gone(SCORES, KeepConfig(last=2, best=2)) == [1]
    assert gone(SCORES, KeepConfig(last=1, best=1), metric="is_domain") == [2, 3, 4]
    assert gone(SCORES, KeepConfig(last=9, best=1)) == []
    assert gone({**SCORES, 2: float("nan")}, KeepConfig(last=1, best=2)) == [1, 2]


def test_what_is_protected_or_not_scored_or_without_a_rule_stays() -> None:
    assert gone(SCORES, None) == []
    assert gone({}, KeepConfig()) == []
    assert gone(SCORES, KeepConfig(), safe=(3,)) == [1, 4]
    assert gone({1: 9.0, 2: 3.0}, KeepConfig()) == [1], "3, 4 and 5 were not evaluated"


# --- in a store --------------------------------------------------------------------------------------------------


def config(**register: Any) -> RunConfig:
    return load_config({**tiny_raw(), "register": {"model": "tiny", **register}})


def trained(run_id: str, settings: Settings, store: Store, **register: Any) -> list[CheckpointRef]:
    """A run of three checkpoints; the first scores best, the last worst."""
    its = config(**register)
    record = new_record(its, prepare.run(its, settings), settings, datetime.now(UTC), run_id=run_id)
    runs.begin_run(store, record, its)
    process.train({"run_id": run_id}, StopSignal())
    there = runs.checkpoints(store, run_id)
    rows = [
        SnapshotScores(checkpoint=item, scores={"fid_domain": value}, by_seed={"fid_domain": [value]}, seeds=[1])
        for value, item in enumerate(there, 1)
    ]
    evaluated = report({1: 1.0}).model_copy(update={"run_id": run_id, "snapshots": rows, "best": rows[0]})
    store.write_bytes(f"runs/{run_id}/reports/p.json", evaluated.model_dump_json().encode())
    return there


def champion(store: Store, *path: CheckpointRef) -> None:
    """Versions of these checkpoints, champion one after the other; a further one is nothing but registered."""
    before, expected = None, None
    for number, checkpoint in enumerate(path, 1):
        model = ModelRef(
            product="tiny", version=str(number), checkpoint=checkpoint, dataset_digest="d", tracking_run_id="t",
            config_digest="c", created=datetime.now(UTC),
        )  # fmt: skip
        audit.write_version(store, model, report({1: 1.0}))
        entry = audit.AuditRecord(
            kind="adopt", product="tiny", at=datetime.now(UTC), by="a@b", where="test", reason="", before=before,
            after=model,
        )  # fmt: skip
        audit.move(store, expected, entry, previous=before)
        before, expected = model, audit.read_pointer(store, "tiny")[1]


def aged(store: Store, days: float) -> None:
    """As if all files were written that long ago."""
    past = time.time() - days * DAY
    for folder, _, files in os.walk(store.uri.removeprefix("file://")):
        for name in files:
            os.utime(Path(folder, name), (past, past))


def removed(capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, int]:
    capsys.readouterr()
    assert main(["gc", "--json", *options]) == 0
    return {entry["what"]: entry["bytes"] for entry in json.loads(capsys.readouterr().out)["removed"]}


def test_a_night_keeps_what_the_configuration_says(settings: Settings, store: Store) -> None:
    first, second, last = trained("run", settings, store, keep={"last": 1, "best": 1})
    retention.tidy(config(), "run", settings)
    assert runs.checkpoints(store, "run") == [first, second, last], "null keeps everything"
    retention.tidy(config(keep={"last": 1, "best": 1}), "run", settings)
    assert runs.checkpoints(store, "run") == [first, last]
    assert len(list(store.list("runs/run/samples"))) == 3, "pictures are small"


def test_gc_keeps_what_was_ever_in_production(
    settings: Settings, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    keep = {"last": 1, "best": 1}
    one, two, three = (trained(name, settings, store, keep=keep) for name in ("one", "two", "three"))
    trained("all", settings, store)
    champion(store, one[1], two[1], two[0])
    before = {item.key: item.size for item in store.list()}
    listed = removed(capsys, "--dry-run")
    assert set(listed) == {three[1].prefix}, "one[1] was champion two promotions ago, two[1] is what rollback restores"
    assert {item.key: item.size for item in store.list()} == before, "--dry-run only lists"
    assert removed(capsys) == listed
    left = {item.key: item.size for item in store.list()}
    assert sum(before.values()) - sum(left.values()) == sum(listed.values()) > 0
    assert removed(capsys) == {}
    assert set(removed(capsys, "--keep-last", "1", "--keep-best", "1")) == {"runs/all/checkpoints/kimg-000000.256"}


def test_gc_leaves_runs_in_progress_alone(settings: Settings, store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    _, second, _ = trained("run", settings, store, keep={"last": 1, "best": 1})
    store.remove(f"{second.prefix}/manifest.json")
    aged(store, 3)
    runs.write_state(store, "run", "running")
    assert removed(capsys) == {}
    runs.write_state(store, "run", "finished")
    assert set(removed(capsys)) == {second.prefix}


def test_gc_removes_left_overs_older_than_a_day_and_nothing_unknown(
    settings: Settings, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    root = Path(store.uri.removeprefix("file://"))
    half = {
        f"runs/killed/checkpoints/kimg-000001.000/{name}": b"half"
        for name in ("generator.safetensors", "progress.json", "rank-00001.safetensors")
    } | {f"datasets/{'a' * 32}/main.image-00000.npy": b"half", f"extractors/{'b' * 64}/domain.safetensors": b"half"}
    unknown = {
        "runs/killed/checkpoints/kimg-000002.000/notes.txt": b"mine",
        "runs/killed/checkpoints/kimg-000002.000/generator.safetensors": b"half",
        "runs/killed/checkpoints/mine/generator.safetensors": b"mine",
        "datasets/mine/main.npy": b"mine",
        "notes.txt": b"mine",
        "mlflow/x/y.npy": b"not ours",
    }
    for key, data in (half | unknown).items():
        store.write_bytes(key, data)
    (root / ".staging" / "0123").write_bytes(b"half a file")
    (root / ".staging" / "4567").mkdir()
    (root / ".staging" / "4567" / "generator.safetensors").write_bytes(b"half")
    assert removed(capsys) == {}, "younger than a day"
    aged(store, 2)
    os.utime(root / ".staging" / "4567", (0, 0))
    assert removed(capsys) == {
        "runs/killed/checkpoints/kimg-000001.000": 12,
        f"datasets/{'a' * 32}": 4,
        f"extractors/{'b' * 64}": 4,
        ".staging/0123": 11,
        ".staging/4567": 4,
    }
    assert {item.key for item in store.list()} == set(unknown) and list((root / ".staging").iterdir()) == []


def test_starting_from_what_was_removed_is_one_sentence(settings: Settings, store: Store) -> None:
    *_, last = trained("old", settings, store)
    warm = load_config(tiny_raw(start_from="old"))
    record = new_record(warm, prepare.run(warm, settings), settings, datetime.now(UTC), run_id="new")
    assert record.start_checkpoint == last
    runs.begin_run(store, record, warm)
    assert last.prefix in retention.protected(store), "a run that has not begun yet needs it"
    store.remove(last.prefix)
    with pytest.raises(InputError, match=r"kimg-000000.320 was removed.* there is kimg-000000.128, kimg-000000.256"):
        process.train({"run_id": "new"}, StopSignal())
    for checkpoint in runs.checkpoints(store, "old"):
        store.remove(checkpoint.prefix)
    with pytest.raises(InputError, match=r"train.start_from: 'old'"):
        night._start_checkpoint(warm, store)
