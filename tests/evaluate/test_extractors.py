"""Feature extractors: trained once and the same everywhere, found where the message says, never unpickled."""

from __future__ import annotations

import hashlib
import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ganpipe.errors import InputError
from ganpipe.evaluate import domain, extractors
from ganpipe.prepare.manifest import Dataset
from ganpipe.settings import Settings
from ganpipe.storage import Store, open_store


def test_the_domain_extractor_knows_its_digits(shared: tuple[Settings, Dataset]) -> None:
    settings, dataset = shared
    store = open_store(settings.store)
    path, sha256 = domain.get_or_train(dataset, store)
    manifest = store.manifest(f"extractors/{sha256}")
    assert manifest["task"] == "labels" and manifest["classes"] == 10
    assert manifest["images"] == dataset.manifest.ref.rows["extractor"] and manifest["test_accuracy"] > 0.95
    extractor = extractors.build_extractor(extractors.Weights("domain", path, sha256))
    features, logits = extractor(torch.from_numpy(dataset.column("image", "train")[:5].copy()))
    assert features.shape == (5, 32) and logits.shape == (5, 10)


def test_the_same_data_gives_the_same_bytes_in_any_process(
    shared: tuple[Settings, Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, dataset = shared
    monkeypatch.setattr(domain, "STEPS", 30)
    sha256 = hashlib.sha256(domain.train(dataset)[0]).hexdigest()
    code = (
        "import hashlib, sys, torch; from ganpipe.evaluate import domain; from ganpipe.prepare.manifest import Dataset;"
        "from ganpipe.storage import open_store; torch.set_num_threads(2); torch.manual_seed(7); domain.STEPS = 30;"
        "print(hashlib.sha256(domain.train(Dataset.open(open_store(sys.argv[1]), sys.argv[2]))[0]).hexdigest())"
    )
    command = [sys.executable, "-c", code, settings.store, dataset.digest]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip() == sha256


def test_of_two_racing_jobs_the_loser_takes_the_winners(
    make_dataset: Callable[..., Dataset], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = make_dataset(count=300)
    monkeypatch.setattr(domain, "STEPS", 2)
    weights, facts = domain.train(dataset)
    winner = []

    def train_while_another_finishes(_: Dataset) -> tuple[bytes, dict[str, object]]:
        if not winner:
            monkeypatch.setattr(domain, "train", lambda _: (weights, facts))
            winner.append(domain.get_or_train(dataset, store)[1])
        monkeypatch.setattr(domain, "STEPS", 3)
        return train(dataset)

    train = domain.train
    monkeypatch.setattr(domain, "train", train_while_another_finishes)
    _, sha256 = domain.get_or_train(dataset, store)
    assert [sha256] == winner
    assert sha256 == hashlib.sha256(weights).hexdigest()


def test_a_removed_extractor_is_trained_again(
    make_dataset: Callable[..., Dataset],
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    dataset = make_dataset(count=300)
    monkeypatch.setattr(domain, "STEPS", 2)
    _, before = domain.get_or_train(dataset, store)
    store.remove(f"extractors/{before}")
    path, after = domain.get_or_train(dataset, store)
    assert path.is_file() and before == after
    assert "trained again" in caplog.text


def test_unlabelled_and_rare_labels_learn_rotations(
    make_dataset: Callable[..., Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = make_dataset(labelled=False, channels=3, resolution=64)
    monkeypatch.setattr(domain, "STEPS", 60)
    weights, facts = domain.train(dataset)
    assert facts["task"] == "rotation" and facts["classes"] == 4
    assert facts["test_accuracy"] > 0.6
    assert (
        json.loads(json.loads(weights[8 : 8 + int.from_bytes(weights[:8], "little")])["__metadata__"]["ganpipe"])[
            "side"
        ]
        == 32
    )


def test_an_empty_extractor_split_is_refused(make_dataset: Callable[..., Dataset]) -> None:
    with pytest.raises(InputError, match=r"prepare\.extractor_fraction"):
        domain.train(make_dataset(count=300, extractor=False))


def test_missing_inception_weights_say_where_to_put_them(
    store: Store, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    with pytest.raises(InputError) as error:
        extractors.find_inception(store, settings)
    for part in (
        "GANPIPE_INCEPTION_WEIGHTS",
        str(tmp_path / "hub" / "checkpoints" / extractors.INCEPTION_FILE),
        store.uri,
    ):
        assert part in str(error.value)
    with pytest.raises(InputError, match="no such file"):
        extractors.find_inception(store, settings.model_copy(update={"inception_weights": tmp_path / "nowhere.pth"}))


def test_inception_weights_are_found_and_mirrored(
    store: Store, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    cached = tmp_path / "hub" / "checkpoints" / extractors.INCEPTION_FILE
    cached.parent.mkdir(parents=True)
    torch.save({"weight": torch.ones(2)}, cached)
    sha256 = hashlib.sha256(cached.read_bytes()).hexdigest()
    assert extractors.find_inception(store, settings).content == cached
    monkeypatch.setattr(extractors, "INCEPTION_SHA256", sha256[:8])
    assert extractors.find_inception(store, settings).sha256 == sha256
    cached.unlink()
    mirrored = extractors.find_inception(store, settings)
    assert mirrored.sha256 == sha256 and mirrored.content.suffix == ".safetensors"


def test_code_in_a_weights_file_is_not_run(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(pickle.dumps({"weight": print}, protocol=2))
    with pytest.raises(InputError, match="cannot be read as weights"):
        extractors.build_extractor(extractors.Weights("inception", path, ""))
