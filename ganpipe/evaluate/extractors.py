"""From images to features, by one interface: torch-fidelity's extractors, the `domain` classifier, any torch module.

All are torch-fidelity extractors. Those that calculate_metrics can make by itself are registered with it, too.
"""

from __future__ import annotations

import hashlib
import importlib
import io
import json
from pathlib import Path
from typing import Any

import torch
import torch_fidelity
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch_fidelity import FeatureExtractorBase, FeatureExtractorInceptionV3
from torch_fidelity.feature_extractor_clip import FeatureExtractorCLIP, build_model
from torch_fidelity.feature_extractor_dinov2 import MODEL_METADATA as DINOV2
from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY

from ..errors import InputError, WorkFailed
from ..prepare.manifest import Dataset
from ..settings import Settings
from ..spec import Mixture, sampled
from ..storage import Store, sha256_of_bytes
from . import domain, triples
from .known import DOMAIN, INCEPTION, KNOWN, OF_DATA, OWN_INCEPTION, TRIPLES, is_module
from .metrics import POINT_EXTRACTOR
from .weights import Weights, find_file, read_state

LABELLED_METRIC = "isc"
"""The one metric that reads class probabilities; the others read features."""
UNFIT = (RuntimeError, SafetensorError, KeyError, ValueError, AttributeError, IndexError, TypeError)
"""What networks raise that are given a state dictionary of another one."""


class DomainExtractor(FeatureExtractorBase):
    """The classifier of `domain.py`: features (N, 32) and logits (N, classes) of uint8 images (N, C, H, W)."""

    feature_dim = domain.FEATURES

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


class TriplesExtractor(FeatureExtractorBase):
    """The reader of `triples.py`: features (N, 96) of uint8 images (N, 3, H, W). In place of logits: (N, 30), for each
    channel and digit the log of its probability over that of the threshold."""

    feature_dim = 3 * domain.FEATURES

    def __init__(self, name: str, features_list: list[str], feature_extractor_weights_path: Path | str, **_: Any):
        super().__init__(name, features_list)
        self.reader, self.log_threshold = triples.load(feature_extractor_weights_path)

    @staticmethod
    def get_provided_features_list() -> tuple[str, ...]:
        return ("features", "log_ratios")

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        return "log_ratios" if metric == LABELLED_METRIC else "features"

    @staticmethod
    def can_be_compiled() -> bool:
        return False

    def forward(self, images_N3HW: Tensor) -> tuple[Tensor, ...]:
        features, log_N3K = self.reader(domain.pooled(images_N3HW))
        log_ratios = log_N3K.flatten(1) - self.log_threshold
        return tuple({"features": features, "log_ratios": log_ratios}[name] for name in self.features_list)


class InceptionExtractor(FeatureExtractorInceptionV3):
    """torch-fidelity's Inception on uint8 images (N, 1 or 3, H, W); grey is repeated to three channels.

    `feature_extractor_weights_path` is a state dictionary, as safetensors or in torch's format; no code in it is run.
    """

    feature_dim = 2048

    def __init__(self, name: str, features_list: list[str], feature_extractor_weights_path: Path | str, **kwargs: Any):
        stream = _as_stream(read_state(Path(feature_extractor_weights_path)))
        super().__init__(name, features_list, feature_extractor_weights_path=stream, **kwargs)

    def forward(self, images_NCHW: Tensor) -> tuple[Tensor, ...]:
        return super().forward(_coloured(images_NCHW))


def _as_stream(state: dict[str, Tensor]) -> io.BytesIO:
    """torch-fidelity unpickles whatever file it is given: it gets a stream of our own making, from tensors alone."""
    stream = io.BytesIO()
    torch.save(state, stream)
    stream.seek(0)
    return stream


def _coloured(images_NCHW: Tensor) -> Tensor:
    return images_NCHW.expand(-1, 3, -1, -1) if images_NCHW.shape[1] == 1 else images_NCHW


class ClipExtractor(FeatureExtractorCLIP):
    """torch-fidelity's CLIP from a state dictionary; its own constructor wants TorchScript."""

    def __init__(self, name: str, features_list: list[str], state: dict[str, Tensor]):
        FeatureExtractorBase.__init__(self, name, features_list)
        self.feature_extractor_internal_dtype = torch.float32
        self.model = build_model(dict(state), torch.float32)
        self.resolution = self.model.visual.input_resolution
        self.requires_grad_(False)


class PointExtractor(FeatureExtractorBase):
    """Features of points, float32 (N, 2): the points. In place of logits: distances (N, M) to the modes' centres.

    `feature_extractor_weights_path` is the mixture; distances are in standard deviations of a mode.
    """

    feature_dim = 2

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


class ModuleExtractor(FeatureExtractorBase):
    """Features (N, D) that a module makes of uint8 images (N, C, H, W), alone or first in a tuple; no logits.

    Raises WorkFailed when the module does, or when it returns anything else.
    """

    def __init__(self, name: str, module: nn.Module, feature_dim: int | None, coloured: bool):
        """`feature_dim` None: whatever comes. `coloured`: grey images are repeated to three channels."""
        super().__init__(name, ["features"])
        self.module = module.requires_grad_(False).eval()
        self.feature_dim = feature_dim
        self.coloured = coloured

    @staticmethod
    def get_provided_features_list() -> tuple[str, ...]:
        return ("features",)

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        return "features"

    @staticmethod
    def can_be_compiled() -> bool:
        return False

    def forward(self, images_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        shape = tuple(images_NCHW.shape)
        try:
            made = self.module(_coloured(images_NCHW) if self.coloured else images_NCHW)
        except Exception as error:  # it is anybody's code
            raise WorkFailed(
                f"extractor {self.name} failed on uint8 images of shape {shape}: {type(error).__name__}: {error}"
            ) from error
        features = made[0] if isinstance(made, tuple | list) and made else made
        if not isinstance(features, Tensor) or features.dim() != 2 or len(features) != shape[0]:
            what = f"shape {tuple(features.shape)}" if isinstance(features, Tensor) else f"type {type(made).__name__}"
            raise WorkFailed(
                f"extractor {self.name} returned {what} for {shape[0]} images; features of shape ({shape[0]}, D) are "
                "wanted, alone or first in a tuple"
            )
        return features.float(), features.new_empty(shape[0], 0, dtype=torch.float32)


EXTRACTORS: dict[
    str, type[DomainExtractor] | type[TriplesExtractor] | type[InceptionExtractor] | type[PointExtractor]
] = {
    DOMAIN: DomainExtractor,
    TRIPLES: TriplesExtractor,
    INCEPTION: InceptionExtractor,
    OWN_INCEPTION: InceptionExtractor,
    POINT_EXTRACTOR: PointExtractor,
}
"""Those that return more than features: logits, distances, log ratios."""


def registered_name(extractor: str) -> str:
    """The name under which torch-fidelity knows an extractor of ours."""
    return f"ganpipe-{extractor}"


for _name, _extractor in EXTRACTORS.items():
    torch_fidelity.register_feature_extractor(registered_name(_name), _extractor)


def build_extractor(weights: Weights, device: torch.device | str = "cpu") -> FeatureExtractorBase:
    """The extractor, ready for use: it returns (features, logits), the latter (N, 0) where there are no classes.

    Raises InputError when the weights' file does not fit it.
    """
    content: Any = weights.content
    if isinstance(content, nn.Module):
        return _of_module(weights.extractor, content).to(device)
    try:
        if weights.extractor in EXTRACTORS:
            made = EXTRACTORS[weights.extractor]
            layers = [made.get_default_feature_layer_for_metric(metric) for metric in ("fid", LABELLED_METRIC)]
            built = made(registered_name(weights.extractor), layers, feature_extractor_weights_path=content)
        else:
            built = _of_module(weights.extractor, _torch_fidelitys(weights.extractor, read_state(content)))
    except UNFIT as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{weights.content} does not hold weights of the {weights.extractor} extractor: {error}"
        ) from error
    return built.to(device)


def _of_module(extractor: str, module: nn.Module) -> ModuleExtractor:
    dim = KNOWN[extractor].feature_dim if extractor in KNOWN else None
    return ModuleExtractor(extractor, module, dim, coloured=not is_module(extractor))


def _torch_fidelitys(extractor: str, state: dict[str, Tensor]) -> nn.Module:
    made = FEATURE_EXTRACTORS_REGISTRY[extractor]
    layers = [made.get_default_feature_layer_for_metric("fid")]
    if issubclass(made, FeatureExtractorCLIP):
        return ClipExtractor(extractor, layers, state)
    built: nn.Module = made(extractor, layers, feature_extractor_weights_path=_as_stream(state))
    return built


@torch.no_grad()
def feature_dim(extractor: FeatureExtractorBase, shape: tuple[int, ...], device: torch.device | str = "cpu") -> int:
    """Length of its feature vectors for images of shape (C, H, W): what is known, or what it makes of two black ones.

    Raises WorkFailed when it makes none.
    """
    known: int | None = extractor.feature_dim
    return known or extractor(torch.zeros(2, *shape, dtype=torch.uint8, device=device))[0].shape[1]


# --- what they are made of ---------------------------------------------------------------------------------------


def find_weights(
    extractor: str, dataset: Dataset | None, store: Store, settings: Settings, given: Path | None = None
) -> Weights:
    """The weights to measure this data set with; a classifier of its own is trained when nobody did so before.

    `given` is a file to take. Raises InputError saying where weights can be put, or why there can be none.
    """
    if extractor in OF_DATA:
        if dataset is None:
            raise InputError(f"extractor {extractor} is made from a prepared data set, and there is none")
        if extractor == DOMAIN:
            return Weights(extractor, *domain.get_or_train(dataset, store))
        if extractor == TRIPLES:
            return Weights(extractor, *triples.get_or_train(dataset, store))
        if (mixture := sampled(dataset.spec()).mixture) is None:
            raise InputError(
                f"data set {dataset.digest[:12]} holds no points of known modes; leave out evaluate.extractor"
            )
        return Weights(extractor, mixture, sha256_of_bytes(mixture.model_dump_json().encode()))
    if is_module(extractor):
        return _hashed(extractor, load_module(extractor))
    if extractor in DINOV2:
        return _hashed(extractor, _from_hub(extractor))
    return find_file(extractor, store, settings, given)


def _hashed(extractor: str, module: nn.Module) -> Weights:
    return Weights(extractor, module, state_sha256(module))


def load_module(name: str) -> nn.Module:
    """What `package.module:factory` makes, under a fixed seed. Raises InputError when it cannot be had."""
    path, _, factory = name.partition(":")
    try:
        make = getattr(importlib.import_module(path), factory)
    except Exception as error:  # whatever the import of anybody's code raises
        raise InputError(
            f"extractor {name} cannot be imported: {type(error).__name__}: {error}; install {path.partition('.')[0]}, "
            "or put its folder on PYTHONPATH"
        ) from error
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            module = make()
    except Exception as error:
        raise InputError(f"extractor {name}: {factory}() failed: {type(error).__name__}: {error}") from error
    if not isinstance(module, nn.Module):
        raise InputError(f"extractor {name}: {factory}() returned a {type(module).__name__}, no torch.nn.Module")
    return module.requires_grad_(False).eval()


def _from_hub(extractor: str) -> nn.Module:
    """A DINOv2, which torch-fidelity loads by torch.hub, code and weights: only when both are in its cache."""
    hub, model = Path(torch.hub.get_dir()), DINOV2[extractor]
    weights = hub / "checkpoints" / f"{model}_pretrain.pth"
    if not weights.is_file() or not (hub / "facebookresearch_dinov2_main").is_dir():
        raise InputError(
            f"extractor {extractor} takes no file of weights: torch.hub loads its code and weights, and {hub} has not "
            f"both of them. Run `python -c \"import torch; torch.hub.load('facebookresearch/dinov2', '{model}')\"` "
            "where there is a network and copy that folder, or take another extractor"
        )
    made = FEATURE_EXTRACTORS_REGISTRY[extractor]
    built: nn.Module = made(extractor, [made.get_default_feature_layer_for_metric("fid")])
    return built


def state_sha256(module: nn.Module) -> str:
    """sha256 over name, dtype, shape and bytes of every tensor of the state, in the order of the names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
