"""Evaluation against `torch_fidelity.calculate_metrics` with its own cache on: the same images, in interleaved pairs.

    python benchmarks/evaluate.py [--pairs 5] [--images 5000] [--inception-images 48]

Cold: neither has seen the real images. Warm: both have what they keep of them. The scores of both are compared before
their times are. `all metrics` is what ganpipe always measures. torch-fidelity has no fid_inf, which takes it three more
calls for fewer generated images; density, coverage, entropies, scores by class and intervals it is not asked for.
Inception has random weights here, and few images, as one core takes seven of them a second. The last table shows where
the time goes when a generator draws the images first.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np
import torch
import torch_fidelity
import trained
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from ganpipe import prepare
from ganpipe.config import RunConfig, load_config
from ganpipe.evaluate.controls import pack, unpack
from ganpipe.evaluate.extractors import Weights, build_extractor, find_weights, registered_name
from ganpipe.evaluate.fidelity import Features, extract, rows_of
from ganpipe.evaluate.metrics import metric_name
from ganpipe.evaluate.protocol import Protocol
from ganpipe.evaluate.scores import Reference, measure
from ganpipe.gans import GANS
from ganpipe.prepare.manifest import Dataset
from ganpipe.ranks import Ranks
from ganpipe.sample import draw_images
from ganpipe.settings import Settings
from ganpipe.storage import Store, open_store, sha256_of_file

CONFIG = Path(__file__).parents[1] / "configs" / "digits-dcgan.yaml"
BATCH = 64
KEYS = {
    "fid": torch_fidelity.KEY_METRIC_FID,
    "kid": torch_fidelity.KEY_METRIC_KID_MEAN,
    "is": torch_fidelity.KEY_METRIC_ISC_MEAN,
    "precision": torch_fidelity.KEY_METRIC_PRECISION,
    "recall": torch_fidelity.KEY_METRIC_RECALL,
}


class Images(TorchDataset[Tensor]):
    """What torch-fidelity takes as an input."""

    def __init__(self, images_NCHW: Tensor):
        self.images_NCHW = images_NCHW

    def __len__(self) -> int:
        return len(self.images_NCHW)

    def __getitem__(self, index: int) -> Tensor:
        return self.images_NCHW[index]


@dataclass(frozen=True)
class Case:
    """Images to compare, uint8, and what with."""

    weights: Weights
    generated_NCHW: Tensor
    real_NCHW: Tensor

    @property
    def protocol(self) -> Protocol:
        n, m = len(self.generated_NCHW), len(self.real_NCHW)
        many = min(n, m) >= 5000
        return Protocol(
            extractor=self.weights.extractor, weights_sha256="", torch_fidelity="", dataset_digest="", resize="",
            n_reference=m, n_generated=n, chunk=BATCH, kid_subsets=100 if many else 10,
            kid_subset_size=min(1000, n, m), isc_splits=10 if many else 1, prc_neighborhood=3,
        )  # fmt: skip

    def tolerance(self, name: str) -> float:
        """Relative; torch-fidelity's distance of fewer images than features is off by 1e-5 (see `frechet.py`)."""
        return 1e-4 if name == "fid" and self.weights.extractor == "inception" else 1e-6

    def ours(self, store: Store) -> dict[str, float]:
        """Every metric and interval, with what `store` has of the real side."""
        extractor, ranks = build_extractor(self.weights), Ranks()

        def features(images_NCHW: Tensor) -> Features:
            return extract(extractor, len(images_NCHW), rows_of(images_NCHW), ranks, "images")

        try:
            reference, _ = unpack(store.read_bytes("reference"))
        except FileNotFoundError:
            reference = Reference.of(features(self.real_NCHW), self.protocol)
            store.write_bytes("reference", pack(reference, []))
        found = measure(features(self.generated_NCHW), reference, self.protocol).scores
        return {base: found[metric_name(base, self.weights.extractor)] for base in KEYS}

    def theirs(self, cache: Path, fid_inf: bool) -> dict[str, float]:
        """The metrics that torch-fidelity has, and on request three more distances of fewer images, for fid_inf."""
        used, n = self.protocol, len(self.generated_NCHW)
        given = {
            "input2": Images(self.real_NCHW), "input2_cache_name": "real", "cache": True, "cache_root": str(cache),
            "cuda": False, "batch_size": BATCH, "verbose": False, "fid": True,
            "feature_extractor": registered_name(self.weights.extractor),
            "feature_extractor_weights_path": str(self.weights.content),
        }  # fmt: skip
        found = torch_fidelity.calculate_metrics(
            input1=Images(self.generated_NCHW), kid=True, isc=True, prc=True, kid_subsets=used.kid_subsets,
            kid_subset_size=used.kid_subset_size, isc_splits=used.isc_splits, prc_neighborhood=3, **given,
        )  # fmt: skip
        if fid_inf:
            for kept in (8, 10, 12):
                torch_fidelity.calculate_metrics(input1=Images(self.generated_NCHW[: n * kept // 16]), **given)
        return {base: found[key] for base, key in KEYS.items()}


def digits_case(dataset: Dataset, store: Store, settings: Settings, count: int) -> Case:
    """Digits moved by up to two pixels, `count` of the test split against as many of the training split."""
    draws = torch.Generator().manual_seed(0)

    def moved(split: str) -> Tensor:
        images = torch.from_numpy(np.array(dataset.column("image", split)))
        images = images[torch.randint(len(images), (count,), generator=draws)]
        steps = torch.randint(-2, 3, (count, 2), generator=draws).tolist()
        return torch.stack([image.roll(step, (1, 2)) for image, step in zip(images, steps, strict=True)])

    return Case(find_weights("domain", dataset, store, settings), moved("test"), moved("train"))


def inception_case(digits: Case, folder: Path, count: int) -> Case:
    """Some of the same images in three channels, and an Inception of random weights."""
    path = folder / "random.pth"
    with (
        mock.patch.object(torch_fidelity.FeatureExtractorInceptionV3, "load_state_dict"),
        mock.patch("torch_fidelity.feature_extractor_inceptionv3.load_state_dict_from_url"),
    ):
        torch.manual_seed(0)
        state = torch_fidelity.FeatureExtractorInceptionV3("random", ["2048"]).state_dict()
    for tensor in state.values():
        if tensor.ndim == 4:  # its own random weights tell no images apart
            torch.nn.init.kaiming_normal_(tensor)
    torch.save(state, path)
    sides = (digits.generated_NCHW[: count * 2 // 3], digits.real_NCHW[:count])
    return Case(Weights("inception", path, sha256_of_file(path)), *(side.repeat(1, 3, 1, 1) for side in sides))


def timed(work: Callable[[], dict[str, float]]) -> tuple[float, dict[str, float]]:
    began = time.perf_counter()
    found = work()
    return time.perf_counter() - began, found


def compare(case: Case, pairs: int, folder: Path, fid_inf: bool) -> dict[str, list[tuple[float, float]]]:
    """State of the caches -> seconds of torch-fidelity and of ganpipe, pair by pair."""
    seconds: dict[str, list[tuple[float, float]]] = {"cold": [], "warm": []}
    for _ in range(pairs):
        with tempfile.TemporaryDirectory(dir=folder) as fresh:
            store = open_store(f"file://{fresh}/store")
            for state, times in seconds.items():
                theirs, expected = timed(lambda: case.theirs(Path(fresh) / "theirs", fid_inf))
                ours, found = timed(lambda: case.ours(store))  # noqa: B023
                wrong = [
                    name
                    for name in KEYS
                    if not np.isclose(found[name], expected[name], rtol=case.tolerance(name), atol=0)
                ]
                assert not wrong, f"{state}: {wrong} are not equal: {found} against {expected}"
                times.append((theirs, ours))
    return seconds


def shares(config: RunConfig, dataset: Dataset, case: Case, count: int) -> tuple[float, float, float]:
    """Seconds of sampling, features and metrics, for `count` images of the configuration's generator, untrained."""
    gan = GANS[config.gan.name](config.gan)
    generator = gan.build_networks(dataset.spec()).generator.eval()
    extractor, ranks = build_extractor(case.weights), Ranks()
    reference = Reference.of(
        extract(extractor, len(case.real_NCHW), rows_of(case.real_NCHW), ranks, "real"), case.protocol
    )
    began = time.perf_counter()
    images = draw_images(gan, generator, 0, count)
    drawn = time.perf_counter()
    features = extract(extractor, count, rows_of(images), ranks, "samples")
    extracted = time.perf_counter()
    measure(features, reference, case.protocol)
    return drawn - began, extracted - drawn, time.perf_counter() - extracted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--inception-images", type=int, default=48)
    options = parser.parse_args()
    with trained.at_home(None) as settings:
        config, store = load_config(CONFIG), open_store(settings.store)
        dataset = Dataset.open(store, prepare.run(config, settings).digest)
        digits = digits_case(dataset, store, settings, options.images)
        inception = inception_case(digits, settings.home, options.inception_images)
        work = [("domain", digits, options.pairs), ("inception", inception, max(1, options.pairs // 3))]
        print("| extractor | images | metrics | cache | torch-fidelity s | ganpipe s | ratio (median of pairs) |")
        print("| --- | --- | --- | --- | --- | --- | --- |")
        for name, case, pairs in work:
            sides = f"{len(case.generated_NCHW)} against {len(case.real_NCHW)}"
            for metrics, fid_inf in (("the same", False), ("all", True)):
                for state, times in compare(case, pairs, settings.home, fid_inf).items():
                    theirs, ours = (statistics.median(side) for side in zip(*times, strict=True))
                    ratio = statistics.median(before / after for before, after in times)
                    print(f"| {name} | {sides} | {metrics} | {state} | {theirs:.2f} | {ours:.2f} | {ratio:.2f} |")
        drawn = shares(config, dataset, digits, options.images)
        print("\n| samples of digits-dcgan | sampling | features | metrics |\n| --- | --- | --- | --- |")
        print(f"| {options.images} | " + " | ".join(f"{part / sum(drawn):.0%}" for part in drawn) + " |")


if __name__ == "__main__":
    main()
