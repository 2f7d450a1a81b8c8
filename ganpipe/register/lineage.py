"""From the data to production: what a version is made of, how it scored, what was decided about it."""

from __future__ import annotations

from typing import Any

from ..evaluate.protocol import headline
from ..refs import ModelRef
from ..settings import Settings
from ..storage import open_store
from . import audit
from .promotion import restore_alias


def lineage(product: str, settings: Settings, version: str | None = None) -> dict[str, Any]:
    """Everything about a version (default: the champion, or the newest when there is none), as JSON values.

    `product, version, production, model, data, run, config, checkpoint, scores, decisions`. Raises InputError for an
    unknown product or version.
    """
    from ..config import config_to_json
    from ..runs import open_run

    store = open_store(settings.store)
    versions = audit.read_versions(store, product)
    restore_alias(product, store, settings)
    pointer, _ = audit.read_pointer(store, product)
    ref = audit.read_version(store, product, version) if version else pointer.champion or versions[-1]
    record, config = open_run(store, ref.checkpoint.run_id)
    log = audit.read_log(store, product)
    concerned = [(key, entry) for key, entry in log if ref in _concerned(entry)]
    return {
        "product": product,
        "version": ref.version,
        "production": {
            "champion": pointer.champion.version if pointer.champion else None,
            "previous": pointer.previous.version if pointer.previous else None,
            "since": pointer.updated.isoformat() if pointer.updated else None,
            "decision": pointer.decision,
        },
        "model": ref.model_dump(mode="json"),
        "data": {"digest": ref.dataset_digest, "rows": record.dataset.rows},
        "run": record.model_dump(mode="json"),
        "config": config_to_json(config),
        "checkpoint": ref.checkpoint.model_dump(mode="json"),
        "scores": audit.read_report(store, ref).model_dump(mode="json"),
        "decisions": [{"key": key, **entry.model_dump(mode="json")} for key, entry in concerned],
    }


def _concerned(record: audit.AuditRecord) -> list[ModelRef | None]:
    """Versions that an audit record says something about."""
    asked = record.decision.candidate if record.decision else None
    return [asked, record.before, record.after] if record.before != record.after else [asked]


def lineage_markdown(data: dict[str, Any]) -> str:
    """A page for people from what `lineage` returns."""
    run, checkpoint, scores, production = data["run"], data["checkpoint"], data["scores"], data["production"]
    git = run["git"].get("sha", "unknown") + (" with uncommitted changes" if run["git"].get("dirty") else "")
    place = next((f", {name}" for name in ("champion", "previous") if production[name] == data["version"]), "")
    controls = {f"{control['name']} (n={control['n']})": control["scores"] for control in scores["controls"]}
    lines = [
        f"# {data['product']} version {data['version']}{place}",
        "",
        f"- Data: `{data['data']['digest']}`, "
        + ", ".join(f"{count} {split}" for split, count in data["data"]["rows"].items()),
        f"- Configuration: {data['config']['name']} `{data['model']['config_digest'][:12]}`, code {git}",
        f"- Run: `{run['run_id']}`, begun {run['created']}"
        + (f", flow run {run['flow_run_id']}" if run["flow_run_id"] else ""),
        f"- Start: {run['start_checkpoint']['prefix'] if run['start_checkpoint'] else 'scratch'}",
        f"- Checkpoint: {checkpoint['images_seen'] / 1000:g} kimg, sha256 `{checkpoint['generator_sha256'][:12]}`",
        f"- Registered: {data['model']['created']}",
        "",
        f"## Scores (protocol {headline(scores['protocol'], scores['protocol_hash'])})",
        "",
        f"| metric | version {data['version']} | {' | '.join(controls)} |",
        f"| --- {'| --- ' * (len(controls) + 1)}|",
    ]
    for metric, value in scores["best"]["scores"].items():
        cells = [_number(control.get(metric)) for control in controls.values()]
        lines.append(f"| {metric} | {_number(value)} | {' | '.join(cells)} |")
    lines += ["", "## Decisions", ""]
    for entry in data["decisions"]:
        answer = "" if entry["decision"] is None else " yes:" if entry["decision"]["promoted"] else " no:"
        lines.append(f"- {entry['at']} {entry['kind']}{answer} {entry['reason']} ({entry['by']}, {entry['where']})")
    if not data["decisions"]:
        lines.append("None yet.")
    return "\n".join(lines) + "\n"


def _number(value: float | str | None) -> str:
    """Not-a-numbers are strings in JSON."""
    return "" if value is None else f"{float(value):.4g}"
