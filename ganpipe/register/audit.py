"""What is in production, what was registered, and who decided: `<store>/models/<product>/`.

champion.json            the pointer that decides; replaced by compare-and-set only
versions/<version>.json  every registered version (a ModelRef)
reports/<version>.json   the scores that it was registered with (an EvalReport)
log/<UTC>-<kind>-<hex>.json  one record for every decision, never changed
"""

from __future__ import annotations

import secrets
import socket
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Literal

from ..errors import InputError
from ..refs import Decision, EvalReport, ModelRef, Ref
from ..settings import user_name
from ..storage import Conflict, Store


class Pointer(Ref):
    """`champion.json`: what production loads."""

    champion: ModelRef | None = None
    previous: ModelRef | None = None
    """What rollback restores."""
    updated: datetime | None = None
    decision: str | None = None
    """Key of the audit record that moved the pointer here."""


Kind = Literal["promote", "rollback", "adopt", "overtaken"]


class AuditRecord(Ref):
    """One decision, yes or no. `overtaken`: the decision named in `reason` took no effect, another was first."""

    kind: Kind
    product: str
    at: datetime
    by: str
    """user@host"""
    where: str
    """Command or flow run that asked."""
    reason: str
    before: ModelRef | None
    """Champion before the decision."""
    after: ModelRef | None
    """Champion that the decision asks for; equal to `before` when nothing is to change."""
    decision: Decision | None = None
    """The gate's checks and scores, when it was asked."""


def whoami() -> str:
    """user@host of this process."""
    return f"{user_name()}@{socket.gethostname()}"


# --- the pointer -------------------------------------------------------------------------------------------------


def read_pointer(store: Store, product: str) -> tuple[Pointer, bytes | None]:
    """The pointer, and its bytes to give to `move`; (empty, None) before the first. Raises CorruptObject."""
    key = f"models/{product}/champion.json"
    try:
        data = store.read_bytes(key)
    except FileNotFoundError:
        return Pointer(), None
    return store.parse(key, Pointer, data), data


def move(store: Store, expected: bytes | None, record: AuditRecord, previous: ModelRef | None) -> Pointer:
    """Write the record, then point production to `record.after`.

    Raises Conflict, with a further record that says so, when the pointer is no longer `expected`.
    """
    key = write_record(store, record)
    pointer = Pointer(champion=record.after, previous=previous, updated=record.at, decision=key)
    data = pointer.model_dump_json(indent=1).encode()
    try:
        store.compare_and_set(f"models/{record.product}/champion.json", data, expected)
    except Conflict:
        reason = f"{key} took no effect: another decision moved the pointer first"
        lost = {"kind": "overtaken", "at": datetime.now(UTC), "reason": reason, "decision": None}
        write_record(store, record.model_copy(update={**lost, "after": record.before}))
        raise
    return pointer


# --- the log -----------------------------------------------------------------------------------------------------


def write_record(store: Store, record: AuditRecord) -> str:
    """Append to the log; returns the record's key."""
    name = f"{record.at.astimezone(UTC):%Y%m%dT%H%M%S.%fZ}-{record.kind}-{secrets.token_hex(4)}"
    key = f"models/{record.product}/log/{name}.json"
    store.create(key, record.model_dump_json(indent=1).encode())
    return key


def read_log(store: Store, product: str, newest: int | None = None) -> list[tuple[str, AuditRecord]]:
    """(key, record) of every decision, or of the newest ones, oldest first."""
    keys = sorted(item.key for item in store.list(f"models/{product}/log"))
    return [(key, store.read_model(key, AuditRecord)) for key in keys[-(newest or 0) :]]


# --- registered versions -----------------------------------------------------------------------------------------


def products(store: Store) -> list[str]:
    """Products with at least one registered version, by name."""
    keys = (item.key.split("/") for item in store.list("models"))
    return sorted({parts[1] for parts in keys if len(parts) == 4 and parts[2] == "versions"})


def write_version(store: Store, ref: ModelRef, report: EvalReport) -> None:
    """Record a registered version and its scores. Raises Conflict when the number is another model's."""
    store.write_bytes(f"models/{ref.product}/reports/{ref.version}.json", report.model_dump_json(indent=1).encode())
    store.create(f"models/{ref.product}/versions/{ref.version}.json", ref.model_dump_json(indent=1).encode())


def read_versions(store: Store, product: str, newest: int | None = None) -> list[ModelRef]:
    """Every registered version, or the newest ones, oldest first. Raises InputError for a product without any."""
    keys = [item.key for item in store.list(f"models/{product}/versions")]
    if not keys:
        there = ", ".join(products(store)) or "none yet; `ganpipe run` or `ganpipe register` makes the first"
        raise InputError(f"there is no product {product!r} in {store.uri}; there is {there}")
    keys.sort(key=lambda key: int(PurePosixPath(key).stem))
    return [store.read_model(key, ModelRef) for key in keys[-(newest or 0) :]]


def read_version(store: Store, product: str, version: str) -> ModelRef:
    """One registered version. Raises InputError listing those that exist."""
    versions = {ref.version: ref for ref in read_versions(store, product)}
    if version not in versions:
        raise InputError(f"{product} has no version {version!r}; there is {', '.join(versions)}")
    return versions[version]


def read_report(store: Store, ref: ModelRef) -> EvalReport:
    """The scores that a version was registered with."""
    return store.read_model(f"models/{ref.product}/reports/{ref.version}.json", EvalReport)
