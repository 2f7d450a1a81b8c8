"""Models that translate: the same image from the command line, the file and the served model, whatever its size."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import SMALL_CYCLEGAN, SMALL_PIX2PIX

from ganpipe import sample
from ganpipe.cli import main
from ganpipe.gans import GANS
from ganpipe.register import package
from ganpipe.spec import Column, DataSpec, Direction

SIDE = 16
SERVE = """
import sys
sys.modules["ganpipe"] = None
import mlflow, numpy as np
model = mlflow.pyfunc.load_model(sys.argv[1])
np.save(sys.argv[2], model.predict(np.load(sys.argv[3]), params={"direction": sys.argv[4], "seed": 3}))
"""


def spec(**channels: int) -> DataSpec:
    return {
        name: Column(kind="image", dtype="uint8", shape=(count, SIDE, SIDE), range=(0, 255), shards=())
        for name, count in channels.items()
    }


GENERATORS: dict[str, tuple[dict[str, Any], DataSpec]] = {
    "pairs": (SMALL_PIX2PIX, spec(source=1, target=3)),
    "sides": ({**SMALL_CYCLEGAN, "identity": 0}, spec(a=3, b=1)),
}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Of generators with large random weights, so that no two images become the same."""
    found = {}
    for name, (raw, columns) in GENERATORS.items():
        gan = GANS[raw["name"]](GANS[raw["name"]].Config.model_validate(raw))
        torch.manual_seed(0)
        module = gan.build_networks(columns).generator
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.copy_(torch.randn_like(parameter) * 0.3)
        found[name] = tmp_path_factory.mktemp(name) / "generator.safetensors"
        sample.save_generator(found[name], gan, module, columns, "r", 1)
    return found


def image(seed: int, height: int = SIDE, width: int = SIDE, channels: int = 1) -> np.ndarray:
    """uint8 (height, width, channels)"""
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)


def save(folder: Path, images: dict[str, np.ndarray]) -> Path:
    for name, pixels in images.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(folder / name)
    return folder


def read(path: Path) -> np.ndarray:
    pixels = np.asarray(Image.open(path))
    return pixels if pixels.ndim == 3 else pixels[..., None]


def translated(weights: Path, index: int, pixels: np.ndarray, direction: Direction = "AtoB") -> np.ndarray:
    """By the networks themselves, with the noise of sample `index` of seed 3: uint8 (height, width, channels)."""
    loaded = sample.load_generator(weights)
    sources = torch.from_numpy(pixels.transpose(2, 0, 1).copy())[None]
    made = sample.translate(loaded.gan, loaded.module, 3, [index], sources, direction, chunk=1)
    return sample.to_uint8(made)[0].numpy().transpose(1, 2, 0)


def generate(weights: Path, folder: Path, out: Path, *more: str) -> int:
    return main(["generate", str(weights), "--seed", "3", "--input", str(folder), "--out", str(out), *more])


def test_every_image_is_translated_in_its_own_size(weights: dict[str, Path], tmp_path: Path) -> None:
    """Mirrored up to what the networks take, a whole number of 16 px here, and cropped back."""
    images = {"a.png": image(0), "deep/b.png": image(1, 17, 30), "deep/c.png": image(2, 9, 40)}
    assert generate(weights["pairs"], save(tmp_path / "in", images), tmp_path / "out") == 0
    assert sorted(
        path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.png")
    ) == sorted(images)
    np.testing.assert_array_equal(read(tmp_path / "out/a.png"), translated(weights["pairs"], 0, images["a.png"]))
    padded = np.pad(images["deep/b.png"], ((0, 15), (0, 2), (0, 0)), mode="symmetric")
    wanted = translated(weights["pairs"], 1, padded)[:17, :30]
    np.testing.assert_array_equal(read(tmp_path / "out/deep/b.png"), wanted)
    assert read(tmp_path / "out/deep/c.png").shape == (9, 40, 3)


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (4, 40)])
def test_images_smaller_than_what_the_networks_take(
    size: tuple[int, int], weights: dict[str, Path], tmp_path: Path
) -> None:
    folder = save(tmp_path / "in", {"a.png": image(0, *size, 3)})
    assert generate(weights["sides"], folder, tmp_path / "out", "--direction", "AtoB") == 0
    assert read(tmp_path / "out/a.png").shape == (*size, 1)


def test_both_directions_of_one_model(weights: dict[str, Path], tmp_path: Path) -> None:
    there, back = (
        save(tmp_path / "a", {"x.png": image(0, channels=3)}),
        save(tmp_path / "b", {"y.png": image(1, 18, 21)}),
    )
    assert generate(weights["sides"], there, tmp_path / "to_b", "--direction", "AtoB") == 0
    assert generate(weights["sides"], back, tmp_path / "to_a", "--direction", "BtoA") == 0
    wanted = translated(weights["sides"], 0, image(0, channels=3), "AtoB")
    np.testing.assert_array_equal(read(tmp_path / "to_b/x.png"), wanted)
    assert read(tmp_path / "to_a/y.png").shape == (18, 21, 3)


def test_one_picture_of_sources_beside_translations(weights: dict[str, Path], tmp_path: Path) -> None:
    folder = save(tmp_path / "in", {f"{number}.png": image(number) for number in range(3)})
    assert generate(weights["pairs"], folder, tmp_path / "sheet.png") == 0
    sheet = read(tmp_path / "sheet.png")
    assert sheet.shape[2] == 3 and min(sheet.shape[:2]) >= 2 * SIDE
    assert generate(weights["pairs"], folder, tmp_path / "row.png", "--columns", "3") == 0
    row = read(tmp_path / "row.png")
    assert row.shape[1] == 6 * row.shape[0]
    first = row[:: row.shape[0] // SIDE, : row.shape[0] : row.shape[0] // SIDE]
    np.testing.assert_array_equal(first, np.broadcast_to(image(0), (SIDE, SIDE, 3)))


def test_a_served_model_translates_as_the_command_does(weights: dict[str, Path], tmp_path: Path) -> None:
    from mlflow.models import Model

    for name, direction, channels in (("pairs", "AtoB", 1), ("sides", "BtoA", 1)):
        package.save(tmp_path / name / "model", weights[name], Model(), {})
        images = np.stack([image(number, 18, 20, channels) for number in range(2)])
        np.save(tmp_path / "images.npy", images)
        arguments = map(str, (tmp_path / name / "model", tmp_path / "answer.npy", tmp_path / "images.npy", direction))
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        subprocess.run(
            [sys.executable, "-c", SERVE, *arguments], check=True, cwd=tmp_path, env=environment, timeout=300
        )
        folder = save(tmp_path / name / "in", {f"{number}.png": one for number, one in enumerate(images)})
        assert generate(weights[name], folder, tmp_path / name / "out", "--direction", direction) == 0
        wanted = [read(tmp_path / name / "out" / f"{number}.png") for number in range(2)]
        np.testing.assert_array_equal(np.load(tmp_path / "answer.npy"), wanted)


def test_what_a_served_model_cannot_translate_is_told(weights: dict[str, Path], tmp_path: Path) -> None:
    import mlflow.pyfunc
    from mlflow.exceptions import MlflowException
    from mlflow.models import Model

    package.save(tmp_path / "model", weights["sides"], Model(), {})
    model = mlflow.pyfunc.load_model(str(tmp_path / "model"))
    with pytest.raises(MlflowException, match="AtoB and BtoA, not up"):
        model.predict(image(0, channels=3)[None], params={"direction": "up"})
    with pytest.raises(MlflowException, match="images of 1 channels are translated"):
        model.unwrap_python_model().predict(None, image(0, channels=3)[None], {"direction": "BtoA"})
    with pytest.raises(MlflowException, match="uint8"):
        model.unwrap_python_model().predict(None, image(0)[None].astype(float), {"direction": "BtoA"})


def test_what_training_knew_of_its_pictures_is_known_of_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From which half to which pairs go, and what shows through transparent pixels."""
    raw, columns = GENERATORS["pairs"]
    known = {"direction": "BtoA", "background": (200, 30, 30)}
    described = {name: column.model_copy(update=known) for name, column in columns.items()}
    gan = GANS[raw["name"]](GANS[raw["name"]].Config.model_validate(raw))
    path = tmp_path / "generator.safetensors"
    sample.save_generator(path, gan, gan.build_networks(described).generator, described, "r", 1)
    (tmp_path / "in").mkdir()
    Image.new("RGBA", (SIDE, SIDE), (0, 0, 0, 0)).save(tmp_path / "in" / "clear.png")
    assert generate(path, tmp_path / "in", tmp_path / "out", "--direction", "BtoA") == 0
    seen = np.asarray(Image.new("RGB", (SIDE, SIDE), (200, 30, 30)).convert("L"))[..., None]
    np.testing.assert_array_equal(read(tmp_path / "out" / "clear.png"), translated(path, 0, seen, "BtoA"))
    assert generate(path, tmp_path / "in", tmp_path / "again", "--direction", "AtoB") == 2
    assert "knows one way, BtoA" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "more", "said"),
    [
        ("sides", [], "say which: AtoB or BtoA"),
        ("pairs", ["--direction", "BtoA"], "leave the direction out"),
        ("pairs", ["--n", "3"], "--n is for samples that are drawn"),
        ("pairs", ["--interpolate", "3"], "--interpolate is for samples"),
        ("pairs", ["--out", "x.jpg"], "written as .png"),
        ("pairs", ["--out", "x.csv"], "written as .png"),
        ("pairs", ["--columns", "3"], "--columns is for one picture"),
        ("pairs", ["--out", "x.png"], "images of one size, and these have 2"),
    ],
)
def test_what_the_command_refuses(
    name: str, more: list[str], said: str, weights: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = save(tmp_path / "in", {"a.png": image(0), "b.png": image(1, 20, 20)})
    assert generate(weights[name], folder, tmp_path / "out", *more) == 2
    err = capsys.readouterr().err
    assert said in err and "Traceback" not in err
    assert not (tmp_path / "out").exists() and not Path("x.png").exists()


def test_translations_never_take_the_place_of_their_sources(
    weights: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = save(tmp_path / "in", {"a.png": image(0)})
    for out in (folder, folder / "deeper"):
        assert generate(weights["pairs"], folder, out) == 2
        assert "in the folder that is translated" in capsys.readouterr().err
    assert [path.name for path in folder.rglob("*")] == ["a.png"]
    np.testing.assert_array_equal(read(folder / "a.png"), image(0))


def test_images_that_cannot_be_read_or_told_apart(
    weights: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = save(tmp_path / "in", {"a.png": image(0)})
    (folder / "b.png").write_bytes((folder / "a.png").read_bytes()[:60])
    assert generate(weights["pairs"], folder, tmp_path / "out") == 2
    assert "b.png" in capsys.readouterr().err and not (tmp_path / "out").exists()
    (folder / "b.png").unlink()
    save(folder, {"a.bmp": image(1)})
    assert generate(weights["pairs"], folder, tmp_path / "out") == 2
    assert "would be written as a.png" in capsys.readouterr().err and not (tmp_path / "out").exists()
    assert generate(weights["pairs"], tmp_path / "none", tmp_path / "out") == 2
    assert "none" in capsys.readouterr().err


def test_a_direction_needs_images_and_images_a_translator(
    weights: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["generate", str(weights["pairs"]), "--out", str(tmp_path / "out")]
    assert main([*command, "--direction", "AtoB"]) == 2
    assert "name a folder of them with --input" in capsys.readouterr().err
    assert main(command) == 2
    assert "name a folder of them with --input" in capsys.readouterr().err
