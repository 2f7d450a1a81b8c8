"""Stores with digits in them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch_fidelity
from evaluate_data import publish_dataset

from ganpipe.prepare.manifest import Dataset
from ganpipe.settings import Settings
from ganpipe.storage import Store, open_store


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, Dataset]:
    """One store with the labelled digits at 16 px, whose domain extractor is trained once for all tests."""
    home = tmp_path_factory.mktemp("home")
    settings = Settings(home=home, store=f"file://{home}/store", tracking_uri="off")
    store = open_store(settings.store)
    return settings, Dataset.open(store, publish_dataset(store, home / "digits"))


@pytest.fixture
def make_dataset(store: Store, tmp_path: Path) -> Callable[..., Dataset]:
    """Publishes a variant of the digits in the test's own store and opens it."""

    def make(**options: object) -> Dataset:
        return Dataset.open(store, publish_dataset(store, tmp_path / "shards", **options))

    return make


@pytest.fixture(scope="session")
def random_inception(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of random weights for Inception, through which images stay apart."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch_fidelity.FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        patch.setattr("torch_fidelity.feature_extractor_inceptionv3.load_state_dict_from_url", lambda *_, **__: None)
        torch.manual_seed(0)
        network = torch_fidelity.FeatureExtractorInceptionV3("random", ["2048"])
    state = {name: tensor * 6**0.5 if tensor.dim() == 4 else tensor for name, tensor in network.state_dict().items()}
    path = tmp_path_factory.mktemp("inception") / "random.pth"
    torch.save(state, path)
    return path
