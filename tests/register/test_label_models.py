"""Models of classes: what is drawn by label is the same from the command line, the file and the served model."""

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

from ganpipe import sample
from ganpipe.cli import main
from ganpipe.gans.classic import Classic
from ganpipe.register import package
from ganpipe.spec import Column

SPEC = {
    "image": Column(kind="image", dtype="uint8", shape=(1, 8, 8), range=(0, 255), shards=()),
    "label": Column(kind="label", dtype="int64", shape=(), vocabulary=("cat", "dog", "1"), shards=()),
}
SERVE = """
import json, sys
sys.modules["ganpipe"] = None
import mlflow, numpy as np, pandas as pd
model = mlflow.pyfunc.load_model(sys.argv[1])
np.save(sys.argv[2], model.predict(pd.DataFrame(json.loads(sys.argv[3]))))
"""


def saved(folder: Path, conditioning: str = "projection") -> Path:
    config = {"network": {"name": "dcgan", "feature_dim": 4}, "latent_dim": 8, "conditioning": conditioning}
    gan = Classic(Classic.Config.model_validate(config))
    torch.manual_seed(0)
    module = gan.build_networks(SPEC).generator
    sample.refresh_batch_norm(gan, module)
    sample.save_generator(folder / "generator.safetensors", gan, module, SPEC, "r", 1)
    return folder / "generator.safetensors"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("labels"))


@pytest.fixture(scope="module")
def model(weights: Path) -> Path:
    from mlflow.models import Model

    package.save(weights.parent / "model", weights, Model(), {})
    return weights.parent / "model"


def drawn(weights: Path, seed: int, n: int, label: list[int] | None = None) -> np.ndarray:
    """uint8 (n, 8, 8)"""
    loaded = sample.load_generator(weights)
    return sample.draw_images(loaded.gan, loaded.module, seed, n, label=label)[:, 0].numpy()


def generate(weights: Path, out: Path, *more: str) -> int:
    return main(["generate", str(weights), "--seed", "3", "--out", str(out), *more])


def test_a_served_model_draws_the_class_that_each_row_asks_for(model: Path, weights: Path, tmp_path: Path) -> None:
    rows = {"seed": [3, 3, 5, 3], "index": [0, 1, 0, 0], "label": ["cat", "2", "1", "dog"]}
    command = [sys.executable, "-c", SERVE, str(model), str(tmp_path / "answer.npy"), json.dumps(rows)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run(command, check=True, cwd=tmp_path, env=environment, timeout=300)
    answer = np.load(tmp_path / "answer.npy")[..., 0]
    wanted = [drawn(weights, seed, index + 1, [number] * (index + 1))[index]
              for seed, index, number in ((3, 0, 0), (3, 1, 2), (5, 0, 2), (3, 0, 1))]  # fmt: skip
    np.testing.assert_array_equal(answer, wanted)
    assert (answer[0] != answer[3]).any(), "the class makes a difference"


def test_what_a_served_model_cannot_draw_is_told_with_the_classes(model: Path, weights: Path) -> None:
    import mlflow.pyfunc
    from mlflow.exceptions import MlflowException

    served: Any = mlflow.pyfunc.load_model(str(model))
    assert served.metadata.signature.inputs.input_names() == ["seed", "index", "label"]
    assert served.metadata.signature.inputs.required_input_names() == ["seed"]
    assert served.predict(served.input_example).shape == (3, 8, 8, 1)
    np.testing.assert_array_equal(served.predict(pd.DataFrame({"seed": [3] * 5}))[..., 0], drawn(weights, 3, 5))
    for label, sentence in (("owl", "the 3 classes are cat, dog, 1"), ("7", "no class '7'"), (None, "in each row")):
        with pytest.raises(MlflowException, match=sentence) as caught:
            served.predict(pd.DataFrame({"seed": [0, 0], "label": ["cat", label]}))
        assert caught.value.error_code == "INVALID_PARAMETER_VALUE"


def test_generate_draws_the_classes_asked_for(weights: Path, tmp_path: Path) -> None:
    """A class called 1 is meant by 1, not the second class."""
    assert generate(weights, tmp_path / "files", "--n", "5", "--label", "1", "--label", "cat") == 0
    names = ["class2", "class2", "class2", "class0", "class0"]
    files = sorted((tmp_path / "files").iterdir())
    assert [file.stem for file in files] == [f"seed3-{index:06d}-{name}" for index, name in enumerate(names)]
    wanted = drawn(weights, 3, 5, [2, 2, 2, 0, 0])
    np.testing.assert_array_equal([np.array(Image.open(file)) for file in files], wanted)

    rows = ["--label", "cat", "--label", "dog", "--label", "2"]
    assert generate(weights, tmp_path / "grid.png", "--n", "15", *rows) == 0
    assert Image.open(tmp_path / "grid.png").size == (5 * 64, 3 * 64), "a row for each class"

    assert generate(weights, tmp_path / "any", "--n", "30") == 0
    found = [np.array(Image.open(file)) for file in sorted((tmp_path / "any").iterdir())]
    np.testing.assert_array_equal(found, drawn(weights, 3, 30))
    of_each = [drawn(weights, 3, 30, [number] * 30) for number in range(3)]
    counts = [sum((found[row] == images[row]).all() for row in range(30)) for images in of_each]
    assert sum(counts) == 30 and min(counts) > 3, "without a label classes are drawn, each as likely as any other"


def test_labels_that_cannot_be_drawn_are_input_errors(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert generate(weights, tmp_path / "x.png", "--label", "owl") == 2
    assert "no class 'owl'; the 3 classes are cat, dog, 1" in capsys.readouterr().err
    assert generate(weights, tmp_path / "x.png", "--n", "1", "--label", "cat", "--label", "dog") == 2
    assert "--n 1: 2 labels" in capsys.readouterr().err
    plain = saved(tmp_path, "none")
    assert generate(plain, tmp_path / "x.png", "--label", "cat") == 2
    assert "trained without labels" in capsys.readouterr().err
    assert not (tmp_path / "x.png").exists()
