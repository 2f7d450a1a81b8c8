"""What travels with a model, and what it draws."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from ganpipe import sample
from ganpipe.register import package


def test_the_closure_is_all_that_sampling_needs_and_no_more(tmp_path: Path) -> None:
    folder = package.copy_code(tmp_path)
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*.py")}
    assert {"__init__.py", "sample.py", "rng.py", "gans/__init__.py", "gans/classic.py", "networks/dcgan.py"} <= names
    assert not {
        name for name in names if name.split("/")[0] in ("config.py", "storage.py", "train", "evaluate", "register")
    }
    code = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
sys.modules["ganpipe"] = None
import {folder.name}.sample
heavy = {{"datasets", "prefect", "accelerate", "torch_fidelity", "ruamel", "mlflow"}} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-I", "-c", code], check=True, timeout=120)


def test_the_package_is_named_by_its_sources(tmp_path: Path) -> None:
    root = tmp_path / "ganpipe"
    (root / "networks").mkdir(parents=True)
    (root / "__init__.py").write_text("")
    (root / "networks/__init__.py").write_text("from ..errors import wrong\n")
    (root / "networks/mlp.py").write_text("def f():\n    from .. import late\n")
    (root / "errors.py").write_text("wrong = 1\n")
    (root / "late.py").write_text("")
    (root / "unused.py").write_text("")
    (root / "sample.py").write_text("from .networks import mlp\nimport json\n")
    files = package.closure(root / "sample.py", root)
    assert [path.relative_to(root).as_posix() for path in files] == [
        "__init__.py", "errors.py", "late.py", "networks/__init__.py", "networks/mlp.py", "sample.py",
    ]  # fmt: skip
    before = package.package_name(files, root)
    (root / "errors.py").write_text("wrong = 2\n")
    assert before.startswith("ganpipe_") and package.package_name(files, root) != before


def test_requirements_are_pinned_and_few(served: tuple[Any, Path]) -> None:
    lines = package.requirements(sample.load_generator(served[1]))
    assert {line.partition("==")[0] for line in lines} == {
        "mlflow", "numpy", "pandas", "pydantic", "safetensors", "torch",
    }  # fmt: skip
    assert all("==" in line and "+" not in line for line in lines)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A loaded pyfunc, and its weights."""
    import mlflow.pyfunc
    import torch
    from mlflow.models import Model

    from ganpipe.gans import GANS
    from ganpipe.spec import Column

    folder = tmp_path_factory.mktemp("served")
    spec = {"image": Column(kind="image", dtype="uint8", shape=(3, 8, 8), range=(0, 255), shards=())}
    recipe = GANS["classic"]
    gan = recipe(recipe.Config.model_validate({"network": {"name": "dcgan", "feature_dim": 4}, "latent_dim": 8}))
    torch.manual_seed(0)
    module = gan.build_networks(spec).generator
    sample.refresh_batch_norm(gan, module)
    sample.save_generator(folder / "generator.safetensors", gan, module, spec, "r", 1)
    package.save(folder / "model", folder / "generator.safetensors", Model(), {})
    return mlflow.pyfunc.load_model(str(folder / "model")), folder / "generator.safetensors"


def expected(weights: Path, seed: int, n: int) -> np.ndarray:
    loaded = sample.load_generator(weights)
    return sample.draw_images(loaded.gan, loaded.module, seed, n).permute(0, 2, 3, 1).numpy()


def test_rows_of_a_seed_are_its_first_pictures(served: tuple[Any, Path]) -> None:
    model, weights = served
    images = model.predict(pd.DataFrame({"seed": [3] * 70}))
    assert images.dtype == np.uint8 and images.shape == (70, 8, 8, 3)
    assert len(np.unique(images, axis=0)) == 70
    np.testing.assert_array_equal(images, expected(weights, 3, 70))


def test_seeds_and_indices_may_come_in_any_order(served: tuple[Any, Path]) -> None:
    model, weights = served
    rows = [(5, 66), (0, 1), (5, 0), (0, 1), (7, 2), (5, 65)]
    images = model.predict(pd.DataFrame(rows, columns=["seed", "index"]))
    for image, (seed, index) in zip(images, rows, strict=True):
        np.testing.assert_array_equal(image, expected(weights, seed, index + 1)[index])
    mixed = model.predict(pd.DataFrame({"seed": [0, 5, 0]}))
    np.testing.assert_array_equal(mixed[[0, 2]], expected(weights, 0, 2))


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ({"seed": [-1]}, "holds -1"),
        ({"seed": [0], "index": [-2]}, "holds -2"),
        ({"index": [0]}, "seed"),
        ({"seed": [1.5]}, "seed"),
        ({"seed": ["a"]}, "seed"),
        ({"seed": [0] * 10_001}, "10000 is the most"),
    ],
)
def test_bad_rows_are_refused_with_a_sentence(
    served: tuple[Any, Path], rows: dict[str, list[Any]], sentence: str
) -> None:
    from mlflow.exceptions import MlflowException

    with pytest.raises(MlflowException, match=sentence) as caught:
        served[0].predict(pd.DataFrame(rows))
    assert caught.value.error_code == "INVALID_PARAMETER_VALUE"


def test_the_model_shows_what_it_takes(served: tuple[Any, Path]) -> None:
    metadata = served[0].metadata
    assert metadata.signature.inputs.input_names() == ["seed", "index"]
    assert metadata.signature.outputs.inputs[0].shape == (-1, 8, 8, 3)
    assert served[0].predict(served[0].input_example).shape == (3, 8, 8, 3)
