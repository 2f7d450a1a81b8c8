"""A model that needs no ganpipe: weights, and the few modules that sampling needs, under a name no other package has.

MLflow puts a model's code on sys.path, where any installed package of the same name wins; so the copy is called
`ganpipe_<digest of its sources>`. Imports inside ganpipe are relative, so the copy works under that name as it is.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..spec import image_shape, sampled

if TYPE_CHECKING:
    from mlflow.models import Model, ModelSignature

    from ..sample import LoadedGenerator

ROOT = Path(__file__).parent.parent
ENTRY = "sample.py"
SERVED = Path(__file__).parent / "pyfunc.py"
EXAMPLE: dict[str, list[Any]] = {"seed": [0, 0, 1], "index": [0, 1, 0]}


def closure(entry: Path = ROOT / ENTRY, root: Path = ROOT) -> list[Path]:
    """Files of the package at `root` that importing `entry` can reach through relative imports, sorted.

    Imports inside functions count too: they are what would fail late.
    """
    found: set[Path] = set()
    waiting = [entry]
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        found.add(path)
        waiting += [folder / "__init__.py" for folder in path.parents if folder.is_relative_to(root)]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level:
                waiting += _imported_files(path, node)
    return sorted(found)


def _imported_files(path: Path, node: ast.ImportFrom) -> list[Path]:
    """The files behind one relative import of `path`: the module itself, and those imported names that are modules."""
    folder = path.parent
    for _ in range(node.level - 1):
        folder = folder.parent
    base = folder.joinpath(*(node.module or "").split("."))
    candidates = [base, *(base / alias.name for alias in node.names)]
    return [file for name in candidates for file in (name.with_suffix(".py"), name / "__init__.py") if file.is_file()]


def package_name(files: list[Path], root: Path = ROOT) -> str:
    """`ganpipe_<12 hex digits of names and contents>`."""
    digest = hashlib.sha256()
    for path in files:
        source = path.read_bytes()
        digest.update(f"{path.relative_to(root).as_posix()} {len(source)}\n".encode() + source)
    return f"{root.name}_{digest.hexdigest()[:12]}"


def copy_code(folder: Path) -> Path:
    """Write the packed inference code under `folder`; returns the new package's folder."""
    files = closure()
    package = folder / package_name(files)
    for path in files:
        target = package / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    return package


def requirements(loaded: LoadedGenerator) -> list[str]:
    """`name==version`, as installed here, of all that the packed code, the served model and the generator import."""
    modules: set[str] = set()
    for path in [*closure(), SERVED]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                modules |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                modules.add(node.module.split(".")[0])
    owners = importlib.metadata.packages_distributions()
    names = {module if module in owners[module] else owners[module][0] for module in modules - sys.stdlib_module_names}
    names |= loaded.gan.requirements()
    # A local version (+cpu, +cu128) names a build that package indexes do not carry.
    return sorted(f"{name}=={importlib.metadata.version(name).partition('+')[0]}" for name in names)


def signature(loaded: LoadedGenerator) -> ModelSignature:
    """Columns `seed`, optional `index` and, of a generator of classes or of captions, optional `label` or `text` in;
    uint8 (rows, height, width, channels) or float32 (rows, 2) out."""
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema, TensorSpec

    if loaded.directions:
        return _of_images(loaded)
    if loaded.output == "point":
        made = TensorSpec(np.dtype(np.float32), (-1, *sampled(loaded.spec).shape))
    else:
        channels, height, width = image_shape(loaded.spec)
        made = TensorSpec(np.dtype(np.uint8), (-1, height, width, channels))
    columns: list[ColSpec | TensorSpec] = [ColSpec("long", "seed"), ColSpec("long", "index", required=False)]
    if loaded.classes:
        columns.append(ColSpec("string", "label", required=False))
    if loaded.takes_text:
        columns.append(ColSpec("string", "text", required=False))
    return ModelSignature(inputs=Schema(columns), outputs=Schema([made]))


def _of_images(loaded: LoadedGenerator) -> ModelSignature:
    """uint8 images (n, height, width, channels) of any size in and out; parameters `direction` and `seed`.

    Channels that hang on the direction are told by -1.
    """
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import ParamSchema, ParamSpec, Schema, TensorSpec

    def schema(channels: set[int]) -> Schema:
        return Schema([TensorSpec(np.dtype(np.uint8), (-1, -1, -1, channels.pop() if len(channels) == 1 else -1))])

    given = schema({loaded.source_channels(direction) for direction in loaded.directions})
    made = schema({sampled(loaded.spec, direction).shape[0] for direction in loaded.directions})
    params = ParamSchema([ParamSpec("direction", "string", loaded.directions[0]), ParamSpec("seed", "long", 0)])
    return ModelSignature(inputs=given, outputs=made, params=params)


def save(folder: Path, weights: Path, model: Model, metadata: dict[str, Any]) -> None:
    """Write the complete MLflow model of `weights` (a generator.safetensors) to `folder`, which must not exist yet."""
    import mlflow.pyfunc
    import numpy as np
    import pandas as pd

    from ..sample import load_generator

    loaded = load_generator(weights)
    asked = {}
    if loaded.classes:
        asked = {"label": [loaded.classes[0]] * len(EXAMPLE["seed"])}
    elif loaded.takes_text:
        asked = {"text": [(loaded.spec["caption"].examples or ("a text",))[0]] * len(EXAMPLE["seed"])}
    example: Any = pd.DataFrame({**EXAMPLE, **asked})
    if loaded.directions:
        _, height, width = sampled(loaded.spec).shape
        example = np.zeros((1, height, width, loaded.source_channels(loaded.directions[0])), np.uint8)

    with tempfile.TemporaryDirectory() as temporary:
        package = copy_code(Path(temporary))
        mlflow.pyfunc.save_model(
            folder,
            python_model=SERVED,
            code_paths=[str(package)],
            artifacts={"generator": weights.as_uri()},
            model_config={"package": package.name, "device": "cpu"},
            pip_requirements=requirements(loaded),
            signature=signature(loaded),
            input_example=example,
            mlflow_model=model,
            metadata=metadata,
        )
