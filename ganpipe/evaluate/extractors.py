"""From images to features: torch-fidelity's Inception and the `domain` classifier, by one interface; points are theirs.

All are torch-fidelity extractors and registered with it, so that its own `calculate_metrics` runs on them too.
"""

from __future__ import annotations

import io
import json
import logging
import pickle
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch_fidelity
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch_fidelity import FeatureExtractorBase, FeatureExtractorInceptionV3

from ..errors import InputError
from ..prepare.manifest import Dataset
from ..settings import Settings
from ..spec import Mixture, sampled
from ..storage import MANIFEST, Store, sha256_of_bytes, sha256_of_file
from . import domain
from .protocol import POINT_EXTRACTOR

log = logging.getLogger(__name__)

INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"
INCEPTION_SHA256 = "6726825d"
"""First digits of the official file's sha256, as its name states them."""
INCEPTION_PREFIX = "extractors/inception"
INCEPTION_STORED = "inception.safetensors"
LABELLED_METRIC = "isc"
"""The one metric that reads class probabilities; the others read features."""


@dataclass(frozen=True)
class Weights:
    """What a feature extractor is made of: weights in a local file, or the mixture that points were drawn from."""

    extractor: str
    """`domain`, `inception` or `point`."""
    content: Path | Mixture
    sha256: str
    """Of the original file; a mirrored copy in another format keeps it. Of a mixture's JSON."""


class DomainExtractor(FeatureExtractorBase):
    """The classifier of `domain.py`: features (N, 32) and logits (N, classes) of uint8 images (N, C, H, W)."""

    feature_dim = domain.FEATURES
    resize = f"average pooling to at most {domain.MAX_SIDE} px"

    def __init__(self, name: str, features_list: list[str], feature_extractor_weights_path: Path | str, **_: Any):
        super().__init__(name, features_list)
        with safe_open(feature_extractor_weights_path, "pt") as file:
            metadata = json.loads(file.metadata()["ganpipe"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        self.network = domain.DomainNetwork(metadata["channels"], metadata["side"], metadata["classes"])
        self.network.load_state_dict(tensors)
        self.requires_grad_(False)
        self.eval()

    @staticmethod
    def get_provided_features_list() -> tuple[str, ...]:
        return ("features", "logits")

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        return "logits" if metric == LABELLED_METRIC else "features"

    @staticmethod
    def can_be_compiled() -> bool:
        return False

    def forward(self, images_NCHW: Tensor) -> tuple[Tensor, ...]:
        features, logits = self.network(domain.pooled(images_NCHW))
        return tuple({"features": features, "logits": logits}[name] for name in self.features_list)


class InceptionExtractor(FeatureExtractorInceptionV3):
    """torch-fidelity's Inception on uint8 images (N, 1 or 3, H, W); grey is repeated to three channels.

    `feature_extractor_weights_path` is a state dictionary, as safetensors or in torch's format; no code in it is run.
    """

    feature_dim = 2048
    resize = "bilinear to 299 px like TensorFlow 1"

    def __init__(self, name: str, features_list: list[str], feature_extractor_weights_path: Path | str, **kwargs: Any):
        # The parent unpickles whatever file it is given: it gets a stream of our own making, from tensors alone.
        stream = io.BytesIO()
        torch.save(_read_state(Path(feature_extractor_weights_path)), stream)
        stream.seek(0)
        super().__init__(name, features_list, feature_extractor_weights_path=stream, **kwargs)

    def forward(self, images_NCHW: Tensor) -> tuple[Tensor, ...]:
        return super().forward(images_NCHW.expand(-1, 3, -1, -1) if images_NCHW.shape[1] == 1 else images_NCHW)


class PointExtractor(FeatureExtractorBase):
    """Features of points, float32 (N, 2): the points. In place of logits: distances (N, M) to the modes' centres.

    `feature_extractor_weights_path` is the mixture; distances are in standard deviations of a mode.
    """

    feature_dim = 2
    resize = "none"

    def __init__(self, name: str, features_list: list[str], feature_extractor_weights_path: Mixture, **_: Any):
        super().__init__(name, features_list)
        self.deviation = feature_extractor_weights_path.deviation
        self.register_buffer("centres_M2", torch.tensor(feature_extractor_weights_path.centres), persistent=False)

    @staticmethod
    def get_provided_features_list() -> tuple[str, ...]:
        return ("features", "distances")

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        return "distances" if metric == LABELLED_METRIC else "features"

    @staticmethod
    def can_be_compiled() -> bool:
        return False

    def forward(self, points_N2: Tensor) -> tuple[Tensor, ...]:
        distances_NM = (points_N2[:, None] - self.centres_M2).norm(dim=2) / self.deviation
        return tuple({"features": points_N2, "distances": distances_NM}[name] for name in self.features_list)


EXTRACTORS: dict[str, type[DomainExtractor] | type[InceptionExtractor] | type[PointExtractor]] = {
    "domain": DomainExtractor,
    "inception": InceptionExtractor,
    "point": PointExtractor,
}


def registered_name(extractor: str) -> str:
    """The name under which torch-fidelity knows an extractor of ours."""
    return f"ganpipe-{extractor}"


for _name, _extractor in EXTRACTORS.items():
    torch_fidelity.register_feature_extractor(registered_name(_name), _extractor)


def build_extractor(weights: Weights, device: torch.device | str = "cpu") -> FeatureExtractorBase:
    """The extractor, ready for use: it returns (features, logits).

    Raises InputError when the weights' file does not fit it.
    """
    extractor = EXTRACTORS[weights.extractor]
    content: Any = weights.content
    layers = [extractor.get_default_feature_layer_for_metric(metric) for metric in ("fid", LABELLED_METRIC)]
    try:
        built = extractor(registered_name(weights.extractor), layers, feature_extractor_weights_path=content)
    except (RuntimeError, SafetensorError, KeyError, ValueError) as error:
        raise InputError(
            f"{weights.content} does not hold weights of the {weights.extractor} extractor: {error}"
        ) from error
    return built.to(device)


def find_weights(extractor: str, dataset: Dataset, store: Store, settings: Settings) -> Weights:
    """The weights to measure this data set with; the domain classifier is trained when nobody did so before.

    Raises InputError saying where Inception's weights can be put, or why no classifier can be trained.
    """
    if extractor == "domain":
        path, sha256 = domain.get_or_train(dataset, store)
        return Weights(extractor, path, sha256)
    if extractor == POINT_EXTRACTOR:
        if (mixture := sampled(dataset.spec()).mixture) is None:
            raise InputError(
                f"data set {dataset.digest[:12]} holds no points of known modes; leave out evaluate.extractor"
            )
        return Weights(extractor, mixture, sha256_of_bytes(mixture.model_dump_json().encode()))
    return find_inception(store, settings)


def find_inception(store: Store, settings: Settings) -> Weights:
    """Inception's weights from the file of the settings, torch's cache, or the store, in this order.

    The official weights are mirrored to the store when first seen. Raises InputError saying where to put the file.
    """
    path = local_inception(settings)
    if path is not None:
        sha256 = sha256_of_file(path)
        if sha256.startswith(INCEPTION_SHA256):
            _mirror(store, path, sha256)
        else:
            log.warning("%s are not the official Inception weights: no published FID compares with these scores", path)
        return Weights("inception", path, sha256)
    if store.exists(f"{INCEPTION_PREFIX}/{MANIFEST}"):
        stored = store.fetch(INCEPTION_PREFIX, [INCEPTION_STORED])[INCEPTION_STORED]
        return Weights("inception", stored, store.manifest(INCEPTION_PREFIX)["weights_sha256"])
    raise nowhere(store)


def nowhere(store: Store) -> InputError:
    """What to do when Inception's weights are not to be found."""
    return InputError(
        f"evaluate.extractor is inception, and its weights are nowhere: fetch {INCEPTION_FILE} from the releases of "
        f"torch-fidelity, and either set GANPIPE_INCEPTION_WEIGHTS to the file or put it at {_cached_inception()} "
        f"({store.uri}/{INCEPTION_PREFIX} was looked into as well); or set evaluate.extractor=domain"
    )


def local_inception(settings: Settings) -> Path | None:
    """Inception's weights on this machine. Raises InputError when the settings name a file that is not there."""
    given = settings.inception_weights
    if given is not None and not given.is_file():
        raise InputError(f"GANPIPE_INCEPTION_WEIGHTS={given}: there is no such file")
    return next((path for path in (given, _cached_inception()) if path is not None and path.is_file()), None)


def _cached_inception() -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION_FILE


def _mirror(store: Store, path: Path, sha256: str) -> None:
    """Keep a copy in the store, as safetensors, for machines that lack the file."""
    if store.exists(f"{INCEPTION_PREFIX}/{MANIFEST}"):
        return
    with tempfile.TemporaryDirectory() as folder:
        save_file(_read_state(path), Path(folder) / INCEPTION_STORED)
        try:
            store.publish(INCEPTION_PREFIX, Path(folder), {"format": 1, "kind": "extractor", "weights_sha256": sha256})
        except OSError as error:
            log.warning("the Inception weights could not be mirrored to %s: %s", store.uri, error)


def _read_state(path: Path) -> dict[str, Tensor]:
    """A state dictionary from safetensors or from torch's format, without running code. Raises InputError."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, SafetensorError, pickle.UnpicklingError, EOFError) as error:
        raise InputError(f"{path} cannot be read as weights: {error}") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"{path} holds no state dictionary of tensors; take {INCEPTION_FILE}")
    return {name: tensor.contiguous() for name, tensor in state.items()}
