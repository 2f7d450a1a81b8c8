"""Captions beside images in training: right ones say what is on the image, wrong ones contradict it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import tiny_raw

from ganpipe import prepare
from ganpipe.batches import Batches
from ganpipe.config import load_config
from ganpipe.errors import InputError
from ganpipe.gans.base import WRONG_CAPTION, Batch
from ganpipe.prepare.manifest import Dataset
from ganpipe.sample import to_uint8
from ganpipe.settings import Settings
from ganpipe.storage import Store

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
WEIGHTS = {"thin": 0, "light": 0, "fine": 0, "bold": 1, "heavy": 1, "thick": 1}
SIDES = {"left": 0, "right": 1}
COLUMNS = ("image", "label", "caption", WRONG_CAPTION)


def batches(dataset: Dataset, *columns: str) -> Batches:
    return Batches(dataset, columns or COLUMNS, "train", seed=3, device=torch.device("cpu"))


def texts(rows_NL: torch.Tensor) -> list[str]:
    return [bytes(row.tolist()).rstrip(b"\0").decode() for row in rows_NL]


def said(text: str) -> tuple[int, int | None, int | None]:
    """Digit, weight and slant by the words of the sentence alone."""
    words = text.lower().replace("-", " ").replace(",", " ").replace(".", " ").replace(":", " ").split()

    def one(numbers: dict[str, int]) -> int | None:
        (found,) = {numbers[word] for word in words if word in numbers} or {None}
        return found

    digit = one({word: number for number, word in enumerate(DIGITS)})
    assert digit is not None
    return digit, one(WEIGHTS), one(SIDES)


def pairs(dataset: Dataset, column: str, steps: int = 60) -> list[tuple[str, str]]:
    """(own caption, caption of the batch) of so many batches of 32."""
    own = dict(zip(map(bytes, dataset.column("image", "train")), dataset.texts("caption", "train"), strict=True))
    found = []
    for position in range(0, 32 * steps, 32):
        batch = batches(dataset).at(position, 32, slice(0, 32))
        mine = [own[bytes(image.numpy())] for image in to_uint8(batch["image"])]
        found += list(zip(mine, texts(batch[column]), strict=True))
    return found


def test_right_captions_say_the_same_in_many_ways(captioned_digits: Dataset) -> None:
    found = pairs(captioned_digits, "caption")
    assert all(said(ours) == said(theirs) for ours, theirs in found)
    assert np.mean([ours == theirs for ours, theirs in found]) < 0.2


def test_wrong_captions_contradict_half_of_them_in_one_attribute_alone(captioned_digits: Dataset) -> None:
    near = []
    for ours, theirs in pairs(captioned_digits, WRONG_CAPTION):
        before, after = said(ours), said(theirs)
        assert any(None not in pair and pair[0] != pair[1] for pair in zip(before, after, strict=True))
        near.append(sum(one != other for one, other in zip(before, after, strict=True)) == 1)
    assert 0.45 < np.mean(near) < 0.65  # some of the others do by chance


def test_wording_depends_on_neither_ranks_nor_resumes(captioned_digits: Dataset) -> None:
    whole = batches(captioned_digits).at(64, 16, slice(0, 16))
    parts = [batches(captioned_digits).at(64, 16, slice(start, start + 4)) for start in (0, 4, 8, 12)]
    for column in COLUMNS:
        assert torch.equal(torch.cat([part[column] for part in parts]), whole[column])
    later = batches(captioned_digits).at(64 + len(captioned_digits.column("image", "train")), 16, slice(0, 16))
    assert texts(later[WRONG_CAPTION]) != texts(whole[WRONG_CAPTION])


def folder_of(captions: list[str], tmp_path: Path, settings: Settings, store: Store) -> Dataset:
    (folder := tmp_path / "told").mkdir()
    lines = []
    for number in range(60):
        Image.fromarray(np.full((8, 8), 4 * number, np.uint8)).save(folder / f"{number}.png")
        lines.append({"file_name": f"{number}.png", "text": captions[number % len(captions)]})
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    raw = tiny_raw()
    source = {"name": "folder", "path": str(folder), "labels": "none", "caption_column": "text"}
    raw["prepare"] |= {"source": source, "extractor_fraction": 0}
    raw["evaluate"] = {"extractor": "inception", "allow_few": True}
    return Dataset.open(store, prepare.run(load_config(raw), settings).digest)


def test_users_images_keep_their_own_captions_and_others_are_wrong(
    tmp_path: Path, settings: Settings, store: Store
) -> None:
    """Case, composed accents, spaces and closing stops make no other text."""
    told = ["Кошка на окне", "кошка  на окне.", "un café", "un cafe\u0301", "犬", "犬が走る"]
    same = {"Кошка на окне": 0, "кошка  на окне.": 0, "un café": 1, "un cafe\u0301": 1, "犬": 2, "犬が走る": 3}
    dataset = folder_of(told, tmp_path, settings, store)
    subject, seen = batches(dataset, "image", "caption", WRONG_CAPTION), set()

    def brightness(batch: Batch) -> list[int]:
        return to_uint8(batch["image"])[:, 0, 0, 0].tolist()

    for position in range(0, 1600, 16):
        batch = subject.at(position, 16, slice(0, 16))
        right, wrong = texts(batch["caption"]), texts(batch[WRONG_CAPTION])
        assert right == [told[value // 4 % len(told)] for value in brightness(batch)]
        assert all(same[ours] != same[theirs] for ours, theirs in zip(right, wrong, strict=True))
        seen |= {(same[ours], same[theirs]) for ours, theirs in zip(right, wrong, strict=True)}
    assert len(seen) == 4 * 3, "any other text comes up"


def test_one_caption_for_all_leaves_none_that_is_wrong(tmp_path: Path, settings: Settings, store: Store) -> None:
    dataset = folder_of(["a face", "A face."], tmp_path, settings, store)
    with pytest.raises(InputError, match=r"gan\.wrong_text.*all captions say the same.*set gan\.wrong_text to 0"):
        batches(dataset, "image", "caption", WRONG_CAPTION)
    assert texts(batches(dataset, "image", "caption").at(0, 4, slice(0, 4))["caption"])
