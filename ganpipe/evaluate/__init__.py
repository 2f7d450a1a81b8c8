"""Stage 3: from checkpoints to scores, each with its protocol and its controls.

protocol.py says what a score depends on; known.py names the extractors, weights.py finds their files, extractors.py
makes them; domain.py and triples.py train those of the data itself, and kept.py keeps them; fidelity.py collects
features; scores.py makes numbers of them (frechet.py, manifold.py, modes.py, by_class.py), resampling.py their
intervals, diagnostics.py alarms; controls.py measures what is no GAN; process.py is the child process that does it;
exhibits.py makes what there is to see, page.py a page of it, and report.py keeps the result. images.py and scoring.py
are `ganpipe score`.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from ..config import RunConfig, config_to_json
from ..errors import InputError
from ..launch import run_child
from ..refs import CheckpointRef, EvalReport, ScoreSheet
from ..settings import Settings
from ..storage import open_store
from . import known
from .metrics import gate_metric
from .protocol import seeds

__all__ = ["RunRequest", "ScoreRequest", "check", "run", "score", "seeds"]

MODULE = "ganpipe.evaluate.process"


class RunRequest(BaseModel):
    """Evaluate a run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    job: Literal["run"] = "run"
    config: dict[str, Any]
    """The resolved RunConfig as JSON."""
    run_id: str


class ScoreRequest(BaseModel):
    """Score checkpoints beside one another."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    job: Literal["score"] = "score"
    config: dict[str, Any]
    """The resolved RunConfig as JSON."""
    dataset_digest: str
    checkpoints: list[CheckpointRef]
    seeds: list[int]


def check(config: RunConfig, settings: Settings) -> None:
    """What would stop an evaluation, told before a training. Raises InputError when weights cannot be had."""
    if config.evaluate.extractor not in known.OF_DATA:
        from .extractors import find_weights

        find_weights(config.evaluate.extractor, None, open_store(settings.store), settings)
    if "lpips" in (config.registration.metric, *config.registration.require):
        from .partners import LPIPS_FILES, lpips_is_there

        if not lpips_is_there():
            raise InputError(
                f"register: lpips is asked for, and its weights ({', '.join(LPIPS_FILES)}) are not in torch's cache, "
                "~/.cache/torch/hub/checkpoints; put them there, or take ssim"
            )


def run(config: RunConfig, run_id: str, settings: Settings) -> EvalReport:
    """Score all snapshots of a run, and the best again on other seeds, in a child process.

    The report and its picture are kept under `runs/<run id>/reports/`.
    Raises InputError for a run without checkpoints, an unknown metric, too few images or missing weights, WorkFailed
    when no snapshot can be scored, Interrupted when it was stopped.
    """
    gate_metric(config)
    return EvalReport.model_validate(
        run_child(MODULE, RunRequest(config=config_to_json(config), run_id=run_id), settings)
    )


def score(
    config: RunConfig, dataset_digest: str, checkpoints: list[CheckpointRef], seeds: list[int], settings: Settings
) -> ScoreSheet:
    """Score checkpoints on the same sample seeds under today's protocol, in one child process.

    Snapshots that cannot be sampled from have NaN scores. Raises as `run` does.
    """
    gate_metric(config)
    if not checkpoints or not seeds:
        raise InputError("nothing to score: give at least one checkpoint and one seed")
    request = ScoreRequest(
        config=config_to_json(config), dataset_digest=dataset_digest, checkpoints=checkpoints, seeds=seeds
    )
    return ScoreSheet.model_validate(run_child(MODULE, request, settings))
