"""What every test stands on: an environment of its own, one thread per process, real digits at 8 pixels."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests run side by side; two spinning thread pools on two cores crawl

import pytest
from s3_server import s3_server, s3_uri  # noqa: F401
from tiny import tiny_raw

from ganpipe import prepare
from ganpipe.config import RunConfig, load_config
from ganpipe.prepare.manifest import Dataset
from ganpipe.settings import Settings
from ganpipe.storage import Store, open_store


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Nothing of the user's settings gets in, nothing gets out."""
    for name in list(os.environ):
        if name.startswith(("GANPIPE_", "MLFLOW_", "PREFECT_", "AWS_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("GANPIPE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("GANPIPE_TRACKING_URI", "off")
    _drop_closed_handlers()
    yield


def _drop_closed_handlers() -> None:
    """Those of a command line in an earlier test, which would go on writing to that test's captured stderr."""
    for logger in map(logging.getLogger, ("ganpipe", "flows")):
        for handler in list(logger.handlers):
            if isinstance(handler, logging.StreamHandler) and handler.stream.closed:
                logger.removeHandler(handler)


@pytest.fixture
def settings() -> Settings:
    return Settings.from_environment()


@pytest.fixture
def store(settings: Settings) -> Store:
    return open_store(settings.store)


@pytest.fixture
def tiny() -> RunConfig:
    return load_config(tiny_raw())


@pytest.fixture
def prepared(settings: Settings, store: Store) -> Callable[[RunConfig], Dataset]:
    """Prepares the data of a configuration in this test's own store."""
    return lambda config: Dataset.open(store, prepare.run(config, settings).digest)


@pytest.fixture
def captioned_digits(prepared: Callable[[RunConfig], Dataset]) -> Dataset:
    """The same rows with a label, a caption and its meaning each: all that a recipe may ask of single images."""
    return prepared(load_config(tiny_raw(), ["prepare.source.name=captioned_digits"]))


@pytest.fixture
def digits(tiny: RunConfig, prepared: Callable[[RunConfig], Dataset]) -> Dataset:
    """The prepared 8-px digits in this test's own store."""
    return prepared(tiny)
