"""Walks through the latents: where they pass, what stays on them, and the moving pictures that are made of them."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny import SMALL_STYLEGAN2
from torch import Tensor, nn

from ganpipe import generated, sample
from ganpipe.cli import main
from ganpipe.gans import GANS
from ganpipe.gans.base import GAN, Request
from ganpipe.gans.classic import Classic, ClassicConfig
from ganpipe.networks.stylegan2 import Generator
from ganpipe.rng import SampleRng
from ganpipe.spec import Column, DataSpec

CPU = torch.device("cpu")
CLASSIC: dict[str, Any] = {"name": "classic", "network": {"name": "dcgan", "feature_dim": 4}, "latent_dim": 8}
RECIPES = {"classic": CLASSIC, "stylegan2": SMALL_STYLEGAN2}
TEXT: dict[str, Any] = {"name": "text_to_image", "feature_dim": 4, "latent_dim": 8, "max_bytes": 40}


def spec_of(channels: int) -> DataSpec:
    return {
        "image": Column(kind="image", dtype="uint8", shape=(channels, 8, 8), range=(0, 255), shards=()),
        "label": Column(kind="label", dtype="int64", shape=(), vocabulary=("cat", "dog"), shards=()),
        "caption": Column(kind="caption", dtype="uint8", shape=(9,), ragged=True, examples=("a bold 7",), shards=()),
    }


def made(section: dict[str, Any], channels: int = 1, **gan: Any) -> tuple[GAN, nn.Module]:
    """A recipe and a generator of random weights, none of which is zero."""
    recipe = GANS[section["name"]](GANS[section["name"]].Config.model_validate({**section, **gan}))
    torch.manual_seed(0)
    module = recipe.build_networks(spec_of(channels)).generator
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    sample.refresh_batch_norm(recipe, module)
    return recipe, module


def walked(gan: GAN, module: nn.Module, walks: int, stops: int = 3, steps: int = 4, **options: Any) -> Tensor:
    """(frames, walks, C, H, W)"""
    return torch.stack(list(sample.draw_walks(gan, module, 7, walks, stops, steps, **options)))


# --- through the latents -----------------------------------------------------------------------------------------


class Echo(nn.Module):
    """Draws its own latents."""

    def forward(self, latents_NZ: Tensor) -> Tensor:
        return latents_NZ


def between(way: Sequence[float], truncation: float = 1.0) -> tuple[Tensor, Tensor]:
    """Latents on the way from sample 0 to sample 1, and those of the two, whose pieces are others."""
    recipe, n = Classic(ClassicConfig(latent_dim=4000, latent_components=3)), len(way)
    home, there = SampleRng(7, [0] * n, CPU), SampleRng(7, [1] * n, CPU)
    request = Request(home, n, truncation=truncation)
    return recipe.between(Echo(), request, (home, there), torch.tensor(way)), recipe.sample(
        Echo(), Request(SampleRng(7, [0, 1], CPU), 2)
    )


def test_every_step_between_two_latents_is_a_draw_of_the_prior() -> None:
    steps, ends = between([0, 1 / 3, 2 / 3, 1])
    assert torch.equal(steps[0], ends[0]) and torch.allclose(steps[3, :4000], ends[1, :4000], atol=1e-6)
    assert steps[:, :4000].std(1).tolist() == pytest.approx([1] * 4, abs=0.04)
    assert torch.equal(steps[:, 4000:], ends[:1, 4000:].expand(4, -1)), "the piece stays the first one's"
    assert torch.equal(between([0.5], truncation=0.5)[0][:, :4000], between([0.5])[0][:, :4000] / 2)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_walk_begins_at_its_sample_and_comes_back(recipe: str) -> None:
    gan, module = made(RECIPES[recipe])
    frames = walked(gan, module, 2, steps=8)
    assert frames.shape == (24, 2, 1, 8, 8)
    wanted = torch.cat(list(sample.draw(gan, module, 7, [0, 3])))
    torch.testing.assert_close(frames[0], wanted, rtol=0, atol=1e-5)
    jumps = (frames - frames.roll(1, 0)).abs().mean((1, 2, 3, 4))
    assert jumps[0] < 3 * jumps[1:].mean(), "from the last frame to the first it is one step like any other"
    assert (frames[8] - frames[0]).abs().mean() > 2 * jumps.mean()


def test_without_noise_and_pieces_a_walk_passes_by_the_next_samples() -> None:
    gan, module = made(CLASSIC)
    frames = walked(gan, module, 2)
    wanted = torch.cat(list(sample.draw(gan, module, 7, range(6)))).unflatten(0, (2, 3))
    torch.testing.assert_close(frames[::4].transpose(0, 1), wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_walk_is_the_same_whatever_is_drawn_with_it(recipe: str) -> None:
    gan, module = made(RECIPES[recipe], latent_components=2, conditioning="projection")
    many = walked(gan, module, 9, label=[0, 1, 1, 0, 1, 0, 0, 1, 1], truncation=0.7)
    assert torch.equal(walked(gan, module, 1, label=[0], truncation=0.7)[:, 0], many[:, 0])
    assert torch.equal(walked(gan, module, 9, label=[0] * 9, truncation=0.7)[:, 3], many[:, 3])
    assert not torch.isclose(walked(gan, module, 9, label=[0] * 9, truncation=0.7)[:, 1], many[:, 1]).all()


def test_a_walk_keeps_its_text() -> None:
    gan, module = made(TEXT)
    told = walked(gan, module, 2, caption=["a cat", "два кота"])
    wanted = torch.cat(list(sample.draw(gan, module, 7, range(6), caption=["a cat"] * 3 + ["два кота"] * 3)))
    torch.testing.assert_close(told[::4].transpose(0, 1).flatten(0, 1), wanted, rtol=0, atol=1e-5)
    assert not torch.isclose(told[:, :1], walked(gan, module, 1, caption=["a dog"])).all()


def test_stylegan2_goes_straight_between_styles_in_the_same_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    gan, module = made(SMALL_STYLEGAN2)
    assert isinstance(module, Generator)
    styles, noises = [], []
    synthesis = module.synthesis

    def watched(styles_NLV: Tensor, noise_NF: Tensor) -> Tensor:
        styles.append(styles_NLV[:12, 0])
        noises.append(noise_NF[:12])
        return synthesis(styles_NLV, noise_NF)

    monkeypatch.setattr(module, "synthesis", watched)
    walked(gan, module, 1)
    stops = module.mapping(SampleRng(7, range(3), CPU).normal("latents", 3, (8,)), None)
    for leg in range(3):
        for step in range(4):
            wanted = torch.lerp(stops[leg], stops[(leg + 1) % 3], step / 4)
            torch.testing.assert_close(styles[0][4 * leg + step], wanted)
    assert torch.equal(noises[0], noises[0][:1].expand_as(noises[0]))


def test_truncated_to_nothing_a_walk_stands_still() -> None:
    for section in RECIPES.values():
        frames = walked(*made(section), 1, truncation=0.0)
        torch.testing.assert_close(frames, frames[:1].expand_as(frames))


# --- ganpipe generate --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def grey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("grey"), 1)


@pytest.fixture(scope="module")
def coloured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("coloured"), 3, conditioning="projection")


def saved(folder: Path, channels: int, **gan: Any) -> Path:
    recipe, module = made(CLASSIC, channels, **gan)
    sample.save_generator(folder / "generator.safetensors", recipe, module, spec_of(channels), "r", 1)
    return folder / "generator.safetensors"


def generate(weights: Path, out: Path, *more: str) -> int:
    return main(["generate", str(weights), "--seed", "7", "--out", str(out), *more])


def frames_of(path: Path) -> list[Image.Image]:
    return [frame.copy() for frame in ImageSequence.Iterator(Image.open(path))]


def test_a_gif_is_the_walk_and_begins_again(grey: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert generate(grey, tmp_path / "deep" / "x.gif", "--interpolate", "2", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["n"], said["interpolate"], said["frames"], said["seed"]) == (1, 2, 48, 7)
    picture = Image.open(tmp_path / "deep" / "x.gif")
    assert picture.info["loop"] == 0 and picture.info["duration"] == 40
    loaded = sample.load_generator(grey)
    walk = walked(loaded.gan, loaded.module, 1, 2, generated.STEPS)
    wanted = sample.to_uint8(walk)[:, 0, 0].repeat_interleave(16, 1).repeat_interleave(16, 2).numpy()
    found = [np.array(frame.convert("L")) for frame in frames_of(tmp_path / "deep" / "x.gif")]
    np.testing.assert_array_equal(found, wanted)
    again = (tmp_path / "deep" / "x.gif").read_bytes()
    assert generate(grey, tmp_path / "again.gif", "--interpolate", "2") == 0
    assert (tmp_path / "again.gif").read_bytes() == again


def test_a_grid_moves_with_a_row_for_each_class(coloured: Path, tmp_path: Path) -> None:
    asked = ["--n", "4", "--label", "dog", "--label", "cat", "--truncation", "0.5", "--interpolate", "2"]
    assert generate(coloured, tmp_path / "x.webp", *asked) == 0
    loaded = sample.load_generator(coloured)
    options = {"label": [1, 1, 0, 0], "truncation": 0.5}
    walk = sample.to_uint8(walked(loaded.gan, loaded.module, 4, 2, generated.STEPS, **options)).numpy()
    found = frames_of(tmp_path / "x.webp")
    assert len(found) == 48 and found[0].size == (128, 128)
    for frame, images in zip(found, walk, strict=True):
        cells = np.array(frame.convert("RGB")).reshape(2, 8, 8, 2, 8, 8, 3)[:, :, 0, :, :, 0]
        np.testing.assert_array_equal(cells.transpose(0, 2, 4, 1, 3).reshape(4, 3, 8, 8), images)


def test_an_mp4_is_the_walk(coloured: Path, tmp_path: Path) -> None:
    import av

    assert generate(coloured, tmp_path / "x.mp4", "--interpolate", "2", "--label", "cat") == 0
    with av.open(tmp_path / "x.mp4") as container:
        assert container.streams.video[0].average_rate == 25
        found = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    loaded = sample.load_generator(coloured)
    walk = sample.to_uint8(walked(loaded.gan, loaded.module, 1, 2, generated.STEPS, label=[0]))[:, 0]
    assert len(found) == 48 and found[0].shape == (128, 128, 3)
    means = np.array(found).reshape(48, 8, 16, 8, 16, 3).mean((2, 4)).transpose(0, 3, 1, 2)
    assert np.abs(means.mean((2, 3)) - walk.float().mean((2, 3)).numpy()).mean() < 4, "but for what H.264 loses"


def test_without_its_library_an_mp4_is_refused(
    grey: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)  # as find_spec sees what is not there
    assert generate(grey, tmp_path / "x.mp4", "--interpolate", "2") == 2
    assert "pip install av" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_a_truncation_is_that_of_the_samples(grey: Path, tmp_path: Path) -> None:
    assert generate(grey, tmp_path / "files", "--n", "3", "--truncation", "0.25") == 0
    loaded = sample.load_generator(grey)
    wanted = sample.draw_images(loaded.gan, loaded.module, 7, 3, truncation=0.25)[:, 0].numpy()
    found = [np.array(Image.open(file)) for file in sorted((tmp_path / "files").iterdir())]
    np.testing.assert_array_equal(found, wanted)
    assert (wanted != sample.draw_images(loaded.gan, loaded.module, 7, 3)[:, 0].numpy()).any()


def test_no_picture_has_more_columns_than_samples(grey: Path, tmp_path: Path) -> None:
    assert generate(grey, tmp_path / "x.png", "--n", "3", "--columns", "1000000000000") == 0
    assert Image.open(tmp_path / "x.png").size == (3 * 64, 64)


def test_a_generator_that_this_version_cannot_build_is_named(
    grey: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a later ganpipe, with a field more; or with other tensors than its recipe has."""
    with safe_open(grey, "pt") as file:
        metadata = json.loads(file.metadata()["ganpipe"])
    tensors = load_file(grey)
    biases = {name: tensor for name, tensor in tensors.items() if not name.endswith("weight")}
    later = {**metadata, "gan": {**metadata["gan"], "novelty": 3}}
    for name, header, kept in (("later", later, tensors), ("other", metadata, biases)):
        save_file(kept, tmp_path / f"{name}.safetensors", {"ganpipe": json.dumps(header)})
        assert generate(tmp_path / f"{name}.safetensors", tmp_path / "x.png") == 2
        err = capsys.readouterr().err
        assert f"{name}.safetensors holds no generator that this version can build" in err and "Traceback" not in err


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (["--out", "x.png", "--interpolate", "4"], "--out x.png: an interpolation is written as .gif, .webp, .mp4"),
        (["--out", "folder", "--interpolate", "4"], "--out folder: an interpolation is written as"),
        (["--out", "x.gif"], "takes --interpolate"),
        (["--out", "x.gif", "--interpolate", "1"], "--interpolate: at least 2"),
        (["--out", "x.gif", "--interpolate", "4", "--label", "cat"], "label 'cat'"),
        (["--out", "x.png", "--truncation", "-0.1"], "--truncation: a number from 0 to 100"),
        (["--out", "x.png", "--truncation", "much"], "--truncation: a number from 0 to 100"),
        (["--out", "x.png", "--truncation", "1e39"], "--truncation: a number from 0 to 100"),
        (
            ["--out", "x.webp", "--interpolate", "2", "--n", "256", "--columns", "256"],
            "than the 16,383 that a .webp",
        ),
        (
            ["--out", "x.mp4", "--interpolate", "2", "--n", "257", "--columns", "257"],
            "than the 16,384 that a .mp4",
        ),
        (
            ["--out", "x.gif", "--interpolate", "2", "--n", "1100", "--columns", "1"],
            "than the 65,535 that a .gif",
        ),
        (["--out", "x.png", "--truncation", "nan"], "--truncation: a number from 0 to 100"),
    ],
)
def test_what_cannot_be_drawn_is_refused(
    asked: list[str], message: str, grey: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert main(["generate", str(grey), *asked]) == 2
    assert message in capsys.readouterr().err and not list(tmp_path.glob("*.*"))
