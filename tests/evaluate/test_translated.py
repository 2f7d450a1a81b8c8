"""Scores of translations: each direction against its own real side, beside known answers, there and back."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from evaluate_data import publish_checkpoints
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from tiny import pairs_raw, sides_raw, tiny_raw

from ganpipe import evaluate, prepare
from ganpipe.config import RunConfig, load_config
from ganpipe.errors import InputError, WorkFailed
from ganpipe.evaluate import partners, process
from ganpipe.evaluate.metrics import gate_metric, lower_is_better
from ganpipe.evaluate.protocol import Protocol, differences
from ganpipe.evaluate.scoring import score_images
from ganpipe.evaluate.translated import TranslationScorer
from ganpipe.prepare.manifest import Dataset
from ganpipe.refs import CheckpointRef, EvalReport, SnapshotScores
from ganpipe.sample import load_generator, to_uint8, translate
from ganpipe.settings import Settings
from ganpipe.spec import Direction
from ganpipe.storage import open_store
from ganpipe.ways import ways_of

KINDS = ("pairs", "sides")
CONFIGS = {
    kind: load_config(raw() | {"evaluate": {"score_seeds": 2}})
    for kind, raw in zip(KINDS, (pairs_raw, sides_raw), strict=True)
}


class Made:
    """An evaluated run of two untrained translators."""

    def __init__(self, kind: str, folder: Path):
        self.config: RunConfig = CONFIGS[kind]
        self.settings = Settings(home=folder, store=f"file://{folder}/store", tracking_uri="off")
        self.store = open_store(self.settings.store)
        ref = prepare.run(self.config, self.settings)
        self.dataset = Dataset.open(self.store, ref.digest)
        self.checkpoints: list[CheckpointRef] = publish_checkpoints(
            self.store, self.dataset, self.config, folder, 2, run_id=kind
        )
        self.report: EvalReport = process.evaluate_run(self.config, kind, self.settings)

    def scorer(self) -> TranslationScorer:
        scorer = process.scorer_of(self.config.evaluate, self.dataset.digest, self.store, self.settings)
        assert isinstance(scorer, TranslationScorer)
        return scorer


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Made]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GANPIPE_TRACKING_URI", "off")
        yield {kind: Made(kind, tmp_path_factory.mktemp(kind)) for kind in KINDS}


def l1(made_NCHW: np.ndarray, partner_NCHW: np.ndarray) -> float:
    return float(np.abs(made_NCHW.astype(float) - partner_NCHW).mean() * 2 / 255)


def test_scores_beside_partners_are_those_of_the_library() -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (5, 3, 16, 16), np.uint8)
    noisy = np.clip(images + rng.normal(0, 20, images.shape), 0, 255).astype(np.uint8)
    rows = partners.beside(torch.from_numpy(noisy), torch.from_numpy(images))
    found = dict(partners.score(name, float(of_rows.mean())) for name, of_rows in rows.items())
    assert found["l1"] == pytest.approx(l1(noisy, images))
    assert found["psnr"] == pytest.approx(peak_signal_noise_ratio(images, noisy))
    expected = [
        structural_similarity(
            one, other, channel_axis=0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255
        )
        for one, other in zip(images, noisy, strict=True)
    ]
    assert found["ssim"] == pytest.approx(np.mean(expected))
    same = partners.beside(torch.from_numpy(images), torch.from_numpy(images))
    assert float(same["ssim"].min()) == pytest.approx(1) and not same["l1"].any()
    small = partners.beside(torch.from_numpy(images[..., :8, :8]), torch.from_numpy(images[..., :8, :8]))
    assert float(small["ssim"].mean()) == pytest.approx(1)


def test_lpips_is_refused_without_its_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    config = load_config(pairs_raw() | {"register": {"model": "x", "metric": "lpips"}})
    with pytest.raises(InputError, match=r"weights-vgg16-lpips\.pth"):
        evaluate.check(config, Settings(home=tmp_path, store=f"file://{tmp_path}/store", tracking_uri="off"))


@pytest.mark.slow
def test_lpips_with_weights_of_its_shape(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Random ones, as the published are not there: nothing from an image to itself, more the more it differs."""
    import torchvision

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    weights, vgg16 = (tmp_path / "hub" / "checkpoints" / name for name in partners.LPIPS_FILES)
    torch.save(torchvision.models.vgg16().state_dict(), vgg16)
    lins = {f"lin{number}.model.1.weight": torch.rand(1, channels, 1, 1)
            for number, channels in enumerate((64, 128, 256, 512, 512))}  # fmt: skip
    torch.save(lins, weights)
    assert "LPIPS" in partners.likeness()
    image = torch.randint(0, 256, (1, 1, 32, 32), dtype=torch.uint8)
    beside = torch.cat([image, (image + 3).clamp(max=255), 255 - image])
    same, near, far = partners.beside(image.expand(3, -1, -1, -1), beside)["lpips"].tolist()
    assert abs(same) < 1e-6 < near < far
    assert "lpips" not in partners.beside(image[..., :8, :8], image[..., :8, :8])


@pytest.mark.parametrize("kind", KINDS)
def test_translations_are_of_the_test_images(made: dict[str, Made], kind: str) -> None:
    """Every number beside an answer is counted again, from images that are translated again."""
    one = made[kind]
    scorer, checkpoint = one.scorer(), one.report.best.checkpoint
    loaded, seed = load_generator(scorer.file(checkpoint)), one.report.best.seeds[0]
    for side in scorer.sides:
        way = side.way
        sources = torch.from_numpy(np.array(way.images(way.sources, "test")))
        assert side.protocol.n_generated == len(sources) and way.partners is not None
        made_NCHW = translate(loaded.gan, loaded.module, seed, range(len(sources)), sources, way.direction)
        shown = to_uint8(made_NCHW)
        suffix = f"_{way.direction}" if kind == "sides" else ""

        def scored(metric: str, suffix: str = suffix) -> float:
            return one.report.best.by_seed[f"{metric}{suffix}"][0]

        assert scored("l1") == pytest.approx(l1(shown.numpy(), np.array(way.images(way.partners, "test"))))
        read = side.extractor(shown)[1].argmax(1)
        asked, names = way.labels("test"), side.reference.classes
        assert asked is not None
        right = [names[number] == label for number, label in zip(read.tolist(), asked, strict=True)]
        assert scored("label_accuracy_domain") == pytest.approx(np.mean(right))
        if kind == "sides":
            back: Direction = "BtoA" if way.direction == "AtoB" else "AtoB"
            returned = translate(loaded.gan, loaded.module, seed, range(len(sources)), shown, back)
            wanted = (returned - (sources / 127.5 - 1)).abs().mean()
            assert scored("cycle_l1") == pytest.approx(float(wanted), rel=1e-4)


def test_of_two_directions_the_mean_is_told(made: dict[str, Made]) -> None:
    best = made["sides"].report.best
    for metric in ("fid_domain", "kid_domain", "label_accuracy_domain", "l1", "psnr", "ssim", "cycle_l1"):
        parts = [best.scores[f"{metric}_{direction}"] for direction in ("AtoB", "BtoA")]
        assert best.scores[metric] == pytest.approx(np.mean(parts))
        assert parts[0] != parts[1]
        low, high = best.intervals[metric]
        assert low <= high
    assert not {"cycle_l1", "l1_AtoB"} & made["pairs"].report.best.scores.keys()


@pytest.mark.parametrize("kind", KINDS)
def test_controls_translate_nothing(made: dict[str, Made], kind: str) -> None:
    one = made[kind]
    controls = {control.name: control.scores for control in one.report.controls}
    assert set(controls) == {"real", "identity", "constant_mean", "resampled_train"} | (
        {"inversion"} if kind == "sides" else set()
    )
    for way in ways_of(one.dataset):
        suffix = f"_{way.direction}" if kind == "sides" else ""
        assert way.partners is not None
        sources, answers = (np.array(way.images(place, "test")) for place in (way.sources, way.partners))
        assert controls["identity"][f"l1{suffix}"] == pytest.approx(l1(sources, answers))
        mean = np.rint(way.images(way.targets, "train").mean(0, keepdims=True))
        assert controls["constant_mean"][f"l1{suffix}"] == pytest.approx(l1(mean.repeat(len(answers), 0), answers))
        if kind == "sides":
            assert controls["inversion"][f"l1{suffix}"] == pytest.approx(l1(255 - sources, answers))
    floor = controls["real"]
    assert "l1" not in floor and floor["label_accuracy_domain"] > 0.9
    for name in ("identity", "constant_mean"):
        assert controls[name]["fid_domain"] > 10 * floor["fid_domain"], "images of the other side are strange"
        assert controls[name]["label_accuracy_domain"] < 0.6
    assert controls["resampled_train"]["fid_domain"] < 2 * floor["fid_domain"]
    assert controls["resampled_train"]["l1"] > controls["constant_mean"]["l1"], "it knows nothing of the source"


def test_each_side_has_its_own_reference_and_protocol(made: dict[str, Made]) -> None:
    one = made["sides"]
    protocol = Protocol.model_validate(one.report.protocol)
    assert protocol.hash == one.report.protocol_hash
    assert protocol.back is not None and (protocol.direction, protocol.back.direction) == ("AtoB", "BtoA")
    assert protocol.weights_sha256 != protocol.back.weights_sha256
    rows = {name: table.splits for name, table in one.dataset.manifest.tables.items()}
    assert protocol.n_generated == rows["a"]["test"][1]
    assert protocol.n_reference == rows["b"]["train"][1] - rows["b"]["train"][0]
    assert protocol.back.n_generated == rows["b"]["test"][1]
    other = protocol.model_copy(update={"back": protocol.back.model_copy(update={"n_generated": 9})})
    assert other.hash != protocol.hash
    assert differences(protocol, other) == [f"back.n_generated: {protocol.back.n_generated} -> 9"]


def test_protocols_of_drawn_images_are_written_as_before() -> None:
    fields = {"extractor": "domain", "weights_sha256": "a", "torch_fidelity": "0.4", "dataset_digest": "d"}
    numbers = dict.fromkeys(("n_reference", "n_generated", "chunk", "kid_subsets", "kid_subset_size"), 8)
    rest: dict[str, Any] = {"resize": "none", "isc_splits": 1, "prc_neighborhood": 3}
    assert Protocol(**fields, **numbers, **rest).hash == "3f1c704ee5daefb3"


@pytest.mark.parametrize("kind", KINDS)
def test_the_page_and_the_snapshot_show_source_translation_and_target(made: dict[str, Made], kind: str) -> None:
    one = made[kind]
    scorer, checkpoint = one.scorer(), one.report.best.checkpoint
    seen: dict[int, Any] = {}
    scorer.score([checkpoint], [11], "one", seen)
    shown = scorer.exhibits(checkpoint, seen, 11)
    assert shown is not None and [name for name, _ in shown.translations] == [
        side.way.direction for side in scorer.sides
    ]
    for (_, picture), side in zip(shown.translations, scorer.sides, strict=True):
        sheet = np.array(Image.open(io.BytesIO(picture.data)))
        cells = sheet.reshape(3, 17, 12, 17).swapaxes(1, 2)[:, :, :16, :16]
        way = side.way
        assert way.partners is not None
        np.testing.assert_array_equal(cells[0], way.images(way.sources, "test")[:12, 0])
        np.testing.assert_array_equal(cells[2], way.images(way.partners, "test")[:12, 0])
        loaded = load_generator(scorer.file(checkpoint))
        sources = torch.from_numpy(np.array(way.images(way.sources, "test")[:12]))
        wanted = to_uint8(translate(loaded.gan, loaded.module, 11, range(12), sources, way.direction))
        np.testing.assert_array_equal(cells[1], wanted[:, 0])
    page = one.store.read_bytes(f"runs/{kind}/reports/{one.report.protocol_hash}.html").decode()
    assert "<h2>Translations</h2>" in page
    assert page.count('alt="translations') == len(scorer.sides)
    assert "Interpolations" not in page


def test_alarms_are_of_both_directions(made: dict[str, Made]) -> None:
    pairs, sides = (made[kind].report.diagnostics for kind in KINDS)
    assert pairs is not None and sides is not None
    assert {alarm.name for alarm in pairs.alarms} == {"duplicates", "missing_class", "memorised", "low_quality"}
    assert {alarm.name for alarm in sides.alarms} == {"duplicates", "memorised", "low_quality"}
    assert pairs.alarm("low_quality").raised and sides.alarm("low_quality").raised
    assert sides.alarm("low_quality").detail.startswith(("AtoB: ", "BtoA: "))
    assert pairs.generated == len(made["pairs"].dataset.column("source", "test")), "of one seed alone"


def test_what_makes_nan_has_no_scores(made: dict[str, Made]) -> None:
    one = made["sides"]
    scorer = one.scorer()
    broken = load_generator(scorer.file(one.checkpoints[0]))
    next(broken.module.parameters()).data.fill_(math.nan)  # of the first direction alone
    rows = scorer._measured([(lambda _: broken, one.checkpoints[0], 3, None)], "broken")
    of_directions = {name for name in rows[0].scores if name.endswith(("_AtoB", "_BtoA"))}
    assert all(math.isnan(value) for name, value in rows[0].scores.items() if name not in of_directions)
    assert math.isfinite(rows[0].scores["fid_domain_BtoA"]) and math.isnan(rows[0].scores["fid_domain_AtoB"])
    assert "fid_domain" in rows[0].scores


def test_a_snapshot_that_makes_nan_is_never_best(made: dict[str, Made]) -> None:
    """By a metric that only translations have, too."""
    fine = made["pairs"].report.snapshots[0]
    nan = dict.fromkeys(fine.scores, math.nan)
    broken = fine.model_copy(update={"scores": nan})
    assert process.best_snapshot([broken, fine], "l1") == fine
    with pytest.raises(WorkFailed, match="makes NaN"):
        process.best_snapshot([broken], "l1")
    with pytest.raises(InputError, match="label_accuracy_domain could not be measured"):
        process.best_snapshot([fine.model_copy(update={"scores": {"l1": 1.0}})], "label_accuracy_domain")


def test_several_seeds_of_the_same_images_tell_no_more_than_one(made: dict[str, Made]) -> None:
    one = made["sides"]
    alone, several = (
        one.scorer().score(one.checkpoints[:1], sample_seeds, "again")[0] for sample_seeds in ([1], [1, 2, 3])
    )
    assert several.by_seed["cycle_l1"] == [alone.scores["cycle_l1"]] * 3
    assert several.intervals["cycle_l1"] == pytest.approx(alone.intervals["cycle_l1"])
    low, high = several.intervals["cycle_l1"]
    halves = np.array(several.by_half["cycle_l1"])
    assert halves.mean() == pytest.approx(several.scores["cycle_l1"], rel=0.1)
    assert 0.5 < (high - low) / (2 * 2.1 * halves.std(ddof=1)) < 2


@pytest.mark.parametrize("kind", KINDS)
def test_the_floor_is_of_as_many_images(made: dict[str, Made], kind: str) -> None:
    few = made[kind].config.evaluate.model_copy(update={"num_samples": 40, "allow_few": True})
    one = made[kind]
    scorer = process.scorer_of(few, one.dataset.digest, one.store, one.settings)
    assert {control.name: control.n for control in scorer.controls}["real"] == 40
    assert scorer.protocol.n_generated == 40
    with pytest.raises(InputError, match="test images to translate; leave it out"):
        process.scorer_of(few.model_copy(update={"num_samples": 5000}), one.dataset.digest, one.store, one.settings)


@pytest.mark.parametrize(
    ("kind", "metric", "times"),
    [("pairs", "fid_domain", "pca_gaussian"), ("pairs", "l1", "real"), ("pairs", "l1", "inversion"),
     ("sides", "cycle_l1", "identity")],
)  # fmt: skip
def test_controls_that_are_not_there_are_no_measure(kind: str, metric: str, times: str) -> None:
    raw = (pairs_raw if kind == "pairs" else sides_raw)()
    raw["register"] = {"model": "x", "require": {metric: {"at_most": 1, "times": times}}}
    with pytest.raises(InputError, match=rf"{metric}.times: {times} has no {metric}"):
        load_config(raw)
    raw["register"]["require"] = {"fid_domain": {"at_most": 1, "times": "identity"}}
    load_config(raw)


def test_metrics_that_may_be_asked_for() -> None:
    def asked(raw: dict[str, Any], metric: str) -> str:
        return gate_metric(load_config(raw | {"register": {"model": "x", "metric": metric}}))

    for metric in ("l1", "psnr", "ssim", "lpips", "fid_domain", "label_accuracy_domain"):
        assert asked(pairs_raw(), metric) == metric
        assert asked(sides_raw(), f"{metric}_BtoA") == f"{metric}_BtoA"
        assert lower_is_better(metric) == lower_is_better(f"{metric}_BtoA") == (metric in ("l1", "lpips", "fid_domain"))
    assert asked(sides_raw(), "cycle_l1") == "cycle_l1" and lower_is_better("cycle_l1")
    for config in CONFIGS.values():
        assert gate_metric(config) == "fid_domain"
    for raw, metric in ((pairs_raw(), "cycle_l1"), (pairs_raw(), "l1_AtoB"), (tiny_raw(), "l1")):
        with pytest.raises(InputError, match=rf"register\.metric: '{metric}' is not measured"):
            asked(raw, metric)


def test_a_generator_that_draws_is_not_scored_here(made: dict[str, Made], tmp_path: Path) -> None:
    pairs, sides = made["pairs"], made["sides"]
    scorer = pairs.scorer()
    foreign = publish_checkpoints(pairs.store, sides.dataset, sides.config, tmp_path, 1, run_id="foreign")
    with pytest.raises(InputError, match=r"translates AtoB and BtoA, and data set .* is of AtoB"):
        scorer.score(foreign, [1], "one")


def test_score_takes_a_folder_of_translations_and_the_targets_of_pairs(made: dict[str, Made], tmp_path: Path) -> None:
    one = made["pairs"]
    (tmp_path / "targets").mkdir()
    for number, image in enumerate(one.dataset.column("target", "test")):
        Image.fromarray(image[0]).save(tmp_path / "targets" / f"{number:04d}.png")
    digest = one.dataset.digest[:12]
    scored = score_images(digest, str(tmp_path / "targets"), one.settings, extractor="domain")
    floor = one.report.control("real").scores["fid_domain"]
    assert scored.scores["fid_domain"] == pytest.approx(floor, rel=1e-4)
    weights = one.store.fetch(one.checkpoints[0].prefix, ["generator.safetensors"])["generator.safetensors"]
    with pytest.raises(InputError, match="translates images; translate some with `ganpipe generate --input`"):
        score_images(digest, str(weights), one.settings, extractor="domain")
    other = made["sides"]
    with pytest.raises(InputError, match="this data set has two sides"):
        score_images(other.dataset.digest[:12], str(tmp_path / "targets"), other.settings, extractor="domain")


def test_a_score_sheet_for_the_gate(made: dict[str, Made]) -> None:
    one = made["sides"]
    sheet = process.score_checkpoints(one.config, one.dataset.digest, one.checkpoints, [5, 6], one.settings)
    first: SnapshotScores = sheet.snapshots[0]
    assert sheet.protocol_hash == one.report.protocol_hash and len(sheet.snapshots) == 2
    assert first.by_seed["fid_domain_AtoB"][0] == pytest.approx(first.by_seed["fid_domain_AtoB"][1])
