"""One store and MLflow on SQLite for the session (making its tables takes seconds); a product for each test."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import torch

from ganpipe import register, sample
from ganpipe.config import RunConfig, config_digest, load_config
from ganpipe.gans import GANS
from ganpipe.refs import (
    CheckpointRef,
    ControlScores,
    DatasetRef,
    EvalReport,
    ModelRef,
    ScoreSheet,
    SnapshotScores,
)
from ganpipe.runs import RunRecord, begin_run, checkpoint_name, new_run_id
from ganpipe.settings import Settings
from ganpipe.spec import Column
from ganpipe.storage import Store, open_store

SPEC = {"image": Column(kind="image", dtype="uint8", shape=(1, 8, 8), range=(0, 255), shards=())}
DATASET = DatasetRef(digest="d" * 64, rows={"train": 100, "test": 20, "extractor": 10})
CONTROLS = [
    ControlScores(name="real", n=20, scores={"fid_domain": 1.0, "is_domain": 9.0}),
    ControlScores(name="pca_gaussian", n=20, scores={"fid_domain": 16.0, "is_domain": 4.0}),
]


def snapshot(checkpoint: CheckpointRef, fids: list[float], seeds: list[int] | None = None) -> SnapshotScores:
    by_seed = {"fid_domain": fids, "is_domain": [10 - fid / 10 for fid in fids]}
    means = {name: sum(values) / len(values) for name, values in by_seed.items()}
    return SnapshotScores(checkpoint=checkpoint, scores=means, by_seed=by_seed, seeds=seeds or list(range(len(fids))))


@dataclass
class Factory:
    """Runs, checkpoints and versions of one store."""

    settings: Settings
    product: str
    runs: int = 0

    @property
    def store(self) -> Store:
        return open_store(self.settings.store)

    def config(self, **registration: object) -> RunConfig:
        return load_config({
            "name": self.product,
            "prepare": {"source": {"name": "digits"}, "resolution": 8, "channels": 1},
            "gan": {"name": "classic", "latent_dim": 4, "network": {"name": "mlp", "hidden_dim": 8}},
            "train": {"seed": 1, "stop": {"kimg": 1}},
            "register": {"model": self.product, **registration},
        })  # fmt: skip

    def checkpoint(self, config: RunConfig) -> CheckpointRef:
        """A fresh run with one published checkpoint of random weights."""
        self.runs += 1
        started = datetime(2026, 11, 1, tzinfo=UTC) + timedelta(seconds=self.runs)
        run_id = new_run_id(config, DATASET, started)
        record = RunRecord(
            run_id=run_id, dataset=DATASET, created=started, config_digest=config_digest(config),
            git={"sha": "abc123", "dirty": True}, flow_run_id="flow-1",
        )  # fmt: skip
        begin_run(self.store, record, config)
        recipe = GANS["classic"](config.gan)
        with torch.random.fork_rng():
            torch.manual_seed(self.runs)
            module = recipe.build_networks(SPEC).generator.eval()
        images_seen = 1000 * self.runs
        prefix = f"runs/{run_id}/checkpoints/{checkpoint_name(images_seen)}"
        with tempfile.TemporaryDirectory() as folder:
            sample.save_generator(Path(folder) / "generator.safetensors", recipe, module, SPEC, run_id, images_seen)
            manifest = self.store.publish(prefix, Path(folder), {"run_id": run_id, "images_seen": images_seen})
        sha256 = manifest["files"]["generator.safetensors"]["sha256"]
        return CheckpointRef(run_id=run_id, images_seen=images_seen, prefix=prefix, generator_sha256=sha256)

    def report(self, checkpoint: CheckpointRef, fid: float, protocol_hash: str = "p1") -> EvalReport:
        scores = snapshot(checkpoint, [fid, fid])
        return EvalReport(
            run_id=checkpoint.run_id, dataset_digest=DATASET.digest, protocol={"n": 20}, protocol_hash=protocol_hash,
            metric="fid_domain", snapshots=[scores], best=scores, controls=CONTROLS,
        )  # fmt: skip

    def version(self, fid: float = 5.0, protocol_hash: str = "p1", **registration: object) -> ModelRef:
        """Another registered version."""
        config = self.config(**registration)
        return register.run(config, self.report(self.checkpoint(config), fid, protocol_hash), self.settings)


@pytest.fixture(scope="session")
def shared_settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    home = tmp_path_factory.mktemp("register")
    return Settings(home=home, store=f"file://{home}/store", tracking_uri=f"sqlite:///{home}/mlflow.db")


@pytest.fixture
def factory(shared_settings: Settings, request: pytest.FixtureRequest) -> Factory:
    name = "".join(letter if letter.isalnum() else "-" for letter in request.node.name.lower()).strip("-")
    return Factory(shared_settings, name)


ScoreTable = Mapping[str, list[float]]


@pytest.fixture
def scores() -> Callable[[ScoreTable], register.promotion.Score]:
    """A scoring function that answers from a table: version's run id -> Frechet distance for each seed."""

    def make(table: ScoreTable) -> register.promotion.Score:
        def score(
            config: RunConfig,
            dataset_digest: str,
            checkpoints: list[CheckpointRef],
            seeds: list[int],
            settings: Settings,
        ) -> ScoreSheet:
            snapshots = [snapshot(ref, table[ref.run_id][: len(seeds)], seeds) for ref in checkpoints]
            return ScoreSheet(
                protocol={"n": 20}, protocol_hash="p1", metric="fid_domain", snapshots=snapshots, controls=CONTROLS
            )

        return score

    return make
