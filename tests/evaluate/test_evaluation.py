"""The stage: snapshots, best one, controls and their cache, the report, the child process."""

from __future__ import annotations

import itertools
import json
import math
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from evaluate_data import publish_checkpoints, publish_dataset, run_config
from safetensors.torch import load_file, save_file

from ganpipe import evaluate
from ganpipe.errors import InputError, Interrupted, WorkFailed
from ganpipe.evaluate import controls, process, scorer
from ganpipe.evaluate.metrics import metric_names
from ganpipe.evaluate.protocol import Controls, Protocol
from ganpipe.evaluate.scorer import Scorer
from ganpipe.evaluate.scores import Reference
from ganpipe.launch import StopSignal
from ganpipe.prepare.manifest import Dataset
from ganpipe.refs import CheckpointRef, ControlScores, EvalReport, SnapshotScores
from ganpipe.settings import Settings
from ganpipe.storage import open_store

CONFIG = run_config(num_samples=100)


@pytest.fixture(scope="module")
def run(
    shared: tuple[Settings, Dataset], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Settings, list[CheckpointRef]]:
    """A run with three snapshots."""
    settings, dataset = shared
    folder = tmp_path_factory.mktemp("checkpoints")
    return settings, publish_checkpoints(open_store(settings.store), dataset, CONFIG, folder, 3)


@pytest.fixture(scope="module")
def report(run: tuple[Settings, list[CheckpointRef]]) -> EvalReport:
    return process.evaluate_run(CONFIG, "tiny-run", run[0])


def test_a_report_holds_every_snapshot_and_the_best_on_other_seeds(
    run: tuple[Settings, list[CheckpointRef]], report: EvalReport
) -> None:
    _, checkpoints = run
    assert [snapshot.checkpoint for snapshot in report.snapshots] == checkpoints
    assert report.metric == "fid_domain"
    lowest = min(report.snapshots, key=lambda snapshot: snapshot.scores["fid_domain"])
    assert report.best.checkpoint == lowest.checkpoint
    assert report.best.seeds == evaluate.seeds("score", 2) and not set(report.best.seeds) & set(lowest.seeds)
    by_seed = report.best.by_seed["fid_domain"]
    assert len(set(by_seed)) == 2 and report.best.scores["fid_domain"] == pytest.approx(np.mean(by_seed))
    assert Protocol.model_validate(report.protocol).hash == report.protocol_hash


def test_every_score_has_its_interval_and_every_class_its_own(report: EvalReport) -> None:
    for scored in (report.best, *report.snapshots, *report.controls):
        labelled = getattr(scored, "name", "") == "real"  # whose classes are known
        assert set(scored.intervals) == set(scored.scores) == set(metric_names("domain", labelled))
        assert all(low <= high for low, high in scored.intervals.values())
    low, high = report.best.intervals["fid_inf_domain"]
    assert low < report.best.scores["fid_inf_domain"] < high < report.best.scores["fid_domain"] * 1.5
    recall = report.control("real").by_class["recall_domain"]
    assert set(recall) == set(map(str, range(10))) and min(recall.values()) > 0.4
    worst = report.best.by_class["recall_domain"]
    assert set(worst) == set(recall) and np.mean(list(worst.values())) < np.mean(list(recall.values()))


def test_a_report_says_what_is_wrong_with_the_best(
    run: tuple[Settings, list[CheckpointRef]], report: EvalReport
) -> None:
    """Untrained generators make grey images, all alike."""
    assert report.diagnostics is not None
    assert (report.diagnostics.generated, report.diagnostics.held_out) == (200, 100)  # two seeds
    raised = {alarm.name for alarm in report.diagnostics.raised}
    assert "low_quality" in raised and "memorised" not in raised
    assert [share.name for share in report.diagnostics.classes] == [f"class {digit}" for digit in range(10)]
    sheet = process.score_checkpoints(
        CONFIG, report.dataset_digest, [report.best.checkpoint], report.best.seeds, run[0]
    )
    assert sheet.diagnostics == report.diagnostics
    older = report.model_dump(mode="json", exclude={"diagnostics"})
    assert EvalReport.model_validate(older).diagnostics is None


def test_controls_are_ordered_as_they_should_be(report: EvalReport) -> None:
    frechet = {control.name: control.scores["fid_domain"] for control in report.controls}
    assert frechet["real"] < frechet["pca_gaussian"] < report.best.scores["fid_domain"]
    assert frechet["resampled_train"] < frechet["pca_gaussian"]
    assert report.control("resampled_train").scores["precision_domain"] == 1
    assert {control.n for control in report.controls} == {100}


def test_the_report_and_its_picture_are_kept(run: tuple[Settings, list[CheckpointRef]], report: EvalReport) -> None:
    store = open_store(run[0].store)
    key = f"runs/tiny-run/reports/{report.protocol_hash}"
    assert EvalReport.model_validate_json(store.read_bytes(f"{key}.json")) == report
    assert store.read_bytes(f"{key}.png").startswith(b"\x89PNG")


def test_same_seeds_same_scores_from_the_cached_reference(
    run: tuple[Settings, list[CheckpointRef]], report: EvalReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, checkpoints = run
    monkeypatch.setattr(scorer, "measured_real", lambda *_: pytest.fail("the reference is in the store"))
    sheet = process.score_checkpoints(
        CONFIG, report.dataset_digest, checkpoints[::-1], report.snapshots[0].seeds, settings
    )
    assert sheet.snapshots == report.snapshots[::-1]
    assert sheet.controls == report.controls and sheet.protocol_hash == report.protocol_hash


def test_scores_do_not_depend_on_the_number_of_processes(
    run: tuple[Settings, list[CheckpointRef]], report: EvalReport
) -> None:
    """Not even in the last bit; the real side and the controls are measured by both processes, too."""
    settings, _ = run
    store = open_store(settings.store)
    store.remove(f"reference/{report.dataset_digest}")
    assert evaluate.run(CONFIG, "tiny-run", settings.model_copy(update={"num_processes": 2})) == report


def test_a_damaged_reference_is_measured_again(
    run: tuple[Settings, list[CheckpointRef]], report: EvalReport, caplog: pytest.LogCaptureFixture
) -> None:
    store = open_store(run[0].store)
    key = f"reference/{report.dataset_digest}/{report.protocol_hash}.safetensors"
    sound = store.read_bytes(key)
    for damaged in (sound[:-1] + bytes([sound[-1] ^ 1]), sound[:1000], b"", sound.replace(b"real", b"rael")):
        store.write_bytes(key, damaged)
        caplog.clear()
        one = Scorer.prepare(CONFIG.evaluate, report.dataset_digest, store, run[0])
        assert "is damaged" in caplog.text
        assert one.controls == report.controls and store.read_bytes(key) == sound


def test_jobs_that_measure_at_once_agree(
    run: tuple[Settings, list[CheckpointRef]], report: EvalReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both have found nothing when the second one puts its reference there."""
    store, compute = open_store(run[0].store), controls.measured_real
    key = f"reference/{report.dataset_digest}/{report.protocol_hash}.safetensors"
    store.remove(f"reference/{report.dataset_digest}")
    meeting = threading.Barrier(2)
    turns = itertools.count()

    def computed_together(*inputs: Any) -> tuple[Reference, list[ControlScores]]:
        reference, scores = compute(*inputs)
        meeting.wait(60)
        return reference, [score.model_copy(update={"n": next(turns)}) for score in scores]

    monkeypatch.setattr(scorer, "measured_real", computed_together)

    def prepare(_: int) -> Scorer:
        return Scorer.prepare(CONFIG.evaluate, report.dataset_digest, store, run[0])

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(prepare, range(2))
    kept, _ = controls._kept(store, key)
    assert kept is not None and first.controls == second.controls == kept[1]
    store.remove(f"reference/{report.dataset_digest}")


@pytest.mark.parametrize(
    ("fault", "error", "message"),
    [
        (
            lambda features, logits: (features[:, :, None], logits),
            WorkFailed,
            r"returned features of shape \(64, 32, 1",
        ),
        (lambda features, logits: (features[:1], logits), WorkFailed, r"features of shape \(1, 32\) for 64 images"),
        (lambda features, logits: (features, logits.sum()), WorkFailed, r"logits of shape \(\) for 64 images"),
        (lambda features, logits: (features * math.nan, logits), WorkFailed, "NaN or infinite"),
        (lambda features, logits: (features, logits / 0), WorkFailed, "NaN or infinite"),
        (lambda features, logits: (features * 0, logits), InputError, "real images have the same features"),
        (lambda features, logits: (features * 1e30, logits), WorkFailed, "fid_domain is (inf|nan)"),
    ],
    ids=["dimensions", "rows", "no rows", "nan", "infinite", "constant", "too large"],
)
def test_an_extractor_at_fault_leaves_nothing_in_the_store(
    run: tuple[Settings, list[CheckpointRef]],
    shared: tuple[Settings, Dataset],
    monkeypatch: pytest.MonkeyPatch,
    fault: Callable[[torch.Tensor, torch.Tensor], Any],
    error: type[Exception],
    message: str,
) -> None:
    settings, dataset = shared
    store = open_store(settings.store)
    before = list(store.list("reference"))
    built = scorer.build_extractor

    def faulty(*inputs: Any) -> Any:
        extractor = built(*inputs)
        extractor.register_forward_hook(lambda _, __, found: fault(*found))
        return extractor

    monkeypatch.setattr(scorer, "build_extractor", faulty)
    with pytest.raises(error, match=message):
        Scorer.prepare(run_config(num_samples=90).evaluate, dataset.digest, store, settings)
    assert list(store.list("reference")) == before


def test_a_small_test_split_states_its_size(run: tuple[Settings, list[CheckpointRef]], report: EvalReport) -> None:
    more = run_config(num_samples=400).evaluate
    one = Scorer.prepare(more, report.dataset_digest, open_store(run[0].store), run[0])
    assert {control.name: control.n for control in one.controls} == {
        "real": 359, "pca_gaussian": 400, "resampled_train": 400,
    }  # fmt: skip


def test_nan_is_never_best(report: EvalReport) -> None:
    def snapshot(score: float) -> SnapshotScores:
        return report.best.model_copy(update={"scores": {"fid_domain": score, "recall_domain": score}})

    scores = [snapshot(math.nan), snapshot(3), snapshot(2), snapshot(math.nan)]
    assert process.best_snapshot(scores, "fid_domain").scores["fid_domain"] == 2
    assert process.best_snapshot(scores, "recall_domain").scores["recall_domain"] == 3
    with pytest.raises(WorkFailed, match="no snapshot has a fid_domain"):
        process.best_snapshot(scores[:1], "fid_domain")


def test_a_generator_of_nan_has_no_scores(
    run: tuple[Settings, list[CheckpointRef]], shared: tuple[Settings, Dataset], tmp_path: Path
) -> None:
    settings, dataset = shared
    store = open_store(settings.store)
    good = publish_checkpoints(store, dataset, CONFIG, tmp_path, 1, run_id="diverged-run")[0]
    path = tmp_path / "diverged-run-0" / "generator.safetensors"
    tensors = {name: torch.full_like(tensor, torch.nan) for name, tensor in load_file(path).items()}
    raw = path.read_bytes()
    metadata = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])["__metadata__"]
    save_file(tensors, path, metadata)
    store.publish(good.prefix, path.parent, {"format": 1, "run_id": good.run_id, "images_seen": good.images_seen})
    with pytest.raises(WorkFailed, match="training diverged"):
        process.evaluate_run(CONFIG, "diverged-run", settings)
    sheet = process.score_checkpoints(CONFIG, dataset.digest, [good, run[1][0]], [1], settings)
    assert math.isnan(sheet.snapshots[0].scores["fid_domain"]) and sheet.snapshots[1].scores["fid_domain"] > 0
    assert sheet.diagnostics is None


def test_a_run_without_checkpoints_is_refused(shared: tuple[Settings, Dataset], tmp_path: Path) -> None:
    settings, dataset = shared
    publish_checkpoints(open_store(settings.store), dataset, CONFIG, tmp_path, 0, run_id="empty-run")
    with pytest.raises(InputError, match="empty-run has no checkpoints"):
        process.evaluate_run(CONFIG, "empty-run", settings)
    with pytest.raises(InputError, match="no run 'nothing'"):
        process.evaluate_run(CONFIG, "nothing", settings)


def test_images_of_another_shape_are_refused(
    run: tuple[Settings, list[CheckpointRef]], shared: tuple[Settings, Dataset], tmp_path: Path
) -> None:
    settings, _ = shared
    store = open_store(settings.store)
    other = Dataset.open(store, publish_dataset(store, tmp_path / "shards", resolution=8, count=400))
    with pytest.raises(InputError, match=r"makes images of shape \(1, 16, 16\).*has \(1, 8, 8\)"):
        process.score_checkpoints(run_config(num_samples=40), other.digest, run[1], [1], settings)


def test_a_stop_ends_the_work(run: tuple[Settings, list[CheckpointRef]], report: EvalReport) -> None:
    with pytest.raises(Interrupted):
        process.evaluate_run(CONFIG, "tiny-run", run[0], StopSignal(requested=True))


def test_the_child_process_gives_the_same_report(run: tuple[Settings, list[CheckpointRef]], report: EvalReport) -> None:
    assert evaluate.run(CONFIG, "tiny-run", run[0]).model_dump_json() == report.model_dump_json()


def test_a_gaussian_has_the_mean_and_spread_it_was_fitted_to() -> None:
    rng = np.random.default_rng(0)
    images = rng.normal(128, 20, (500, 1, 8, 8)).clip(0, 255).astype(np.uint8)
    images[:, :, 0] = 200
    gaussian = controls.PcaGaussian.fit(images, Controls(pca_variance=1.0))
    drawn = gaussian.sample(500, torch.Generator().manual_seed(1)).numpy().astype(float)
    assert drawn.shape == images.shape
    assert abs(drawn.mean() - images.mean()) < 1
    assert drawn[:, :, 0].std() < 1 and drawn[:, :, 1:].std() == pytest.approx(images[:, :, 1:].std(), rel=0.05)


def test_a_gaussian_of_wide_and_of_big_images() -> None:
    rng = np.random.default_rng(0)
    wide = rng.integers(0, 256, (20, 3, 16, 16), np.uint8)
    assert len(controls.PcaGaussian.fit(wide, Controls()).axes_KP) < 20
    big = controls.PcaGaussian.fit(rng.integers(0, 256, (5, 1, 128, 128), np.uint8), Controls())
    assert big.sample(2, torch.Generator()).shape == (2, 1, 128, 128)
