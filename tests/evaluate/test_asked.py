"""Generators of classes are scored on what they are asked for: as often as in training, on any number of processes."""

from __future__ import annotations

import io
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from evaluate_data import publish_checkpoints, run_config
from PIL import Image

from ganpipe import evaluate
from ganpipe.cli import main
from ganpipe.errors import InputError
from ganpipe.evaluate import process
from ganpipe.evaluate.asked import classes_asked
from ganpipe.evaluate.domain import class_names
from ganpipe.evaluate.exhibits import Picture
from ganpipe.evaluate.fidelity import Features
from ganpipe.evaluate.metrics import gate_metric, lower_is_better
from ganpipe.evaluate.protocol import Protocol
from ganpipe.evaluate.scorer import Scorer, Seen
from ganpipe.evaluate.scores import Reference, mean_of, measure
from ganpipe.prepare.manifest import Dataset
from ganpipe.refs import CheckpointRef, EvalReport
from ganpipe.sample import LoadedGenerator, draw_images, load_generator
from ganpipe.settings import Settings
from ganpipe.storage import open_store

CONFIG = run_config("gan.conditioning=projection", num_samples=100)


@pytest.fixture(scope="module")
def run(
    shared: tuple[Settings, Dataset], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Settings, Dataset, list[CheckpointRef]]:
    settings, dataset = shared
    folder = tmp_path_factory.mktemp("asked")
    return *shared, publish_checkpoints(open_store(settings.store), dataset, CONFIG, folder, 2, run_id="asked-run")


@pytest.fixture(scope="module")
def report(run: tuple[Settings, Dataset, list[CheckpointRef]]) -> EvalReport:
    return process.evaluate_run(CONFIG, "asked-run", run[0])


@pytest.fixture
def loaded(run: tuple[Settings, Dataset, list[CheckpointRef]]) -> LoadedGenerator:
    settings, _, (first, _) = run
    return load_generator(open_store(settings.store).fetch(first.prefix)["generator.safetensors"])


def called(loaded: LoadedGenerator, *names: str) -> LoadedGenerator:
    """The same, of classes by other names."""
    label = loaded.spec["label"].model_copy(update={"vocabulary": names})
    return replace(loaded, spec={**loaded.spec, "label": label})


def test_classes_are_asked_for_as_often_as_they_are_in_training(
    run: tuple[Settings, Dataset, list[CheckpointRef]], loaded: LoadedGenerator
) -> None:
    dataset, n = run[1], 20_000
    asked = classes_asked(loaded, dataset, 7, range(n))
    assert asked is not None
    share_K = np.bincount(np.asarray(asked, np.int64), minlength=10) / n
    real_K = np.bincount(dataset.column("label", "train"), minlength=10) / len(dataset.column("label", "train"))
    assert np.abs(share_K - real_K).max() < 4 * (0.1 * 0.9 / n) ** 0.5
    assert classes_asked(loaded, dataset, 7, range(30, 40)) == asked[30:40]
    assert classes_asked(loaded, dataset, 8, range(100)) != asked[:100]


def test_only_classes_that_the_generator_knows_are_asked_for(
    run: tuple[Settings, Dataset, list[CheckpointRef]], loaded: LoadedGenerator
) -> None:
    """Of data that have got more classes, or have them in another order."""
    other = called(loaded, "owl", "7", "3")
    asked = classes_asked(other, run[1], 7, range(200))
    assert asked is not None and set(asked) == {"3", "7"}
    assert set(other.class_numbers(asked)) == {1, 2}
    with pytest.raises(InputError, match=r"knows the classes owl, cat, and data set .* has 0, 1, 2"):
        classes_asked(called(loaded, "owl", "cat"), run[1], 7, range(3))


def test_label_accuracy_is_the_share_read_as_the_class_asked_for(
    run: tuple[Settings, Dataset, list[CheckpointRef]], report: EvalReport, loaded: LoadedGenerator
) -> None:
    settings, dataset, checkpoints = run
    scorer = Scorer.prepare(CONFIG.evaluate, dataset.digest, open_store(settings.store), settings)
    names, seeds = class_names(dataset), report.snapshots[0].seeds
    for snapshot, checkpoint in zip(report.snapshots, checkpoints, strict=True):
        one = load_generator(scorer.file(checkpoint))
        asked = classes_asked(one, dataset, seeds[0], range(100))
        assert asked is not None
        images = draw_images(one.gan, one.module, seeds[0], 100, label=one.class_numbers(asked))
        read = [names[number] for number in scorer.extractor(images)[1].argmax(1).tolist()]
        right = sum(ours == theirs for ours, theirs in zip(read, asked, strict=True)) / 100
        assert snapshot.scores["label_accuracy_domain"] == pytest.approx(right) and right < 0.5
    low, high = report.best.intervals["label_accuracy_domain"]
    assert 0 <= low <= report.best.scores["label_accuracy_domain"] <= high <= 1
    assert report.control("real").scores["label_accuracy_domain"] > 0.9
    assert "label_accuracy_domain" not in report.control("pca_gaussian").scores
    assert report.protocol["classes_asked"] == "train"
    page = open_store(settings.store).read_bytes(f"runs/asked-run/reports/{report.protocol_hash}.html").decode()
    assert "Samples by the class asked for" in page and page.count('alt="samples of the class') == 10


def test_what_is_shown_is_what_was_scored(
    run: tuple[Settings, Dataset, list[CheckpointRef]], loaded: LoadedGenerator
) -> None:
    settings, dataset, (first, _) = run
    scorer = Scorer.prepare(CONFIG.evaluate, dataset.digest, open_store(settings.store), settings)
    seen = Seen()
    scorer.score([first], [11], "one", seen)
    shown = scorer.exhibits(first, seen, 11)
    assert shown is not None and shown.samples is not None and seen[11][0].classes is not None

    def cells(picture: Picture) -> np.ndarray:
        """(rows, columns, 16, 16), without the line behind each image."""
        sheet = np.array(Image.open(io.BytesIO(picture.data)))
        return sheet.reshape(sheet.shape[0] // 17, 17, -1, 17).swapaxes(1, 2)[:, :, :16, :16]

    asked = loaded.class_numbers(seen[11][0].classes[:64])
    scored = draw_images(loaded.gan, loaded.module, 11, 64, label=asked)[:, 0].numpy()
    assert (cells(shown.samples).reshape(64, 16, 16) == scored).all()
    for pair in shown.first:
        assert (np.array(Image.open(io.BytesIO(pair.sample.data))) == scored[pair.number]).all()
    assert [name for name, _ in shown.of_classes] == list(map(str, range(10)))
    for number, (_, row) in enumerate(shown.of_classes):
        wanted = draw_images(loaded.gan, loaded.module, 11, 10, label=[number] * 10)[:, 0].numpy()
        assert (cells(row)[0] == wanted).all()


def test_the_protocol_is_that_of_generators_without_classes(
    run: tuple[Settings, Dataset, list[CheckpointRef]], report: EvalReport, tmp_path: Path
) -> None:
    """The two stand side by side: one reference, one hash, and only one of them has a label accuracy."""
    settings, dataset, checkpoints = run
    plain = run_config(num_samples=100)
    store = open_store(settings.store)
    (other,) = publish_checkpoints(store, dataset, plain, tmp_path, 1, run_id="plain-beside-asked")
    sheet = process.score_checkpoints(plain, dataset.digest, [other, checkpoints[0]], report.best.seeds, settings)
    assert sheet.protocol_hash == report.protocol_hash
    assert "label_accuracy_domain" not in sheet.snapshots[0].scores
    assert "label_accuracy_domain" in sheet.snapshots[1].scores


def test_scores_of_classes_do_not_depend_on_the_number_of_processes(
    run: tuple[Settings, Dataset, list[CheckpointRef]], report: EvalReport
) -> None:
    assert evaluate.run(CONFIG, "asked-run", run[0].model_copy(update={"num_processes": 2})) == report


def test_score_asks_as_the_evaluation_does(
    run: tuple[Settings, Dataset, list[CheckpointRef]],
    report: EvalReport,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings, dataset, (first, _) = run
    monkeypatch.setenv("GANPIPE_HOME", str(settings.home))
    path = open_store(settings.store).fetch(first.prefix)["generator.safetensors"]
    seed = report.snapshots[0].seeds[0]
    arguments = ["score", dataset.digest, str(path), "--extractor", "domain", "--n", "100", "--seed", str(seed)]
    assert main([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["protocol_hash"] == report.protocol_hash
    assert found["scores"] == pytest.approx({m: v[0] for m, v in report.snapshots[0].by_seed.items()}, nan_ok=True)


def test_classes_of_samples_are_those_asked_for() -> None:
    """Whoever paints a cat when asked for a dog paints no good dog, though all of it is real cats."""
    draws = torch.Generator().manual_seed(0)
    real_ND = torch.cat([torch.randn(60, 4, generator=draws) + 8 * side for side in (0, 1)])
    logits_NK = torch.eye(2).repeat_interleave(60, 0) * 9
    protocol = Protocol(
        extractor="domain", weights_sha256="", torch_fidelity="", dataset_digest="", resize="", n_reference=120,
        n_generated=120, chunk=64, kid_subsets=2, kid_subset_size=50, isc_splits=1, prc_neighborhood=3,
    )  # fmt: skip
    real = Features(real_ND, logits_NK)
    reference = Reference.of(real, protocol, real, ("cat", "dog"))
    names = ["cat"] * 60 + ["dog"] * 60
    right, wrong, unasked = (
        measure(replace(real, classes=classes), reference, protocol)
        for classes in (tuple(names), tuple(reversed(names)), None)
    )
    assert right.scores["label_accuracy_domain"] == 1 and wrong.scores["label_accuracy_domain"] == 0
    assert right.by_class == unasked.by_class and "label_accuracy_domain" not in unasked.scores
    assert wrong.scores["fid_domain"] == right.scores["fid_domain"]
    assert all(wrong.by_class["kid_domain"][name] > right.by_class["kid_domain"][name] + 100 for name in names)
    strangers = measure(replace(real, classes=("cat", *["owl"] * 119)), reference, protocol)
    assert strangers.scores["label_accuracy_domain"] == 1, "of those whose class the classifier knows"
    both = mean_of([right, measure(real, reference, protocol)])
    assert math.isnan(both.scores["label_accuracy_domain"]), "one set has none"


def test_label_accuracy_is_asked_of_generators_of_classes_alone() -> None:
    require = "register.require={label_accuracy_domain: {at_least: 0.97}}"
    assert gate_metric(run_config("gan.conditioning=concat", require)) == "fid_domain"
    assert not lower_is_better("label_accuracy_domain")
    with pytest.raises(InputError, match=r"register\.require\.label_accuracy_domain.*takes no labels"):
        run_config(require)
    with pytest.raises(InputError, match=r"register\.require\.label_accuracy_domain.*\(inception\)"):
        run_config("gan.conditioning=concat", require, extractor="inception", allow_few=True)
