"""Training with captions: samples show what the text says, and what cannot be is refused before any training."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from recipes import recipe
from tiny import SMALL_TEXT, points_raw, tiny_raw

from ganpipe import prepare, sample
from ganpipe.cli import main
from ganpipe.config import RunConfig, load_config
from ganpipe.errors import InputError
from ganpipe.launch import StopSignal
from ganpipe.prepare.manifest import Dataset
from ganpipe.seeds import derive_seed
from ganpipe.settings import Settings
from ganpipe.storage import Store, open_store
from ganpipe.train.trainer import Trainer

TOLD = {
    "an image in the dark": 40,
    "so dark": 40,
    "темно": 40,
    "a light one": 215,
    "very light": 215,
    "светло": 215,
}


def pictures(folder: Path, captions: dict[str, int] | None = None, **wrong: Any) -> Path:
    """240 noisy grey images, and what each is called; `wrong` replaces the caption of the eighth."""
    rng, lines = np.random.default_rng(0), []
    told = list((captions or TOLD).items())
    folder.mkdir(parents=True)
    for number in range(240):
        text, shade = told[number % len(told)]
        Image.fromarray(rng.normal(shade, 12, (8, 8)).clip(0, 255).astype(np.uint8)).save(folder / f"{number:03d}.png")
        lines.append({"file_name": f"{number:03d}.png", "text": text} | (wrong if number == 7 else {}))
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


def raw_of(folder: Path, gan: dict[str, Any] | None = None, **train: Any) -> dict[str, Any]:
    source = {"name": "folder", "path": str(folder), "labels": "none", "caption_column": "text"}
    raw = tiny_raw(**train)
    raw["prepare"] |= {"source": source, "extractor_fraction": 0.3}
    return {**raw, "gan": {**SMALL_TEXT, **(gan or {})}}


def data_of(config: RunConfig, settings: Settings) -> Dataset:
    return Dataset.open(open_store(settings.store), prepare.run(config, settings).digest)


def test_samples_are_what_the_text_says(settings: Settings, store: Store, tmp_path: Path) -> None:
    """In every script and wording."""
    fast = {"name": "adam", "lr": 2e-3, "beta1": 0, "beta2": 0.9}
    config = load_config(raw_of(
        pictures(tmp_path / "pictures"), {"r1": 1}, batch=32, ema_half_life_kimg=1,
        optimizers={"generator": fast, "discriminator": fast},
        stop={"kimg": 6}, snapshot_kimg=6, log_every_kimg=6,
    ))  # fmt: skip
    ref = Trainer(config, data_of(config, settings), "run", store, tmp_path).fit(StopSignal())
    loaded = sample.load_generator(store.fetch(ref.prefix)["generator.safetensors"])
    for text, shade in TOLD.items():
        means = sample.draw_images(loaded.gan, loaded.module, 0, 64, caption=[text] * 64).float().mean((1, 2, 3))
        assert ((means < 128) == (shade < 128)).float().mean() > 0.9, text
    both = sample.draw_images(loaded.gan, loaded.module, 0, 200).float().mean((1, 2, 3))
    assert 0.3 < (both < 128).float().mean() < 0.7, "unless asked for, captions that it was trained on"


def test_a_snapshots_picture_has_captions_beside_its_rows(
    captioned_digits: Dataset, store: Store, tmp_path: Path
) -> None:
    """Eight images of the same latents in each."""
    ref = Trainer(recipe("text"), captioned_digits, "run", store, tmp_path).fit(StopSignal())
    picture = Image.open(io.BytesIO(store.read_bytes(f"runs/run/samples/{ref.prefix.rpartition('/')[2]}.png")))
    assert picture.height == 10 * 64 and 8 * 64 + 100 < picture.width < 8 * 64 + 400
    pixels = np.array(picture.convert("L"))
    sheet = pixels[:, : 8 * 64][::8, ::8].reshape(10, 8, 8, 8).swapaxes(1, 2)
    loaded = sample.load_generator(store.fetch(ref.prefix)["generator.safetensors"])
    texts = list(dict.fromkeys(captioned_digits.texts("caption", "test")))
    for number in (0, 9):
        row = sample.draw_images(loaded.gan, loaded.module, derive_seed("grid"), 8, caption=[texts[number]] * 8)
        assert (sheet[number] == row[:, 0].numpy()).all()
        assert (pixels[64 * number : 64 * (number + 1), 8 * 64 :] < 128).any(), "something is written there"


def test_a_text_costs_without_wrong_ones_no_column_more(
    captioned_digits: Dataset, store: Store, tmp_path: Path
) -> None:
    aware, unaware = (
        Trainer(recipe(name), captioned_digits, "run", store, tmp_path) for name in ("text", "text-unaware")
    )
    rows = slice(0, 16)
    assert set(aware.batches.at(0, 16, rows)) - set(unaware.batches.at(0, 16, rows)) == {"wrong_caption"}
    assert torch.equal(aware.batches.at(0, 16, rows)["caption"], unaware.batches.at(0, 16, rows)["caption"])


# --- what cannot be ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prepare": {"source": {"name": "digits"}, "resolution": 8}}, r"gan\.name text_to_image needs captions"),
        ({"prepare": points_raw()["prepare"]}, r"gan\.name text_to_image makes images, and the data holds points"),
        ({"gan": {**SMALL_TEXT, "conditioning": "projection"}}, r"gan\.conditioning: Extra inputs"),
        ({"gan": {**SMALL_TEXT, "encoder": {"name": "words"}}}, r"gan\.encoder"),
        ({"gan": {**SMALL_TEXT, "penalty_every": 4}}, r"gan\.penalty_every is for gan\.r1"),
        ({"gan": {**SMALL_TEXT, "wrong_text": 2}}, r"gan\.wrong_text"),
        (
            {"register": {"model": "x", "require": {"label_accuracy_domain": {"at_least": 0.9}}}},
            r"register\.require\.label_accuracy_domain is for generators of classes",
        ),
        (
            {"register": {"model": "x", "require": {"text_all_domain": {"at_least": 0.9}}}},
            r"register\.require\.text_all_domain is for generators of captions.*captioned_digits",
        ),
    ],
)  # fmt: skip
def test_configurations_that_cannot_be_are_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        load_config(raw_of(tmp_path) | change)


def ending_of(raw: dict[str, Any], tmp_path: Path) -> int:
    path = tmp_path / "run.json"
    path.write_text(json.dumps(raw))
    return main(["train", str(path)])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"text": None}, "`text`: 1 of 240 rows are without a caption, the first is {folder}/007.png"),
        ({"text": " "}, "`text`: 1 of 240 rows are without a caption, the first is {folder}/007.png"),
        ({"text": 7}, "prepare.source.caption_column `text`: {folder}/007.png holds 7, not a text"),
        ({"text": "долго " * 12}, "gan.max_bytes is 64, and the longest caption of the data has 132 bytes of UTF-8"),
    ],
)
def test_captions_that_cannot_be_are_refused_before_training(
    wrong: dict[str, Any], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], store: Store
) -> None:
    folder = pictures(tmp_path / "pictures", **wrong)
    assert ending_of(raw_of(folder), tmp_path) == 2
    assert message.format(folder=folder) in capsys.readouterr().err
    assert not any("checkpoints" in entry.key for entry in store.list("runs"))


def test_captions_that_all_say_the_same_have_no_wrong_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = pictures(tmp_path / "pictures", {"a face": 100, "A face.": 120})
    assert ending_of(raw_of(folder), tmp_path) == 2
    assert "set gan.wrong_text to 0" in capsys.readouterr().err


def test_a_checkpoint_of_another_recipe_is_no_start(captioned_digits: Dataset, store: Store, tmp_path: Path) -> None:
    ref = Trainer(recipe("r1"), captioned_digits, "classic", store, tmp_path).fit(StopSignal())
    subject = Trainer(recipe("text"), captioned_digits, "run", store, tmp_path / "work")
    with pytest.raises(InputError, match=rf"{ref.prefix} holds another generator than the gan section describes"):
        subject.warm_start(ref)
