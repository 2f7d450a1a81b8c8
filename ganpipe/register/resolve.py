"""From the name of a model to its weights."""

from __future__ import annotations

import math
from pathlib import Path

from ..errors import InputError
from ..evaluate.metrics import default_metric
from ..refs import CheckpointRef, EvalReport, ModelRef
from ..settings import Settings
from ..storage import Store, open_store
from . import audit
from .promotion import restore_alias

SCHEME = "models:/"
WEIGHTS = "generator.safetensors"


def resolve(model: str, settings: Settings) -> Path:
    """A local, verified `generator.safetensors`.

    `model` is as for `resolve_checkpoint`, or a .safetensors file. Raises InputError listing what there is when nothing
    answers to the name.
    """
    if is_file(model):
        path = Path(model).expanduser()
        if not path.is_file():
            raise InputError(f"{model}: there is no such file")
        return path.resolve()
    store = open_store(settings.store)
    return fetched_weights(store, resolve_checkpoint(model, store, settings)[0])


def is_file(model: str) -> bool:
    """Whether the name is that of a weights file."""
    return not model.startswith(SCHEME) and (model.endswith(".safetensors") or Path(model).is_file())


def resolve_checkpoint(model: str, store: Store, settings: Settings) -> tuple[CheckpointRef, ModelRef | None]:
    """The checkpoint that a name means, and the registered version if it means one.

    `model` is `models:/<product>@champion` (or `@previous`, `@candidate`: the newest version), `models:/<product>/3`,
    or the id of a run (its best checkpoint when it was evaluated, its newest otherwise). Raises InputError.
    """
    if model.startswith(SCHEME):
        ref = _registered(model, store, settings)
        return ref.checkpoint, ref
    return _best_of_run(model, store), None


def _registered(model: str, store: Store, settings: Settings) -> ModelRef:
    name = model.removeprefix(SCHEME).strip("/")
    product, at, alias = name.partition("@")
    if not at:
        product, _, version = name.partition("/")
        if not version:
            raise InputError(f"{model}: write models:/<product>@champion or models:/<product>/<version>")
        return audit.read_version(store, product, version)
    versions = audit.read_versions(store, product)
    restore_alias(product, store, settings)
    pointer, _ = audit.read_pointer(store, product)
    known = {"champion": pointer.champion, "previous": pointer.previous, "candidate": versions[-1]}
    if alias not in known:
        raise InputError(f"{model}: there is no alias {alias!r}; there is {', '.join(known)}")
    ref = known[alias]
    if ref is None:
        there = ", ".join(f"{SCHEME}{product}/{version.version}" for version in versions)
        raise InputError(f"{model}: {product} has no {alias} yet; there is {there}")
    return ref


def _best_of_run(run_id: str, store: Store) -> CheckpointRef:
    from ..runs import checkpoints, open_run, reports, run_ids

    if run_id not in run_ids(store):
        raise InputError(
            f"{run_id!r} is neither models:/<product>@<alias>, a .safetensors file, nor a run in {store.uri}; "
            "`ganpipe runs` lists the runs"
        )
    open_run(store, run_id)
    there = checkpoints(store, run_id)
    if not there:
        raise InputError(f"run {run_id} has no complete checkpoint yet")
    known = {ref.prefix for ref in there}
    sound = [report for report in reports(store, run_id) if report.best.checkpoint.prefix in known and _finite(report)]
    return sound[-1].best.checkpoint if sound else there[-1]


def _finite(report: EvalReport) -> bool:
    return math.isfinite(report.best.scores[default_metric(report.best.scores)])


def fetched_weights(store: Store, checkpoint: CheckpointRef) -> Path:
    """The checkpoint's `generator.safetensors`, local and verified. Raises InputError when it was removed."""
    try:
        return store.fetch(checkpoint.prefix, [WEIGHTS])[WEIGHTS]
    except FileNotFoundError as error:
        raise InputError(f"{store.uri} has no weights at {checkpoint.prefix} any more: {error}") from error
