"""Feature extractors: trained once and the same everywhere, found where the message says, never unpickled."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nets
import pytest
import torch
from evaluate_data import publish_checkpoints, run_config
from torch import nn
from torch_fidelity.feature_extractor_clip import MODEL_METADATA, CLIPVisual
from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY

from ganpipe.cli import main
from ganpipe.errors import InputError, WorkFailed
from ganpipe.evaluate import domain, extractors, fidelity, process, weights
from ganpipe.evaluate.known import KNOWN, slug
from ganpipe.evaluate.metrics import METRICS, lower_is_better, metric_names
from ganpipe.evaluate.protocol import NAMED, Named, headline
from ganpipe.prepare.manifest import Dataset
from ganpipe.settings import Settings
from ganpipe.storage import Store, open_store


def made_official(monkeypatch: pytest.MonkeyPatch, extractor: str, sha256: str) -> None:
    """The real files are not to be had in a test: one of these digits takes their place."""
    monkeypatch.setitem(KNOWN, extractor, replace(KNOWN[extractor], sha256=sha256))


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
        weights.find_file("inception", store, settings)
    for part in (
        "GANPIPE_INCEPTION_WEIGHTS",
        str(tmp_path / "hub" / "checkpoints" / KNOWN["inception"].file),
        store.uri,
        "ganpipe weights add FILE",
    ):
        assert part in str(error.value)
    given = settings.model_copy(update={"inception_weights": tmp_path / "nowhere.pth"})
    with pytest.raises(InputError, match="no such file"):
        weights.find_file("inception", store, given)


def test_official_weights_are_found_and_mirrored_and_others_are_not_inception(
    store: Store, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    cached = tmp_path / "hub" / "checkpoints" / KNOWN["inception"].file
    cached.parent.mkdir(parents=True)
    torch.save({"weight": torch.ones(2)}, cached)
    sha256 = hashlib.sha256(cached.read_bytes()).hexdigest()
    with pytest.raises(InputError, match=rf"begins with 6726825d, and this one's is {sha256}.*inception-v3-compat"):
        weights.find_file("inception", store, settings)
    given = settings.model_copy(update={"inception_weights": cached})
    assert weights.find_file("inception-v3-compat", store, given).sha256 == sha256
    assert not list(store.list())
    made_official(monkeypatch, "inception", sha256[:8])
    assert weights.find_file("inception", store, settings).sha256 == sha256
    cached.unlink()
    mirrored = weights.find_file("inception", store, settings)
    assert isinstance(mirrored.content, Path) and mirrored.content.suffix == ".safetensors"
    assert mirrored.sha256 == sha256


def test_code_in_a_weights_file_is_not_run(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(pickle.dumps({"weight": print}, protocol=2))
    with pytest.raises(InputError, match="cannot be read as weights"):
        extractors.build_extractor(extractors.Weights("inception", path, ""))


# --- files in the store ------------------------------------------------------------------------------------------


def test_an_added_file_serves_after_it_is_gone(
    random_inception: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    sha256 = hashlib.sha256(random_inception.read_bytes()).hexdigest()
    made_official(monkeypatch, "inception", sha256[:8])
    path = Path(shutil.copy(random_inception, tmp_path / KNOWN["inception"].file))
    assert main(["weights", "add", str(path)]) == 0
    assert f"{sha256[:16]}" in capsys.readouterr().out
    path.unlink()
    settings = Settings.from_environment()
    store = open_store(settings.store)
    assert weights.find_file("inception", store, settings).sha256 == sha256
    assert main(["weights", "--json"]) == 0
    (entry,) = json.loads(capsys.readouterr().out)["weights"]
    assert entry["extractor"] == "inception" and entry["origin"].endswith("(official)")
    manifest = store.manifest("extractors/inception")
    assert manifest["weights_sha256"] == sha256 and list(manifest["files"]) == ["inception.safetensors"]


def test_wrong_and_truncated_files_are_refused_and_nothing_is_stored(
    random_inception: Path, store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = random_inception.read_bytes()
    truncated = tmp_path / KNOWN["inception"].file
    truncated.write_bytes(data[: len(data) // 2])
    sha256 = hashlib.sha256(truncated.read_bytes()).hexdigest()
    other = tmp_path / "other.pth"
    torch.save({"weight": torch.ones(2)}, other)
    for arguments, parts in (
        ([truncated], (str(truncated), "begins with 6726825d", sha256, f"{len(data) // 2:,} bytes", "fetch it again")),
        ([other], (str(other), "none of the files that are known", KNOWN["vgg16"].file, "--extractor")),
        ([other, "--extractor", "inception"], ("not the official file", "inception-v3-compat")),
        ([other, "--extractor", "inception-v3-compat"], ("does not hold weights", "Missing key")),
        ([other, "--extractor", "domain"], ("takes no file",)),
        ([other, "--extractor", "dinov2-vit-s-14"], ("takes no file", "torch.hub")),
        ([tmp_path / "nowhere"], ("no such file",)),
        ([], ("name the file",)),
    ):
        assert main(["weights", "add", *map(str, arguments)]) == 2
        told = capsys.readouterr().err
        assert all(part in told for part in parts), told
    assert not list(store.list())
    assert main(["weights"]) == 0 and "no weights" in capsys.readouterr().out


def tiny_clip() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    clip = CLIPVisual(embed_dim=16, image_resolution=32, vision_layers=1, vision_width=64, vision_patch_size=16)
    return {**clip.state_dict(), "text_projection": torch.zeros(1, 16)}


def test_weights_of_ones_own_are_kept_by_the_extractors_name(
    store: Store, settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = tiny_clip()
    torch.save(state, tmp_path / "mine.pt")
    entry = weights.add(tmp_path / "mine.pt", store, "clip-vit-b-32")
    assert entry["extractor"] == "clip-vit-b-32" and "official" not in entry["origin"]
    assert "scores with it are called fid_clip-vit-b-32" in caplog.text
    assert weights.add(tmp_path / "mine.pt", store, "clip-vit-b-32") == entry, "a second time changes nothing"
    torch.save({name: tensor + 1 for name, tensor in state.items()}, tmp_path / "other.pt")
    with pytest.raises(InputError, match=rf"has other weights, of sha256 {entry['sha256']}"):
        weights.add(tmp_path / "other.pt", store, "clip-vit-b-32")

    found = extractors.find_weights("clip-vit-b-32", None, store, settings)
    extractor = extractors.build_extractor(found)
    images = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8)
    features, logits = extractor(images)
    assert features.shape == (3, 16) and logits.shape == (3, 0)
    grey, _ = extractor(images[:, :1])
    torch.testing.assert_close(grey, extractor(images[:, :1].repeat(1, 3, 1, 1))[0])


def test_what_is_known_is_what_torch_fidelity_has() -> None:
    theirs = {name for name in FEATURE_EXTRACTORS_REGISTRY if not name.startswith("ganpipe-")}
    assert theirs == set(KNOWN) - {"inception", "domain", "triples", "point"}
    assert {name: KNOWN[name].sha256 for name in MODEL_METADATA} == {
        name: facts["hash"] for name, facts in MODEL_METADATA.items()
    }
    assert KNOWN["domain"].feature_dim == domain.FEATURES and str(domain.MAX_SIDE) in KNOWN["domain"].resize
    for name, made in extractors.EXTRACTORS.items():
        assert KNOWN[name].feature_dim == made.feature_dim


def test_dinov2_says_why_it_cannot_be_had(
    store: Store, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(InputError, match=r"takes no file of weights.*dinov2_vitb14"):
        extractors.find_weights("dinov2-vit-b-14", None, store, settings)


# --- modules by name ---------------------------------------------------------------------------------------------


def test_a_module_by_name_scores_a_run(shared: tuple[Settings, Dataset], tmp_path: Path) -> None:
    settings, dataset = shared
    store = open_store(settings.store)
    config = run_config(extractor="nets:small", num_samples=40)
    publish_checkpoints(store, dataset, config, tmp_path, 1, run_id="by-module")
    report = process.evaluate_run(config, "by-module", settings)
    assert set(report.best.scores) == set(metric_names("nets:small"))
    assert report.protocol["extractor"] == "nets:small" and report.metric == "fid_nets-small"
    assert report.protocol["weights_sha256"] == extractors.state_sha256(extractors.load_module("nets:small"))
    assert all(control.scores["fid_nets-small"] >= 0 for control in report.controls)
    few = run_config(extractor="nets:small", num_samples=nets.FEATURES)
    with pytest.raises(InputError, match=f"{nets.FEATURES} generated images.*the {nets.FEATURES} features"):
        process.Scorer.prepare(few.evaluate, dataset.digest, store, settings)


def test_metric_names_carry_the_extractor_and_plain_ones_are_inceptions() -> None:
    assert slug("package.some_module:Factory") == "package-some-module-factory"
    for extractor in ("vgg16", "clip-vit-b-32", "package.some_module:Factory", "inception-v3-compat"):
        names = metric_names(extractor)
        assert f"fid_{slug(extractor)}" in names and not set(names) & set(METRICS)
        assert all(lower_is_better(name) == lower for name, lower in names.items())
    assert "is_inception-v3-compat" in metric_names("inception-v3-compat")
    assert "is_vgg16" not in metric_names("vgg16"), "its features are no logits of classes"


def test_a_modules_hash_is_that_of_its_state() -> None:
    one, same = extractors.load_module("nets:small"), extractors.load_module("nets:small")
    assert extractors.state_sha256(one) == extractors.state_sha256(same), "made under a seed of its own"
    with torch.no_grad():
        next(same.parameters()).view(-1)[0] += 1e-6
    assert extractors.state_sha256(one) != extractors.state_sha256(same)
    assert len({extractors.state_sha256(nn.Linear(2, 2, dtype=kind)) for kind in (torch.bfloat16, torch.float64)}) == 2


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere.at_all:net", "nowhere.*PYTHONPATH"),
        ("nets:missing", "no attribute 'missing'"),
        ("nets:raises", r"raises\(\) failed: OSError: no weights here"),
        ("nets:function", "returned a function, no torch.nn.Module"),
    ],
)
def test_modules_that_cannot_be_had(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        extractors.load_module(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nets:scalar", r"returned shape \(\) for 2 images; features of shape \(2, D\)"),
        ("nets:mapping", "returned type dict"),
        ("nets:of_big_images", r"failed on uint8 images of shape \(2, 1, 16, 16\)"),
        ("nets:nan", "NaN or infinite features"),
    ],
)
def test_modules_that_make_no_features(name: str, message: str, shared: tuple[Settings, Dataset]) -> None:
    settings, dataset = shared
    store = open_store(settings.store)
    config = run_config(extractor=name, num_samples=40).evaluate
    before = {item.key for item in store.list("reference")}
    with pytest.raises(WorkFailed, match=message):
        process.Scorer.prepare(config, dataset.digest, store, settings)
    assert {item.key for item in store.list("reference")} == before, "nothing is cached"


def test_a_named_protocol_measures_against_the_split_that_it_names(
    shared: tuple[Settings, Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, dataset = shared
    store = open_store(settings.store)
    rows = dataset.manifest.ref.rows
    monkeypatch.setitem(NAMED, "tiny-test", Named("nets:small", "test", 50, 300, 100))
    config = run_config(protocol="tiny-test").evaluate
    assert (config.extractor, config.num_samples) == ("nets:small", 50)
    scorer = process.Scorer.prepare(config, dataset.digest, store, settings)
    protocol = scorer.protocol
    assert (protocol.reference_split, protocol.control_split, protocol.n_reference) == ("test", "train", 300)
    assert headline(protocol.model_dump(), protocol.hash).startswith(f"tiny-test {protocol.hash} (nets:small, 50 ")
    held_out = torch.from_numpy(dataset.column("image", "test")[:300].copy())
    expected = scorer.extractor(held_out)[0]
    torch.testing.assert_close(scorer.reference.features_ND, expected, rtol=1e-4, atol=1e-6)
    controls = {control.name: control.scores["fid_nets-small"] for control in scorer.controls}
    assert controls["real"] < controls["pca_gaussian"]
    monkeypatch.setitem(NAMED, "big-test", Named("nets:small", "test", 50, 10_000, rows["test"] + 1))
    with pytest.raises(InputError, match=rf"big-test wants {rows['test'] + 1} images.*has {rows['test']}"):
        fidelity.require_enough(run_config(protocol="big-test").evaluate, dataset)
