"""What a report shows: the right images, the right neighbours, honest interpolations; and all of it in the store."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import torch
from evaluate_data import publish_checkpoints, run_config
from PIL import Image

from ganpipe import pull, register
from ganpipe.config import RunConfig
from ganpipe.evaluate import exhibits, process
from ganpipe.evaluate.fidelity import Features, extract, rows_of
from ganpipe.evaluate.scores import Reference
from ganpipe.prepare.manifest import Dataset
from ganpipe.ranks import Ranks
from ganpipe.refs import Decision
from ganpipe.register import card, pages, registry
from ganpipe.sample import LoadedGenerator, draw_images, load_generator, to_uint8
from ganpipe.settings import Settings
from ganpipe.storage import Store, open_store

CONFIG = run_config("gan.latent_components=3", num_samples=80)


@pytest.fixture(scope="module")
def made(
    shared: tuple[Settings, Dataset], tmp_path_factory: pytest.TempPathFactory
) -> tuple[process.Scorer, LoadedGenerator]:
    settings, dataset = shared
    store = open_store(settings.store)
    (checkpoint,) = publish_checkpoints(
        store, dataset, CONFIG, tmp_path_factory.mktemp("shown"), 1, run_id="shown-run"
    )  # fmt: skip
    scorer = process.Scorer.prepare(CONFIG.evaluate, dataset.digest, store, settings)
    return scorer, load_generator(scorer.file(checkpoint))


def pixels(picture: exhibits.Picture) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(picture.data)))


def test_copies_are_shown_beside_what_they_copy(made: tuple[process.Scorer, LoadedGenerator]) -> None:
    scorer, loaded = made
    dataset, reference = scorer.dataset, scorer.reference
    train = dataset.column("image", "train")
    rows = [5, 700, 9, 40, 41, 42, 43, 44, 45, 46]
    seen = extract(scorer.extractor, len(rows), rows_of(np.array(train[rows])), Ranks(), "copies")
    noisy = seen.features_ND + torch.linspace(1, 0, len(rows))[:, None] * 0.1
    shown = exhibits.make_exhibits(
        loaded, Features(noisy, seen.logits_NK), reference, dataset, scorer.protocol, seed=3
    )  # fmt: skip
    assert [pair.number for pair in shown.first] == list(range(8))
    assert [pair.number for pair in shown.closest] == [9, 8, 7, 6, 5, 4, 3, 2]
    samples = draw_images(loaded.gan, loaded.module, 3, 10).numpy()
    for pair in [*shown.first, *shown.closest]:
        assert (pixels(pair.nearest) == train[rows[pair.number]][0]).all()
        assert (pixels(pair.sample) == samples[pair.number, 0]).all()
        exact = np.linalg.norm(reference.features_ND.double() - noisy[pair.number].double(), axis=1).min()
        assert pair.distance == pytest.approx(exact, rel=1e-4, abs=1e-5)
    assert shown.usual_distance > shown.closest[0].distance and shown.searched == len(rows)
    assert shown.samples is not None and shown.real is not None
    cell = pixels(shown.real)[:16, :16]
    assert (cell == dataset.column("image", "test")[0][0]).all()


def test_modes_are_counted_by_the_nearest() -> None:
    distances_NM = torch.tensor([[0.1, 9, 9], [9, 0.2, 9], [7, 8, 9], [9, 9, 0.3]])
    real = Features(torch.zeros(4, 2), distances_NM)
    reference = Reference(real.features_ND, real.logits_NK, torch.zeros(4, 2), np.zeros(2), np.eye(2))
    shares = exhibits.mode_shares(Features(torch.zeros(2, 2), distances_NM[:2]), reference)
    assert [(share.name, share.real, share.generated) for share in shares] == [
        ("mode 1", 0.5, 0.5), ("mode 2", 0.25, 0.5), ("mode 3", 0.25, 0),
    ]  # fmt: skip


def test_interpolations_begin_and_end_at_samples(made: tuple[process.Scorer, LoadedGenerator]) -> None:
    _, loaded = made
    found = exhibits.interpolations(loaded, 3, torch.device("cpu")).unflatten(0, (exhibits.PATHS, exhibits.STEPS))
    wanted = draw_images(loaded.gan, loaded.module, 3, 2 * exhibits.PATHS)
    starts = to_uint8(found[:, 0]).int()
    assert (starts - wanted[::2].int()).abs().max() <= 1


def test_frames_are_what_a_seed_draws_and_fit_the_budget(
    made: tuple[process.Scorer, LoadedGenerator], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, loaded = made
    frames = exhibits.browsed(loaded, torch.device("cpu"))
    whole = frames.truncations.index(1.0)
    sheet = pixels(frames.pictures[2][whole])
    wanted = draw_images(loaded.gan, loaded.module, frames.seeds[2], frames.count).numpy()
    assert (sheet[:16, 17:33] == wanted[1, 0]).all() and (sheet[17:33, :16] == wanted[6, 0]).all()
    at_mean = pixels(frames.pictures[0][0])
    cells = {at_mean[17 * row : 17 * row + 16, 17 * column : 17 * column + 16].tobytes()
             for row in range(6) for column in range(6)}  # fmt: skip
    assert len(cells) == 3, "at truncation 0 there is one image for each piece of the prior"
    monkeypatch.setattr(exhibits, "BUDGET", 1000)
    small = exhibits.browsed(loaded, torch.device("cpu")).pictures[0][0]
    assert small.kind == "webp" and pixels(small).shape[:2] == (small.height, small.width)


def test_pages_and_a_model_card_from_one_end_to_the_other(
    tiny: RunConfig, settings: Settings, store: Store, digits: Dataset, tmp_path: Path
) -> None:
    config = tiny.model_copy(update={"evaluate": tiny.evaluate.model_copy(update={"score_seeds": 2})})
    publish_checkpoints(store, digits, config, tmp_path, 2)
    report = process.evaluate_run(config, "tiny-run", settings)
    reports = "runs/tiny-run/reports"
    text = store.read_bytes(f"{reports}/{report.protocol_hash}.html").decode()
    for name, value in report.best.scores.items():
        assert name in text and f"{value:.4g}" in text
    assert f'href="{report.protocol_hash}-latents.html"' in text and "data:image/png" in text and "<h2>Classes" in text
    assert "no alarm" in text or "alarm:" in text or "alarms:" in text
    assert b'"frames"' in store.read_bytes(f"{reports}/{report.protocol_hash}-latents.html")

    tracked = settings.model_copy(update={"tracking_uri": f"sqlite:///{tmp_path}/mlflow.db"})
    ref = register.run(config, report, tracked)
    written = store.read_bytes(card.key(ref)).decode()
    assert "had not been asked" in written and "# tiny version 1" in written
    for value in report.best.scores.values():
        assert f"{value:.4g}" in written
    decision = Decision(
        product="tiny", promoted=False, reason="refused: <b>far</b> too grey", candidate=ref, champion=None,
        metric="fid_domain", protocol_hash=report.protocol_hash, candidate_scores=report.best, champion_scores=None,
        controls=report.controls, checks=[{"name": "finite", "passed": True, "detail": "all are"}],
        decided=datetime.now(UTC), by="a@b", where="test",
    )  # fmt: skip
    pages.update("tiny", store, tracked, decision)
    client = registry.client_of(tracked)
    in_model = Path(client.get_logged_model(client.get_model_version("tiny", "1").source[8:]).artifact_location[7:])
    in_run = Path(client.download_artifacts(ref.tracking_run_id, "reports/model-card-v1.md", str(tmp_path)))
    decided = store.read_bytes(card.key(ref)).decode()
    assert "**not promoted**" in decided and "passed finite: all are" in decided
    assert decided == (in_model / card.FILE).read_text() == in_run.read_text()
    assert "The report" in client.get_model_version("tiny", "1").description
    files = pull.pull("models:/tiny/1", tmp_path / "pulled", tracked)["files"]
    assert {"model-card.md", "report.html", "report.json"} <= set(files)
