"""A decision on MLflow's pages: the run's columns and note, the version's and the product's descriptions."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from .. import notes
from ..refs import Decision
from ..settings import Settings
from ..storage import Store
from . import audit, card
from .registry import client_of

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)


def update(product: str, store: Store, settings: Settings, decision: Decision | None = None) -> None:
    """Write what is in production now, and what was decided on a version.

    A failure is a warning: the audit log has it all.
    """
    if not settings.tracking_on:
        return
    from ..tracking import mlflow_errors, short_timeouts

    try:
        with short_timeouts():
            client = client_of(settings)
            experiment = client.get_experiment_by_name(product)
            experiment_id = str(experiment.experiment_id) if experiment else ""
            _of_product(product, store, client, experiment_id)
            if decision is not None:
                _of_decision(decision, store, client, experiment_id)
    except mlflow_errors() as error:
        log.warning("what was decided on %s is not on MLflow's pages at %s: %s", product, settings.tracking_uri, error)


def _of_product(product: str, store: Store, client: MlflowClient, experiment_id: str) -> None:
    if notes.may_replace(client.get_registered_model(product).description):
        pointer, _ = audit.read_pointer(store, product)
        text = notes.of_product(product, pointer.champion, pointer.previous, experiment_id)
        client.update_registered_model(product, text)


def _of_decision(decision: Decision, store: Store, client: MlflowClient, experiment_id: str) -> None:
    from ..runs import open_run

    candidate, short = decision.candidate, notes.in_short(decision)
    report = audit.read_report(store, candidate)
    if decision.promoted or decision.checks:  # not that the champion is the champion already
        card.keep(candidate, report, decision, store, client)
    version = client.get_model_version(candidate.product, candidate.version)
    client.set_model_version_tag(candidate.product, candidate.version, "ganpipe.decision", short)
    if notes.may_replace(version.description):
        text = notes.of_version(report, candidate, decision, experiment_id)
        client.update_model_version(candidate.product, candidate.version, text)
    run = client.get_run(candidate.tracking_run_id)
    for name, value in (("ganpipe.decision", short), ("ganpipe.version", candidate.version)):
        client.set_tag(run.info.run_id, name, value)
    if notes.may_replace(run.data.tags.get(notes.NOTE)):
        record, config = open_run(store, candidate.checkpoint.run_id)
        text = notes.of_run(record, config, report, decision, experiment_id)
        client.set_tag(run.info.run_id, notes.NOTE, text)
