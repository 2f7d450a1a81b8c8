"""The served model. This file is stored with every version and runs there, where ganpipe need not be installed.

It stands alone: the inference code that it samples with is a packed copy under a name of its own (see `package.py`).
Rows are `seed` and optionally `index`, and `label` (a class by name or number) where the generator knows classes, or
`text` where it was trained on captions; the answer is uint8 (rows, height, width, channels), or float32 (rows, 2) for
points, row by row the very samples that `ganpipe generate --seed` draws. Of a generator that translates, the input is
images instead, uint8 (n, height, width, channels) of any size, with the parameters `direction` and `seed`; the answer
is theirs, of the same size, as `ganpipe generate --input` writes them.
"""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc import PythonModel, PythonModelContext

MAX_ROWS = 10_000


def _refuse(sentence: str) -> MlflowException:
    return MlflowException(sentence, error_code=INVALID_PARAMETER_VALUE)


def _whole_numbers(rows: pd.DataFrame, column: str) -> list[int]:
    """The column as integers >= 0."""
    values = rows[column]
    if not pd.api.types.is_integer_dtype(values) or values.isna().any():
        raise _refuse(f"column {column!r} holds whole numbers, one in each row; its type here is {values.dtype}")
    if (values < 0).any():
        raise _refuse(f"column {column!r} holds {values.min()}; the smallest {column} is 0")
    return [int(value) for value in values]


def rows_to_pictures(rows: pd.DataFrame) -> list[tuple[int, int]]:
    """(seed, index) of each row. Without an `index` column, rows of the same seed are numbered 0, 1, 2, ...

    Raises MlflowException(INVALID_PARAMETER_VALUE) with a sentence that says what is wrong.
    """
    if not isinstance(rows, pd.DataFrame) or "seed" not in rows.columns:
        raise _refuse("the input is a table with a column 'seed' and, if wanted, a column 'index'")
    if len(rows) > MAX_ROWS:
        raise _refuse(f"{len(rows)} rows asked for, {MAX_ROWS} is the most in one call; ask in several, with 'index'")
    seeds = _whole_numbers(rows, "seed")
    if "index" in rows.columns:
        return list(zip(seeds, _whole_numbers(rows, "index"), strict=True))
    drawn: Counter[int] = Counter()
    pictures = []
    for seed in seeds:
        pictures.append((seed, drawn[seed]))
        drawn[seed] += 1
    return pictures


class GeneratorModel(PythonModel):
    """Draws samples from a generator; `model_config` names the packed code and the device ("cpu" unless overridden)."""

    def load_context(self, context: PythonModelContext) -> None:
        self.sample: Any = importlib.import_module(f"{context.model_config['package']}.sample")
        self.device = context.model_config.get("device", "cpu")
        self.loaded = self.sample.load_generator(context.artifacts["generator"], self.device)

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> np.ndarray:
        """uint8 (rows, height, width, channels), or float32 (rows, 2), for a DataFrame of rows; for images as many.

        (MLflow has no type hint for a DataFrame or an array.)
        """
        if self.loaded.directions:
            return self._translated(model_input, params or {})
        pictures = rows_to_pictures(model_input)
        labels = self._asked(model_input, "label", "class", self.loaded.class_numbers)
        texts = self._asked(model_input, "text", "text", self.loaded.texts)
        answer = self.loaded.room_for(len(pictures))
        for seed in dict.fromkeys(seed for seed, _ in pictures):
            wanted = [row for row, picture in enumerate(pictures) if picture[0] == seed]
            indices = [pictures[row][1] for row in wanted]
            asked, said = (None if given is None else [given[row] for row in wanted] for given in (labels, texts))
            start, loaded = 0, self.loaded
            for part in self.sample.draw(loaded.gan, loaded.module, seed, indices, self.device, asked, caption=said):
                rows = wanted[start : start + len(part)]
                answer[rows] = self.loaded.served(part)
                start += len(rows)
        return answer

    def _translated(self, images_NHWC: Any, params: dict[str, Any]) -> np.ndarray:
        """Image i, uint8, with the noise of sample i of the seed."""
        seed = params.get("seed", 0)
        try:
            direction = self.loaded.direction(params.get("direction") or self.loaded.directions[0])
        except ValueError as error:
            raise _refuse(f"parameter 'direction': {error}") from error
        channels = self.loaded.source_channels(direction)
        if not isinstance(images_NHWC, np.ndarray) or images_NHWC.dtype != np.uint8 or images_NHWC.ndim != 4:
            raise _refuse("the input is images, uint8 (n, height, width, channels)")
        if images_NHWC.shape[3] != channels or 0 in images_NHWC.shape:
            raise _refuse(f"the input has shape {images_NHWC.shape}; images of {channels} channels are translated")
        if len(images_NHWC) > MAX_ROWS:
            raise _refuse(f"{len(images_NHWC)} images given, {MAX_ROWS} is the most in one call")
        made = [
            self.sample.translate_image(self.loaded, seed, number, image.transpose(2, 0, 1), direction)
            for number, image in enumerate(images_NHWC)
        ]
        return np.stack(made).transpose(0, 2, 3, 1)

    def _asked(
        self, rows: pd.DataFrame, column: str, what: str, checked: Callable[[list[Any]], Sequence[Any]]
    ) -> Sequence[Any] | None:
        """What each row asks for, as it is checked; None when none asks."""
        if column not in rows.columns:
            return None
        if rows[column].isna().any():
            raise _refuse(f"column {column!r} holds one {what} in each row; leave the column out to have them drawn")
        try:
            return checked(rows[column].tolist())
        except ValueError as error:
            raise _refuse(f"column {column!r}: {error}") from error


set_model(GeneratorModel())
