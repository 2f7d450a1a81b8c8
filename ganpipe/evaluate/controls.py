"""The real side and the controls, measured once per protocol and kept in the store.

Beside every score stands the same score of what is no GAN: held-out real images (the floor), a Gaussian fitted to the
training images in PCA space (any GAN worth its time beats it) and a resampling of the training images (a memoriser).
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor
from torch_fidelity import FeatureExtractorBase

from ..errors import WorkFailed
from ..prepare.manifest import Dataset
from ..ranks import Ranks
from ..refs import ControlScores
from ..rng import generator_for
from ..sample import to_float, to_uint8
from ..spec import sampled
from ..storage import Conflict, Store
from . import domain
from .fidelity import Features, chunked, extract, rows_of
from .modes import PointGaussian
from .protocol import Controls, Protocol
from .scores import Reference, mean_of, measure_all
from .told import can_be_told, scores_of_real

log = logging.getLogger(__name__)

FORMAT = 2


@dataclass(frozen=True)
class PcaGaussian:
    """A normal distribution over images, in the space of their first principal components."""

    mean_P: Tensor
    axes_KP: Tensor
    """Unit vectors, each multiplied by the standard deviation along it."""
    shape: tuple[int, int, int]
    """(C, H, W) of the images it was fitted to."""
    resolution: int
    """Height and width of the images it returns, pixels."""

    @classmethod
    def fit(cls, images_NCHW: np.ndarray, settings: Controls) -> PcaGaussian:
        """Fit to uint8 images; the first of `images_NCHW` when there are more than `settings.pca_images`."""
        resolution = images_NCHW.shape[-1]
        factor = max(1, resolution // settings.pca_pixels)
        read = rows_of(images_NCHW)
        parts = [
            F.avg_pool2d(to_float(read(rows)), factor) for rows in chunked(min(len(images_NCHW), settings.pca_images))
        ]
        pixels_NCHW = torch.cat(parts)
        pixels_NP = pixels_NCHW.flatten(1).double()
        mean_P = pixels_NP.mean(0)
        centred_NP = pixels_NP - mean_P
        # The smaller of the two Gram matrices has the same non-zero eigenvalues.
        wide = centred_NP.shape[1] > centred_NP.shape[0]
        gram = centred_NP @ centred_NP.T if wide else centred_NP.T @ centred_NP
        values, vectors = torch.linalg.eigh(gram)
        values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)
        share = values.cumsum(0) / values.sum().clamp(min=1e-12)
        keep = min(int((share < settings.pca_variance).sum()) + 1, settings.pca_components, len(values))
        values, vectors = values[:keep], vectors[:, :keep]
        axes_KP = ((centred_NP.T @ vectors) / values.clamp(min=1e-12).sqrt()).T if wide else vectors.T
        # An eigenvector's sign is arbitrary; a fixed one makes a seed mean the same image on every machine.
        sign = axes_KP.gather(1, axes_KP.abs().argmax(1, keepdim=True)).sign()
        deviation = (values / max(1, len(centred_NP) - 1)).sqrt()
        axes_KP = axes_KP * sign * deviation[:, None]
        _, channels, height, width = pixels_NCHW.shape
        return cls(mean_P.float(), axes_KP.float(), (channels, height, width), resolution)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """n images, uint8 (n, C, resolution, resolution); what lies outside the range is clamped."""
        pixels_NP = self.mean_P + torch.randn(n, len(self.axes_KP), generator=generator) @ self.axes_KP
        images = pixels_NP.unflatten(1, self.shape)
        if images.shape[-1] != self.resolution:
            images = F.interpolate(images, size=(self.resolution, self.resolution), mode="bilinear")
        return to_uint8(images)


Compute = Callable[[Dataset, Protocol, FeatureExtractorBase, Ranks], tuple[Reference, list[ControlScores]]]


def reference_and_controls(
    dataset: Dataset,
    protocol: Protocol,
    extractor: FeatureExtractorBase,
    store: Store,
    ranks: Ranks,
    compute: Compute,
) -> tuple[Reference, list[ControlScores]]:
    """The real side and the controls' scores under a protocol: from the store, or computed now and put there.

    All ranks measure together. A damaged copy in the store is measured again, with a warning. Of jobs that measure at
    the same time, all take what the first one has put there. Raises InputError when all real images have the same
    features, WorkFailed when a feature or a control's score is not finite; nothing is kept then.
    """
    key = f"reference/{protocol.dataset_digest}/{protocol.hash}.safetensors"
    kept, damaged = ranks.from_main(lambda: _kept(store, key))
    if kept is not None:
        return kept
    measured = compute(dataset, protocol, extractor, ranks)
    _require_finite(measured[1])
    return ranks.from_main(lambda: _keep(store, key, *measured, expected=damaged))


def _keep(
    store: Store, key: str, reference: Reference, controls: list[ControlScores], expected: bytes | None
) -> tuple[Reference, list[ControlScores]]:
    """What is in the store afterwards: this, or what another job has put there since `expected` was read."""
    try:
        store.compare_and_set(key, pack(reference, controls), expected)
    except Conflict:
        others, _ = _kept(store, key)
        return others or (reference, controls)
    return reference, controls


def _require_finite(controls: list[ControlScores]) -> None:
    wrong = [
        f"{control.name}'s {name} is {value}"
        for control in controls
        for name, value in control.scores.items()
        if not math.isfinite(value)
    ]
    if wrong:
        raise WorkFailed(f"the controls cannot be scored, and nothing is kept: {', '.join(wrong)}")


def _kept(store: Store, key: str) -> tuple[tuple[Reference, list[ControlScores]] | None, bytes | None]:
    """What the store has, or None; and the bytes of a damaged copy."""
    try:
        found = store.read_bytes(key)
    except FileNotFoundError:
        return None, None
    try:
        return unpack(found), None
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        log.warning("%s/%s is damaged (%s); it is measured again", store.uri, key, error)
        return None, found


def measured_real(
    dataset: Dataset, protocol: Protocol, extractor: FeatureExtractorBase, ranks: Ranks
) -> tuple[Reference, list[ControlScores]]:
    """The real side and the controls of images or points that are drawn."""
    kind = sampled(dataset.spec()).kind
    real = dataset.column(kind, protocol.reference_split)[: protocol.n_reference]
    others = dataset.column(kind, protocol.held_out)[: protocol.n_generated]
    known = extract(extractor, len(real), rows_of(real), ranks, f"real {kind}s")
    held_out = extract(extractor, len(others), rows_of(others), ranks, f"held-out {kind}s")
    classes = domain.class_names(dataset) if protocol.extractor == "domain" else ()
    if classes:
        held_out = replace(held_out, classes=domain.labels_of(dataset, protocol.held_out)[: len(held_out)])
    if classes and can_be_told(dataset):
        held_out = replace(held_out, told=scores_of_real(held_out, dataset, protocol.held_out, classes))
    reference = Reference.of(known, protocol, held_out, classes)
    train, seen = (real, known) if protocol.reference_split == "train" else (others, held_out)
    gaussian = PointGaussian.fit(train) if kind == "point" else PcaGaussian.fit(train, protocol.controls)
    n = protocol.n_generated

    def draw_gaussian(index: int) -> Features:
        images = gaussian.sample(n, generator_for("cpu", "control", "pca_gaussian", index))
        return extract(extractor, n, rows_of(images), ranks, f"PCA-Gaussian {index + 1}")

    def draw_memoriser(index: int) -> Features:
        rows = torch.randint(len(seen), (n,), generator=generator_for("cpu", "control", "resampled_train", index))
        return Features(seen.features_ND[rows], seen.logits_NK[rows])

    draws = range(protocol.controls.draws)
    drawn = [(draw, index) for draw in (draw_gaussian, draw_memoriser) for index in draws]
    sets: list[Callable[[], Features]] = [lambda: held_out, *(partial(draw, index) for draw, index in drawn)]
    first, *of_draws = measure_all(sets, reference, protocol, ranks, "controls")
    if len(held_out) < n:
        log.warning("the floor is made of all %d held-out images, the other scores of %d images", len(held_out), n)
    scores = {"pca_gaussian": of_draws[: len(draws)], "resampled_train": of_draws[len(draws) :]}
    made = [("real", len(held_out), [first]), *((name, n, rows) for name, rows in scores.items())]
    return reference, [
        ControlScores(name=name, n=count, **mean_of(rows).model_dump(exclude={"format"})) for name, count, rows in made
    ]


# --- one file in the store, verified when read -------------------------------------------------------------------


def pack(reference: Reference, controls: list[ControlScores]) -> bytes:
    tensors = {
        "features": reference.features_ND.contiguous(),
        "logits": reference.logits_NK.contiguous(),
        "radii": reference.radii_N2.contiguous(),
        "mu": torch.from_numpy(np.ascontiguousarray(reference.mu)),
        "sigma": torch.from_numpy(np.ascontiguousarray(reference.sigma)),
    }
    if reference.held_out_MD is not None:
        tensors["held_out"] = reference.held_out_MD.contiguous()
    rows = [control.model_dump(mode="json") for control in controls]
    content = {"format": FORMAT, "kind": "reference", "classes": reference.classes, "controls": rows}
    metadata = {**content, "sha256": _digest(tensors, content)}
    return save(tensors, {"ganpipe": json.dumps(metadata)})


def unpack(data: bytes) -> tuple[Reference, list[ControlScores]]:
    """Inverse of `pack`. Raises SafetensorError, KeyError, TypeError or ValueError when any byte differs."""
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    metadata = json.loads(header["__metadata__"]["ganpipe"])
    tensors = load(data)
    stated = metadata.pop("sha256")
    if _digest(tensors, metadata) != stated:
        raise ValueError("its sha256 is not the stated one")
    reference = Reference(
        tensors["features"],
        tensors["logits"],
        tensors["radii"],
        tensors["mu"].numpy(),
        tensors["sigma"].numpy(),
        tensors.get("held_out"),
        tuple(metadata["classes"]),
    )
    return reference, [ControlScores.model_validate(row) for row in metadata["controls"]]


def _digest(tensors: dict[str, Tensor], content: dict[str, object]) -> str:
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode())
    for name in sorted(tensors):
        digest.update(f"{name}{tuple(tensors[name].shape)}".encode())
        digest.update(tensors[name].numpy().tobytes())
    return digest.hexdigest()
