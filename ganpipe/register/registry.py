"""MLflow's side of a product: versions, their tags and scores, and the aliases that mirror the store's pointer.

Everything goes through a client with an explicit URI, save the one call that heeds the global one; no run is active.
"""

from __future__ import annotations

import json
import logging
import math
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from .. import notes
from ..config import RunConfig, config_digest
from ..errors import InputError, WorkFailed
from ..refs import EvalReport, ModelRef
from ..settings import Settings
from ..storage import Store
from . import audit, card, package

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

    from ..runs import RunRecord

log = logging.getLogger(__name__)

CANDIDATE, CHAMPION, PREVIOUS = "candidate", "champion", "previous"


def client_of(settings: Settings) -> MlflowClient:
    """A client of the settings' MLflow. Raises InputError when tracking is off."""
    if not settings.tracking_on:
        raise InputError(
            "models are registered in MLflow, but GANPIPE_TRACKING_URI is off; unset it (SQLite under GANPIPE_HOME) "
            "or set it to a server's address"
        )
    from mlflow import MlflowClient

    uri = settings.prepared_tracking_uri()
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


@contextmanager
def _explained(settings: Settings, what: str) -> Iterator[None]:
    from ..tracking import mlflow_errors

    try:
        yield
    except mlflow_errors() as error:
        raise WorkFailed(f"MLflow at {settings.tracking_uri} could not {what}: {error}") from error


# --- registering -------------------------------------------------------------------------------------------------


def register(config: RunConfig, report: EvalReport, store: Store, settings: Settings) -> ModelRef:
    """The report's best checkpoint as a version of `register.model`, alias `candidate`; the existing one, if any.

    Raises WorkFailed when MLflow cannot, or has lost versions that the store knows.
    """
    client = client_of(settings)
    product = config.registration.model
    with _explained(settings, f"register a version of {product}"):
        _ensure_product(client, product)
        versions = list(client.search_model_versions(f"name = '{product}'"))
        ref = _existing(versions, report, store)
        if ref is None:
            _refuse_when_lost(versions, product, store, settings)
            ref = _new_version(client, config, report, store, settings)
        if int(ref.version) >= max((int(version.version) for version in versions), default=0):
            client.set_registered_model_alias(product, CANDIDATE, ref.version)
    return ref


def _ensure_product(client: MlflowClient, product: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(product)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _existing(versions: list[ModelVersion], report: EvalReport, store: Store) -> ModelRef | None:
    """The version made of this very checkpoint. Its record is written again if a crash had left it out."""
    best = report.best.checkpoint
    for version in versions:
        tags = version.tags
        if (
            tags.get("ganpipe.checkpoint") != best.prefix
            or tags.get("ganpipe.generator_sha256") != best.generator_sha256
        ):
            continue
        if not store.exists(f"models/{version.name}/versions/{version.version}.json"):
            audit.write_version(store, _ref(version, report), report)
        return audit.read_version(store, version.name, str(version.version))
    return None


def _ref(version: ModelVersion, report: EvalReport) -> ModelRef:
    return ModelRef(
        product=version.name,
        version=str(version.version),
        checkpoint=report.best.checkpoint,
        dataset_digest=report.dataset_digest,
        tracking_run_id=version.run_id or "",
        config_digest=version.tags["ganpipe.config_digest"],
        created=datetime.fromtimestamp(version.creation_timestamp / 1000, UTC),
    )


def _refuse_when_lost(versions: list[ModelVersion], product: str, store: Store, settings: Settings) -> None:
    """A fresh MLflow counts from 1 again; its numbers must not stand for two models."""
    if product not in audit.products(store):
        return
    known = {str(version.version) for version in versions}
    lost = [ref.version for ref in audit.read_versions(store, product) if ref.version not in known]
    if lost:
        raise WorkFailed(
            f"MLflow at {settings.tracking_uri} does not know version {', '.join(lost)} of {product}, but {store.uri} "
            "does: restore MLflow's database, or register under another name (register.model)"
        )


def _new_version(
    client: MlflowClient, config: RunConfig, report: EvalReport, store: Store, settings: Settings
) -> ModelRef:
    import mlflow
    from mlflow.entities import LoggedModelOutput, Metric
    from mlflow.models import Model

    from ..runs import open_run
    from ..tracking import mirror_run

    product, best = config.registration.model, report.best
    weights = store.fetch(best.checkpoint.prefix, ["generator.safetensors"])["generator.safetensors"]
    record, _ = open_run(store, report.run_id)
    tags = _tags(config, report, record)
    run_id = mirror_run(store, report.run_id, settings)
    experiment_id = client.get_run(run_id).info.experiment_id

    logged = client.create_logged_model(experiment_id, product, source_run_id=run_id, tags=tags, model_type="generator")
    model = Model(artifact_path=logged.artifact_location, run_id=run_id, model_id=logged.model_id)
    try:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / "model"
            package.save(folder, weights, model, metadata=tags)
            (folder / card.FILE).write_text(card.card(config, record, report), encoding="utf-8")
            client.log_model_artifacts(logged.model_id, str(folder))
    except BaseException:
        client.finalize_logged_model(logged.model_id, "FAILED")
        raise
    client.finalize_logged_model(logged.model_id, "READY")

    step, now = best.checkpoint.images_seen, int(time.time() * 1000)
    client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=step)])
    finite = {name: value for name, value in best.scores.items() if math.isfinite(value)}
    of_model = {"model_id": logged.model_id, "run_id": run_id}
    client.log_batch(run_id, metrics=[Metric(name, value, now, step, **of_model) for name, value in finite.items()])
    # mlflow.register_model does the same, and prints. A models:/ source is looked up under the global tracking URI,
    # whatever a client's own is.
    mlflow.set_tracking_uri(settings.tracking_uri)
    version = client.create_model_version(product, logged.model_uri, tags=tags, model_id=logged.model_id)
    versions = [{"name": product, "version": version.version}]
    client.set_logged_model_tags(logged.model_id, {"mlflow.modelVersions": json.dumps(versions)})
    ref = _ref(version, report)
    client.update_model_version(product, version.version, notes.of_version(report, ref, None, experiment_id))
    card.keep(ref, report, None, store, client)
    audit.write_version(store, ref, report)
    log.info("registered %s version %s: %s at %d images", product, ref.version, report.run_id, step)
    return ref


def _tags(config: RunConfig, report: EvalReport, record: RunRecord) -> dict[str, str]:
    """What a version is made of."""
    best = report.best.checkpoint
    tags = {
        "run_id": report.run_id,
        "checkpoint": best.prefix,
        "generator_sha256": best.generator_sha256,
        "images_seen": best.images_seen,
        "config_digest": config_digest(config),
        "dataset_digest": report.dataset_digest,
        "protocol_hash": report.protocol_hash,
        "git_sha": record.git.get("sha"),
        "git_dirty": str(record.git["dirty"]).lower() if "dirty" in record.git else None,
        "flow_run_id": record.flow_run_id,
    }
    return {f"ganpipe.{name}": str(value) for name, value in tags.items() if value is not None}


# --- aliases -----------------------------------------------------------------------------------------------------


def aliases(product: str, settings: Settings) -> dict[str, str] | None:
    """alias -> version; None when MLflow is off, is out of reach, or does not know the product (with a warning)."""
    if not settings.tracking_on:
        return None
    from ..tracking import mlflow_errors, short_timeouts

    try:
        with short_timeouts():
            found = client_of(settings).get_registered_model(product).aliases
    except mlflow_errors() as error:
        log.warning("MLflow at %s cannot tell the aliases of %s: %s", settings.tracking_uri, product, error)
        return None
    return {alias: str(version) for alias, version in found.items()}


def mirror(product: str, store: Store, settings: Settings) -> None:
    """Make the aliases champion and previous those of the store's pointer.

    A failure is a warning: the pointer decides, and the next command mirrors it.
    """
    if not settings.tracking_on:
        return
    from ..tracking import mlflow_errors, short_timeouts

    try:
        with short_timeouts():
            _mirror(product, store, client_of(settings))
    except mlflow_errors() as error:
        log.warning(
            "the aliases of %s in MLflow at %s are behind the store; the next command tries again: %s",
            product,
            settings.tracking_uri,
            error,
        )


def _mirror(product: str, store: Store, client: MlflowClient) -> None:
    mirrored: bytes | None = b""
    pointer, data = audit.read_pointer(store, product)
    while mirrored != data:  # it may be moved meanwhile
        there = client.get_registered_model(product).aliases
        for alias, ref in ((CHAMPION, pointer.champion), (PREVIOUS, pointer.previous)):
            if ref is None and alias in there:
                client.delete_registered_model_alias(product, alias)
            elif ref is not None and str(there.get(alias)) != ref.version:
                client.set_registered_model_alias(product, alias, ref.version)
        mirrored = data
        pointer, data = audit.read_pointer(store, product)
