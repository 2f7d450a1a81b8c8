"""Numbers equal torch-fidelity's own; too few images and damaged features are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch_fidelity
from evaluate_data import run_config
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset
from torch_fidelity import FeatureExtractorBase

from ganpipe.errors import InputError, WorkFailed
from ganpipe.evaluate import domain, fidelity, scores
from ganpipe.evaluate.extractors import Weights, build_extractor, registered_name
from ganpipe.evaluate.metrics import METRICS
from ganpipe.evaluate.protocol import Protocol
from ganpipe.evaluate.scores import Measured
from ganpipe.prepare.manifest import Dataset
from ganpipe.ranks import Ranks
from ganpipe.settings import Settings
from ganpipe.storage import open_store, sha256_of_file


class Images(TorchDataset[Tensor]):
    """What torch-fidelity takes as an input."""

    def __init__(self, images_NCHW: Tensor):
        self.images_NCHW = images_NCHW

    def __len__(self) -> int:
        return len(self.images_NCHW)

    def __getitem__(self, index: int) -> Tensor:
        return self.images_NCHW[index]


def extracted(extractor: FeatureExtractorBase, images_NCHW: Tensor | np.ndarray) -> fidelity.Features:
    return fidelity.extract(extractor, len(images_NCHW), fidelity.rows_of(images_NCHW), Ranks(), "images")


def both_ways(weights: Weights, generated: Tensor, real: Tensor) -> tuple[dict[str, float], dict[str, float]]:
    """Our scores, and torch-fidelity's under our names."""
    n = min(len(generated), len(real))
    protocol = Protocol(
        extractor=weights.extractor, weights_sha256=weights.sha256, torch_fidelity="", dataset_digest="", resize="",
        n_reference=len(real), n_generated=len(generated), chunk=64, kid_subsets=4, kid_subset_size=n - 1,
        isc_splits=2, prc_neighborhood=3,
    )  # fmt: skip
    extractor = build_extractor(weights)
    sides = [extracted(extractor, images) for images in (generated, real)]
    ours = scores.measure(sides[0], scores.Reference.of(sides[1], protocol), protocol).scores
    theirs = torch_fidelity.calculate_metrics(
        input1=Images(generated), input2=Images(real), cuda=False, batch_size=64, verbose=False, save_cpu_ram=True,
        fid=True, isc=True, kid=True, prc=True, cache=False,
        feature_extractor=registered_name(weights.extractor), feature_extractor_weights_path=str(weights.content),
        kid_subsets=4, kid_subset_size=n - 1, isc_splits=2, prc_neighborhood=3,
    )  # fmt: skip
    suffix = "" if weights.extractor == "inception" else f"_{weights.extractor}"
    names = {
        "fid": torch_fidelity.KEY_METRIC_FID,
        "kid": torch_fidelity.KEY_METRIC_KID_MEAN,
        "is": torch_fidelity.KEY_METRIC_ISC_MEAN,
        "precision": torch_fidelity.KEY_METRIC_PRECISION,
        "recall": torch_fidelity.KEY_METRIC_RECALL,
    }
    return ours, {f"{name}{suffix}": theirs[key] for name, key in names.items()}


def test_domain_scores_equal_torch_fidelitys(shared: tuple[Settings, Dataset]) -> None:
    settings, dataset = shared
    path, sha256 = domain.get_or_train(dataset, open_store(settings.store))
    real = torch.from_numpy(dataset.column("image", "train")[:150].copy())
    noisy = torch.from_numpy(dataset.column("image", "test")[:100].copy()) // 2 + 40
    ours, theirs = both_ways(Weights("domain", path, sha256), noisy, real)
    assert {name: ours[name] for name in theirs} == pytest.approx(theirs, rel=1e-6)
    assert all(np.isfinite(value) for value in ours.values())


def test_inception_scores_equal_torch_fidelitys(
    shared: tuple[Settings, Dataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch_fidelity.FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
    monkeypatch.setattr("torch_fidelity.feature_extractor_inceptionv3.load_state_dict_from_url", lambda *_, **__: None)
    torch.manual_seed(0)
    state = torch_fidelity.FeatureExtractorInceptionV3("random", ["2048"]).state_dict()
    for tensor in state.values():
        if tensor.ndim == 4:  # its own random weights tell no images apart
            torch.nn.init.kaiming_normal_(tensor)
    path = tmp_path / "random.pth"
    torch.save(state, path)
    monkeypatch.undo()

    _, dataset = shared
    real = torch.from_numpy(dataset.column("image", "train")[:7].copy()).repeat(1, 3, 1, 1)
    generated = torch.randint(0, 256, (6, 3, 16, 16), dtype=torch.uint8)
    ours, theirs = both_ways(Weights("inception", path, sha256_of_file(path)), generated, real)
    assert {name: ours[name] for name in theirs} == pytest.approx(theirs, rel=1e-6)
    assert set(ours) == set(METRICS)
    assert ours["fid"] > 0


def test_damaged_features_are_refused(shared: tuple[Settings, Dataset]) -> None:
    settings, dataset = shared
    path, sha256 = domain.get_or_train(dataset, open_store(settings.store))
    extractor = build_extractor(Weights("domain", path, sha256))
    with torch.no_grad():
        next(extractor.parameters())[0] = float("nan")
    with pytest.raises(WorkFailed, match="weights are damaged"):
        extracted(extractor, dataset.column("image", "test")[:4])


def test_too_few_images_are_refused_unless_allowed(shared: tuple[Settings, Dataset]) -> None:
    _, dataset = shared
    few, enough = run_config(num_samples=32).evaluate, run_config(num_samples=33).evaluate
    fidelity.require_enough(enough, dataset)
    fidelity.require_enough(few.model_copy(update={"allow_few": True}), dataset)
    with pytest.raises(InputError, match=r"32 generated images \(evaluate\.num_samples\).*evaluate\.allow_few"):
        fidelity.require_enough(few, dataset)
    with pytest.raises(InputError, match="the 2048 features"):
        fidelity.require_enough(run_config(extractor="inception").evaluate, dataset)


def test_as_many_samples_as_held_out_images_by_default(shared: tuple[Settings, Dataset]) -> None:
    _, dataset = shared
    protocol = fidelity.todays_protocol(run_config().evaluate, dataset, Weights("domain", Path("unused"), "ab"))
    assert protocol.n_generated == len(dataset.column("image", "test"))
    assert protocol.kid_subset_size == protocol.n_generated
    assert protocol.weights_sha256 == "ab"


def test_the_mean_of_a_nan_is_nan() -> None:
    assert scores.mean_of([Measured({"fid": 1.0}), Measured({"fid": 2.0})]).scores == {"fid": 1.5}
    assert np.isnan(scores.mean_of([Measured({"fid": 1.0}), Measured({"fid": float("nan")})]).scores["fid"])
