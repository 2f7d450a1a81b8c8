"""Who is in production: the gate's question asked, its answer carried out, and taken back."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime

from ..config import RunConfig
from ..errors import InputError, WorkFailed
from ..evaluate.metrics import lower_is_better
from ..refs import CheckpointRef, Decision, EvalReport, ModelRef, ScoreSheet
from ..settings import Settings
from ..storage import Conflict, Store, open_store
from . import audit, gate, pages, registry
from .audit import AuditRecord, Pointer

log = logging.getLogger(__name__)

Score = Callable[[RunConfig, str, list[CheckpointRef], list[int], Settings], ScoreSheet]
"""`evaluate.score`: (config, dataset digest, checkpoints, seeds, settings) -> their scores under one protocol."""

MIN_SEEDS = 2
TRIES = 10


def check(config: RunConfig, settings: Settings) -> None:
    """What would keep the gate from comparing this run with the champion, told before a training.

    Raises InputError when the champion of `register.model` draws something else.
    """
    from ..runs import open_run

    product, store = config.registration.model, open_store(settings.store)
    champion = audit.read_pointer(store, product)[0].champion
    if champion is None:
        return
    try:
        theirs = open_run(store, champion.checkpoint.run_id)[1].prepare
    except InputError:
        return  # its run was cleared away; its weights may do, and the gate will see
    ours = config.prepare
    if ours.described() != theirs.described():
        raise InputError(
            f"register.model {product} has a champion, version {champion.version}, of {theirs.described()}, and "
            f"this run makes {ours.described()}: the gate could never compare them; give this run a register.model of "
            "its own"
        )


def promote(
    product: str,
    settings: Settings,
    *,
    version: str | None = None,
    adopt: bool = False,
    where: str = "ganpipe promote",
    score: Score | None = None,
) -> Decision:
    """Ask the gate whether a version becomes champion, and make it so.

    Without `version` the candidate is `best_comparable`. It and the champion are scored afresh by `score` (default
    `evaluate.score`) on common seeds, two at least, under the candidate's configuration. `adopt` takes the version that
    somebody gave the alias `champion` by hand in MLflow instead, without asking the gate. Every answer leaves an audit
    record.

    Raises InputError for an unknown product or version, WorkFailed when other decisions keep overtaking this one.
    """
    store = open_store(settings.store)
    audit.read_versions(store, product)
    if adopt:
        return _adopt(product, store, settings, where)
    restore_alias(product, store, settings)
    for _ in range(TRIES):
        pointer, expected = audit.read_pointer(store, product)
        candidate = audit.read_version(store, product, version) if version else best_comparable(product, store, pointer)
        decision = _decide(candidate, pointer.champion, store, settings, where, score)
        try:
            _carry_out(decision, pointer, expected, store)
        except Conflict:
            log.warning("another decision on %s was first; asking again against the new champion", product)
            continue
        registry.mirror(product, store, settings)
        pages.update(product, store, settings, decision)
        return decision
    raise WorkFailed(f"{product}: other decisions overtook this one {TRIES} times; run ganpipe promote again")


def best_comparable(product: str, store: Store, pointer: Pointer) -> ModelRef:
    """The candidate when none is named.

    Of the versions registered after the champion, save the one last taken out of production: the one with the best
    report among those scored under the newest one's protocol and on its seeds, the newer one of equals. The newest
    version when none is left.
    """
    versions = audit.read_versions(store, product)
    ruled_out = {ref.version for ref in (pointer.champion, pointer.previous) if ref is not None}
    oldest = int(pointer.champion.version) if pointer.champion else 0
    fresh = [ref for ref in versions if int(ref.version) > oldest and ref.version not in ruled_out]
    if not fresh:
        return versions[-1]
    reports = {ref.version: audit.read_report(store, ref) for ref in fresh}
    newest = reports[fresh[-1].version]
    metric = newest.metric
    sign = 1 if lower_is_better(metric) else -1

    def rank(ref: ModelRef) -> float:
        value = sign * reports[ref.version].best.scores.get(metric, float("nan"))
        return value if value == value else float("inf")

    def comparable(report: EvalReport) -> bool:
        return (report.protocol_hash, report.best.seeds) == (newest.protocol_hash, newest.best.seeds)

    return min((ref for ref in reversed(fresh) if comparable(reports[ref.version])), key=rank)


def _decide(
    candidate: ModelRef, champion: ModelRef | None, store: Store, settings: Settings, where: str, score: Score | None
) -> Decision:
    """Score both on common seeds and ask the gate."""
    from ..runs import open_run
    from ..seeds import derive_seed

    if champion is not None and champion.checkpoint == candidate.checkpoint:
        return _unscored(candidate, champion, False, f"version {candidate.version} is the champion already", where)
    if score is None:
        from .. import evaluate

        score = evaluate.score
    run_id = candidate.checkpoint.run_id
    record, config = open_run(store, run_id)
    rivals = [candidate, champion] if champion else [candidate]
    for ref in rivals:
        _require_weights(ref, store)
    seeds = [derive_seed("gate", run_id, i) for i in range(max(MIN_SEEDS, config.evaluate.score_seeds))]
    sheet = score(config, record.dataset.digest, [ref.checkpoint for ref in rivals], seeds, settings)
    ours, theirs = sheet.snapshots[0], sheet.snapshots[1] if champion else None
    verdict = gate.judge(ours, theirs, sheet.controls, config.registration, sheet.diagnostics)
    return Decision(
        product=candidate.product,
        promoted=verdict.promoted,
        reason=verdict.reason,
        candidate=candidate,
        champion=champion,
        metric=verdict.metric,
        protocol_hash=sheet.protocol_hash,
        candidate_scores=ours,
        champion_scores=theirs,
        controls=sheet.controls,
        checks=verdict.checks,
        decided=datetime.now(UTC),
        by=audit.whoami(),
        where=where,
    )


def _unscored(candidate: ModelRef, champion: ModelRef | None, promoted: bool, reason: str, where: str) -> Decision:
    """A decision that took no scores."""
    return Decision(
        product=candidate.product,
        promoted=promoted,
        reason=reason,
        candidate=candidate,
        champion=champion,
        metric="",
        protocol_hash="",
        candidate_scores=None,
        champion_scores=None,
        controls=[],
        checks=[],
        decided=datetime.now(UTC),
        by=audit.whoami(),
        where=where,
    )


def _require_weights(ref: ModelRef, store: Store) -> None:
    try:
        store.fetch(ref.checkpoint.prefix, ["generator.safetensors"])
    except FileNotFoundError as error:
        raise WorkFailed(
            f"the weights of {ref.product} version {ref.version} are gone from {store.uri} ({ref.checkpoint.prefix}): "
            "it cannot be scored; put them back, or take another champion by hand (`ganpipe promote --adopt`)"
        ) from error


def _carry_out(
    decision: Decision, pointer: Pointer, expected: bytes | None, store: Store, kind: audit.Kind = "promote"
) -> None:
    """Record the decision, then move the pointer when it is yes. Raises Conflict when the pointer moved meanwhile."""
    record = AuditRecord(
        kind=kind,
        product=decision.product,
        at=decision.decided,
        by=decision.by,
        where=decision.where,
        reason=decision.reason,
        before=pointer.champion,
        after=decision.candidate if decision.promoted else pointer.champion,
        decision=decision,
    )
    if not decision.promoted:
        audit.write_record(store, record)
        return
    audit.move(store, expected, record, previous=pointer.champion)
    log.info("%s: version %s is champion: %s", decision.product, decision.candidate.version, decision.reason)


def rollback(product: str, settings: Settings, where: str = "ganpipe rollback") -> ModelRef:
    """The previous champion becomes champion again, and the present one previous. Returns the new champion.

    Raises InputError when there is no previous one, Conflict when another decision comes in between.
    """
    store = open_store(settings.store)
    audit.read_versions(store, product)
    restore_alias(product, store, settings)
    pointer, expected = audit.read_pointer(store, product)
    if pointer.champion is None or pointer.previous is None:
        raise InputError(f"{product} has no previous champion to roll back to; see `ganpipe lineage {product}`")
    back, bad = pointer.previous, pointer.champion
    record = AuditRecord(
        kind="rollback",
        product=product,
        at=datetime.now(UTC),
        by=audit.whoami(),
        where=where,
        reason=f"version {bad.version} was taken back; version {back.version} is champion again",
        before=bad,
        after=back,
    )
    audit.move(store, expected, record, previous=bad)
    registry.mirror(product, store, settings)
    pages.update(product, store, settings)
    return back


# --- hands in MLflow ---------------------------------------------------------------------------------------------


def restore_alias(product: str, store: Store, settings: Settings) -> None:
    """Put the alias `champion` back where the store's pointer is, with a warning, when it is somewhere else."""
    aliases = registry.aliases(product, settings)
    champion = audit.read_pointer(store, product)[0].champion
    expected = champion.version if champion else None
    if aliases is None or aliases.get(registry.CHAMPION) == expected:
        return
    found = aliases.get(registry.CHAMPION)
    log.warning(
        "%s: the alias champion in MLflow was on %s, but %s is champion; it is put back. "
        "To keep a change made by hand, make it again and run `ganpipe promote %s --adopt`",
        product,
        f"version {found}" if found else "no version",
        f"version {expected}" if expected else "no version",
        product,
    )
    registry.mirror(product, store, settings)


def _adopt(product: str, store: Store, settings: Settings, where: str) -> Decision:
    """The version under the alias `champion` in MLflow becomes the store's champion."""
    found = (registry.aliases(product, settings) or {}).get(registry.CHAMPION)
    if found is None:
        raise InputError(f"{product} has no alias champion in MLflow at {settings.tracking_uri} that could be adopted")
    pointer, expected = audit.read_pointer(store, product)
    chosen = audit.read_version(store, product, found)
    moved = pointer.champion != chosen
    reason = f"version {found} was made champion by hand" if moved else f"version {found} is the champion already"
    decision = _unscored(chosen, pointer.champion, moved, reason, where)
    _carry_out(decision, pointer, expected, store, kind="adopt")
    registry.mirror(product, store, settings)
    pages.update(product, store, settings, decision)
    return decision
