"""`ganpipe score`: parity on folders, everything it takes, and everything it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch_fidelity
from evaluate_data import digit_images, publish_checkpoints, run_config
from PIL import Image
from tiny import points_raw

from ganpipe import prepare
from ganpipe.cli import main
from ganpipe.config import load_config
from ganpipe.evaluate import process
from ganpipe.evaluate.extractors import load_module, registered_name
from ganpipe.evaluate.protocol import NAMED, Named
from ganpipe.prepare.manifest import Dataset
from ganpipe.settings import Settings
from ganpipe.storage import open_store

BY_MODULE = ("--extractor", "nets:small")
SETTINGS = ("kid_subsets", "kid_subset_size", "isc_splits", "prc_neighborhood")


def write(folder: Path, images_NCHW: np.ndarray, colour: bool = True) -> Path:
    folder.mkdir(parents=True)
    for number, (image,) in enumerate(images_NCHW):
        picture = np.stack([image, image, 255 - image], 2) if colour else image
        Image.fromarray(picture).save(folder / f"{number:03d}.png")
    return folder


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Digits in colour, and noisy ones."""
    root, (images, _) = tmp_path_factory.mktemp("sides"), digit_images(16)
    noise = np.random.default_rng(0).integers(-60, 60, images[40:70].shape)
    noisy = np.clip(images[40:70].astype(int) + noise, 0, 255).astype(np.uint8)
    return write(root / "real", images[:40]), write(root / "generated", noisy)


def told(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["score", *map(str, arguments), "--json"]) == code
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


def test_two_folders_score_what_torch_fidelity_says(
    sides: tuple[Path, Path],
    random_inception: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    real, generated = (Path(shutil.copytree(side, tmp_path / side.name)) for side in sides)
    for folder, keep in ((real, 7), (generated, 6)):
        for path in sorted(folder.iterdir())[keep:]:
            path.unlink()
    solve, solved = np.linalg.eigvals, {}

    def solve_once(matrix: np.ndarray) -> np.ndarray:
        """2,048 x 2,048 takes many seconds; nearly equal matrices have nearly equal eigenvalues."""
        key = np.round(matrix, 9).tobytes()
        if key not in solved:
            solved[key] = solve(matrix)
        return solved[key]

    monkeypatch.setattr(np.linalg, "eigvals", solve_once)
    own = ("--extractor", "inception-v3-compat", "--weights", random_inception)
    ours = told(capsys, real, generated, *own, "--allow-few")
    theirs = torch_fidelity.calculate_metrics(
        input1=str(generated), input2=str(real), cuda=False, batch_size=64, verbose=False, save_cpu_ram=True,
        fid=True, isc=True, kid=True, prc=True, cache=False,
        feature_extractor=registered_name("inception-v3-compat"), feature_extractor_weights_path=str(random_inception),
        **{name: ours["protocol"][name] for name in SETTINGS},
    )  # fmt: skip
    for name, key in (
        ("fid", torch_fidelity.KEY_METRIC_FID),
        ("kid", torch_fidelity.KEY_METRIC_KID_MEAN),
        ("is", torch_fidelity.KEY_METRIC_ISC_MEAN),
        ("precision", torch_fidelity.KEY_METRIC_PRECISION),
        ("recall", torch_fidelity.KEY_METRIC_RECALL),
    ):
        assert ours["scores"][f"{name}_inception-v3-compat"] == pytest.approx(theirs[key], rel=1e-6), name
    assert ours["scores"]["fid_inception-v3-compat"] > 1e-3
    assert "fid" not in ours["scores"], "only the official weights give that name"


def test_the_table_shows_scores_and_the_whole_protocol(
    sides: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    result = told(capsys, *sides, *BY_MODULE)
    assert main(["score", *map(str, sides), *BY_MODULE]) == 0
    out = capsys.readouterr().out
    assert f"{result['scores']['fid_nets-small']:.4g}" in out and result["protocol_hash"] in out
    assert "floor" not in out, "a folder has no part that is held out"
    for field in ("weights_sha256", "resize", "kid_subset_size", "controls.draws"):
        assert f"  {field} " in out
    assert result["protocol"]["n_generated"] == 30 and result["protocol"]["n_reference"] == 40
    assert result["protocol"]["reference_split"] == "all" and result["controls"] == []


def test_an_archive_is_as_good_as_its_folder(
    sides: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    packed = shutil.make_archive(str(tmp_path / "real"), "zip", sides[0])
    by_folder, by_archive = told(capsys, *sides, *BY_MODULE), told(capsys, packed, sides[1], *BY_MODULE)
    assert by_folder["scores"] == by_archive["scores"]
    assert by_folder["protocol_hash"] == by_archive["protocol_hash"]
    one_less = tmp_path / "less"
    shutil.copytree(sides[0], one_less)
    (one_less / "000.png").unlink()
    assert told(capsys, one_less, sides[1], *BY_MODULE)["protocol_hash"] != by_folder["protocol_hash"]


def test_images_of_several_sizes_go_through_one_by_one(
    sides: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    real = Path(shutil.copytree(sides[0], tmp_path / "real"))
    for number in range(0, 40, 3):
        path = real / f"{number:03d}.png"
        Image.open(path).resize((12 + number % 4, 20)).save(path)
    result = told(capsys, real, sides[1], *BY_MODULE)
    assert "every image from its own size" in result["protocol"]["resize"]
    network = load_module("nets:small")

    def features(folder: Path) -> torch.Tensor:
        images = (np.asarray(Image.open(path)) for path in sorted(folder.iterdir()))
        return torch.cat([network(torch.from_numpy(image.transpose(2, 0, 1).copy())[None])[0] for image in images])

    ours, theirs = features(sides[1]).double().numpy(), features(real).double().numpy()
    cross = np.linalg.eigvals(np.cov(ours.T) @ np.cov(theirs.T)).real.clip(0)
    traces = np.trace(np.cov(ours.T)) + np.trace(np.cov(theirs.T)) - 2 * np.sqrt(cross).sum()
    distance = np.sum((ours.mean(0) - theirs.mean(0)) ** 2) + traces
    assert result["scores"]["fid_nets-small"] == pytest.approx(distance, rel=1e-3)


def test_against_a_data_set_the_floor_stands_beside(
    shared: tuple[Settings, Dataset],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A run, and a folder of what it draws, score the same; the protocol is that of an evaluation."""
    settings, dataset = shared
    monkeypatch.setenv("GANPIPE_STORE", settings.store)
    store = open_store(settings.store)
    config = run_config(num_samples=60)
    publish_checkpoints(store, dataset, config, tmp_path, 1, run_id="to-score")
    drawn = told(capsys, dataset.digest[:10], "to-score", "--extractor", "domain", "--n", "60", "--seed", "3")
    assert main(["generate", "to-score", "--n", "60", "--seed", "3", "--out", str(tmp_path / "drawn")]) == 0
    by_files = told(capsys, dataset.digest[:10], tmp_path / "drawn", "--extractor", "domain")
    assert by_files["scores"] == pytest.approx(drawn["scores"], rel=1e-6)
    scorer = process.Scorer.prepare(config.evaluate, dataset.digest, store, settings)
    assert drawn["protocol_hash"] == by_files["protocol_hash"] == scorer.protocol.hash
    assert drawn["controls"] == [control.model_dump(mode="json") for control in scorer.controls]
    assert main(["score", dataset.digest, "to-score", "--extractor", "domain", "--n", "60"]) == 0
    out = capsys.readouterr().out
    assert "floor (n=60)" in out and f"(domain, 60 generated against {scorer.protocol.n_reference:,} of train)" in out
    itself = told(capsys, dataset.digest, dataset.digest, "--extractor", "domain")
    assert itself["scores"]["fid_domain"] < drawn["scores"]["fid_domain"]


def test_what_cannot_be_compared_is_refused_before_anything_is_kept(
    sides: tuple[Path, Path],
    shared: tuple[Settings, Dataset],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    real, generated = sides
    images, _ = digit_images(16)
    grey, small = write(tmp_path / "grey", images[:9], colour=False), write(tmp_path / "small", images[:9, :, ::2, ::2])
    damaged = Path(shutil.copytree(generated, tmp_path / "damaged"))
    (damaged / "004.png").write_bytes((damaged / "004.png").read_bytes()[:60])
    (damaged / "017.png").write_bytes(b"")
    (empty := tmp_path / "empty").mkdir()
    one = write(tmp_path / "one", images[:1])
    eight = write(tmp_path / "eight", images[:8])
    monkeypatch.setitem(NAMED, "tiny", Named("nets:small", "train", 30, 50, 41))
    monkeypatch.setitem(NAMED, "large", Named("nets:small", "train", 31, 50, 2))
    for arguments, parts in (
        ((real, damaged, *BY_MODULE), ("GENERATED: 2 of 30 images", "004.png: cannot", "017.png: the file is")),
        ((real, grey, *BY_MODULE), ("REAL", "are colour images", "are grey images")),
        ((grey, real, *BY_MODULE), ("are grey images", "are colour images")),
        ((real, small, *BY_MODULE), ("of 16 x 16 px", "of 8 x 8 px")),
        ((real, eight, *BY_MODULE), ("8 images of GENERATED against 40 of REAL", "the 8 features", "--allow-few")),
        ((real, one, *BY_MODULE, "--allow-few"), ("GENERATED", "has 1 image")),
        ((real, empty, *BY_MODULE), ("GENERATED: no images in", str(empty))),
        ((real, generated, *BY_MODULE, "--n", 31), ("--n wants 31", "has 30")),
        ((real, generated, "--protocol", "tiny"), ("protocol tiny wants 41 images", "has 40")),
        ((real, generated, "--protocol", "large"), ("protocol large wants 31 images of GENERATED", "has 30")),
        ((real, generated, "--protocol", "large", "--n", 30), ("fixes it at 31",)),
        ((real, generated, "--protocol", "large", "--extractor", "vgg16"), ("fixes it at nets:small",)),
        ((real, generated, "--protocol", "fid7"), ("there is no protocol 'fid7'", "fid50k-train")),
        ((real, generated, "--extractor", "resnet"), ("there is no extractor 'resnet'", "vgg16")),
        ((real, generated, "--extractor", "domain"), ("no score is measured on", "ganpipe prepare CONFIG")),
        ((real, generated, "--extractor", "point"), ("does not go with REAL",)),
        ((real, generated, *BY_MODULE, "--weights", real / "000.png"), ("takes no file",)),
        ((real, tmp_path / "nowhere", *BY_MODULE), ("GENERATED:", "nowhere", "is no folder")),
        (("models:/digits@champion", generated, *BY_MODULE), ("REAL:", "name real images first")),
        ((real, generated, "--extractor", "nets:scalar"), ("returned shape ()",)),
        ((real, generated, "--extractor", "nets:nan"), ("NaN or infinite features",)),
    ):  # fmt: skip
        code = 1 if "nets:scalar" in arguments or "nets:nan" in arguments else 2
        error = told(capsys, *arguments, code=code)["error"]
        assert all(part in error for part in parts), error
    settings = Settings.from_environment()
    assert not list(open_store(settings.store).list())
    assert not list(settings.local_folder("work").iterdir()), "no pixels are left behind"


def test_few_images_are_scored_when_that_is_asked_for(
    sides: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    eight = write(tmp_path / "eight", digit_images(16)[0][:8])
    scores = told(capsys, sides[0], eight, *BY_MODULE, "--allow-few")["scores"]
    assert all(np.isfinite(value) for value in scores.values())


def test_points_have_their_own_extractor(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    digest = prepare.run(load_config(points_raw(samples=1000)), settings).digest
    result = told(capsys, digest, digest)
    assert result["protocol"]["extractor"] == "point" and result["scores"]["mode_overlap"] > 0.9
    assert "does not go with REAL" in told(capsys, digest, digest, *BY_MODULE, code=2)["error"]
