"""Models of sentences: what is drawn by text is the same from the command line, the file and the served model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from tiny import SMALL_TEXT

from ganpipe import sample
from ganpipe.cli import main
from ganpipe.gans.text_to_image import TextToImage
from ganpipe.register import package
from ganpipe.spec import Column

EXAMPLES = ("a bold seven", "тонкая девятка", "太い七")
SPEC = {
    "image": Column(kind="image", dtype="uint8", shape=(1, 8, 8), range=(0, 255), shards=()),
    "caption": Column(kind="caption", dtype="uint8", shape=(40,), ragged=True, shards=(), examples=EXAMPLES),
}
SERVE = """
import json, sys
sys.modules["ganpipe"] = None
import mlflow, numpy as np, pandas as pd
model = mlflow.pyfunc.load_model(sys.argv[1])
np.save(sys.argv[2], model.predict(pd.DataFrame(json.loads(sys.argv[3]))))
"""


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    gan = TextToImage(TextToImage.Config.model_validate(SMALL_TEXT))
    torch.manual_seed(0)
    module = gan.build_networks(SPEC).generator
    sample.refresh_batch_norm(gan, module)
    path = tmp_path_factory.mktemp("texts") / "generator.safetensors"
    sample.save_generator(path, gan, module, SPEC, "r", 1)
    return path


@pytest.fixture(scope="module")
def model(weights: Path) -> Path:
    from mlflow.models import Model

    package.save(weights.parent / "model", weights, Model(), {})
    return weights.parent / "model"


def drawn(weights: Path, seed: int, n: int, texts: list[str] | None = None) -> np.ndarray:
    """uint8 (n, 8, 8)"""
    loaded = sample.load_generator(weights)
    return sample.draw_images(loaded.gan, loaded.module, seed, n, caption=texts)[:, 0].numpy()


def generate(weights: Path, out: Path, *more: str) -> int:
    return main(["generate", str(weights), "--seed", "3", "--out", str(out), *more])


def test_a_served_model_draws_the_text_of_each_row(model: Path, weights: Path, tmp_path: Path) -> None:
    rows = {"seed": [3, 3, 5, 3], "index": [0, 1, 0, 0], "text": ["a cat", "ein Hund", "子犬", "a dog"]}
    command = [sys.executable, "-c", SERVE, str(model), str(tmp_path / "answer.npy"), json.dumps(rows)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run(command, check=True, cwd=tmp_path, env=environment, timeout=300)
    answer = np.load(tmp_path / "answer.npy")[..., 0]
    wanted = [drawn(weights, seed, index + 1, [text] * (index + 1))[index]
              for seed, index, text in zip(*rows.values(), strict=True)]  # fmt: skip
    np.testing.assert_array_equal(answer, wanted)
    assert (answer[0] != answer[3]).any(), "the text makes a difference"


def test_what_a_served_model_cannot_draw_is_told(model: Path, weights: Path) -> None:
    import mlflow.pyfunc
    from mlflow.exceptions import MlflowException

    served: Any = mlflow.pyfunc.load_model(str(model))
    assert served.metadata.signature.inputs.input_names() == ["seed", "index", "text"]
    assert served.metadata.signature.inputs.required_input_names() == ["seed"]
    assert served.input_example["text"].tolist() == ["a bold seven"] * 3
    assert served.predict(served.input_example).shape == (3, 8, 8, 1)
    np.testing.assert_array_equal(served.predict(pd.DataFrame({"seed": [3] * 5}))[..., 0], drawn(weights, 3, 5))
    for text, sentence in (("é" * 33, "66 bytes of UTF-8"), (" ", "text is empty"), (None, "one text in each row")):
        with pytest.raises(MlflowException, match=sentence) as caught:
            served.predict(pd.DataFrame({"seed": [0, 0], "text": ["a cat", text]}))
        assert caught.value.error_code == "INVALID_PARAMETER_VALUE"


def test_generate_draws_the_texts_asked_for(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert generate(weights, tmp_path / "files", "--n", "5", "--text", "a cat", "--text", "犬", "--json") == 0
    assert json.loads(capsys.readouterr().out)["text"] == ["a cat", "犬"]
    files = sorted((tmp_path / "files").iterdir())
    numbers = ["text0", "text0", "text0", "text1", "text1"]
    assert [file.stem for file in files] == [f"seed3-{index:06d}-{name}" for index, name in enumerate(numbers)]
    wanted = drawn(weights, 3, 5, ["a cat"] * 3 + ["犬"] * 2)
    np.testing.assert_array_equal([np.array(Image.open(file)) for file in files], wanted)

    assert generate(weights, tmp_path / "grid.png", "--n", "15", *(["--text", "a"] * 3)) == 0
    assert Image.open(tmp_path / "grid.png").size == (5 * 64, 3 * 64), "a row for each text"

    assert generate(weights, tmp_path / "any", "--n", "30") == 0
    found = [np.array(Image.open(file)) for file in sorted((tmp_path / "any").iterdir())]
    np.testing.assert_array_equal(found, drawn(weights, 3, 30))
    of_each = [drawn(weights, 3, 30, [text] * 30) for text in EXAMPLES]
    counts = [sum((found[row] == images[row]).all() for row in range(30)) for images in of_each]
    assert sum(counts) == 30 and min(counts) > 3, "without a text it draws its examples, each as likely as any other"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--text", ""], "the text is empty"),
        (["--text", "я" * 33], r"66 bytes of UTF-8, and this generator reads 64 (gan.max_bytes)"),
        (["--text", "a", "--text", "b", "--n", "1"], "--n 1: 2 texts"),
        (["--label", "7"], "label '7': this generator was trained without labels; ask it for a text"),
    ],
)
def test_texts_that_cannot_be_drawn_are_input_errors(
    arguments: list[str], message: str, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert generate(weights, tmp_path / "x.png", *arguments) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "x.png").exists()
