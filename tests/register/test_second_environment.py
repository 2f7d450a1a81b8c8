"""A served version in an environment of its own: nothing but its requirements, and another ganpipe lying about."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from ganpipe import register, sample
from ganpipe.register import registry

if TYPE_CHECKING:
    from .conftest import Factory

PREDICT = """
import importlib.util, json, sys
import numpy as np
decoy, uri, model, answer = sys.argv[1:]
assert importlib.util.find_spec("ganpipe") is None, "the environment has a ganpipe of its own"
sys.path.insert(0, decoy)
import ganpipe, ganpipe.sample
assert ganpipe.__version__ == "99"

import mlflow, pandas as pd
mlflow.set_tracking_uri(uri)
loaded = mlflow.pyfunc.load_model(model)
rows = pd.DataFrame({"seed": [0] * 65 + [7]})
np.save(answer, loaded.predict(rows))
foreign = {"datasets", "prefect", "accelerate", "torch_fidelity"} & set(sys.modules)
print(json.dumps({"ganpipe": ganpipe.__version__, "foreign": sorted(foreign)}))
"""


def environment(folder: Path, requirements: Path) -> Path:
    """Python of a fresh virtual environment with `requirements` alone."""
    beside = Path(sys.executable).parent / "uv"
    uv = shutil.which("uv") or (str(beside) if beside.exists() else None)
    python = folder / "bin/python"
    if uv:
        commands = [[uv, "venv", "-q", "--python", sys.executable, str(folder)],
                    [uv, "pip", "install", "-q", "--python", str(python), "-r", str(requirements)]]  # fmt: skip
    else:
        commands = [[sys.executable, "-m", "venv", str(folder)],
                    [str(python), "-m", "pip", "install", "-q", "-r", str(requirements)]]  # fmt: skip
    as_make_install = os.environ | {"UV_SYSTEM_CERTS": "true"}
    for command in commands:
        subprocess.run(command, check=True, timeout=1200, env=as_make_install)
    return python


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_champion_draws_the_same_pictures_where_ganpipe_is_not_installed(
    factory: Factory, scores: Callable[..., Any], tmp_path: Path
) -> None:
    ref = factory.version()
    ask = scores({ref.checkpoint.run_id: [5.0] * 5})
    assert register.promote(factory.product, factory.settings, score=ask).promoted
    model = f"models:/{factory.product}@champion"
    loaded = sample.load_generator(register.resolve(model, factory.settings))
    expected = np.concatenate([
        sample.draw_images(loaded.gan, loaded.module, seed, n).permute(0, 2, 3, 1).numpy()
        for seed, n in ((0, 65), (7, 1))
    ])  # fmt: skip

    client = registry.client_of(factory.settings)
    source = client.get_model_version(factory.product, ref.version).source.removeprefix("models:/")
    location = Path(client.get_logged_model(source).artifact_location.removeprefix("file://"))
    python = environment(tmp_path / "venv", location / "requirements.txt")
    decoy = tmp_path / "decoy/ganpipe"
    decoy.mkdir(parents=True)
    (decoy / "__init__.py").write_text('__version__ = "99"\n')
    (decoy / "sample.py").write_text("def load_generator(*_):\n    raise AssertionError('the wrong ganpipe')\n")
    answer = tmp_path / "images.npy"
    done = subprocess.run(
        [python, "-c", PREDICT, str(decoy.parent), factory.settings.tracking_uri, model, str(answer)],
        check=True, cwd=tmp_path, stdout=subprocess.PIPE, text=True, timeout=300,
        env={name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")},
    )  # fmt: skip
    assert json.loads(done.stdout.splitlines()[-1]) == {"ganpipe": "99", "foreign": []}
    np.testing.assert_array_equal(np.load(answer), expected)
