"""All of a model that is needed to use it, or look at it, elsewhere."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from . import register
from .errors import InputError
from .refs import CheckpointRef
from .register import card
from .register.resolve import fetched_weights, is_file, resolve_checkpoint
from .runs import reports
from .settings import Settings
from .storage import Store, open_store, scratch_folder


def pull(model: str, out: Path, settings: Settings) -> dict[str, Any]:
    """Make the folder `out`: generator.safetensors (verified), config.yaml, run.json, and as far as they exist
    samples.png, report.json, .png and .html, model-card.md, lineage.json, lineage.md.

    It appears whole or not at all; one that holds the very same is left as it is. Returns path, checkpoint, files.
    Raises InputError for an unknown model, or when `out` holds something else.
    """
    if is_file(model):
        raise InputError(f"{model}: a weights file is all there is of it; name a run or models:/<product>@champion")
    store = open_store(settings.store)
    checkpoint, version = resolve_checkpoint(model, store, settings)
    out = out.absolute()
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out}: is a file; name a folder")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with scratch_folder(out.parent, f".{out.name}-") as folder:
            _collect(store, checkpoint, folder)
            if version is not None:
                with suppress(FileNotFoundError):
                    (folder / card.FILE).write_bytes(store.read_bytes(card.key(version)))
                data = register.lineage(version.product, settings, version=version.version)
                (folder / "lineage.json").write_text(json.dumps(data, indent=1))
                (folder / "lineage.md").write_text(register.lineage_markdown(data))
            files = sorted(path.name for path in folder.iterdir())
            if not (out.exists() and _equal(folder, out)):
                if out.exists() and any(out.iterdir()):
                    raise InputError(f"--out {out}: holds something else already; name a new folder, or empty this one")
                folder.replace(out)
    except OSError as error:
        raise InputError(f"--out {out}: {error}") from error
    return {"path": str(out), "checkpoint": checkpoint.prefix, "files": files}


def _collect(store: Store, checkpoint: CheckpointRef, folder: Path) -> None:
    shutil.copyfile(fetched_weights(store, checkpoint), folder / "generator.safetensors")
    run = f"runs/{checkpoint.run_id}"
    for name in ("config.yaml", "run.json"):
        (folder / name).write_bytes(store.read_bytes(f"{run}/{name}"))
    wanted = {"samples.png": f"{run}/samples/{checkpoint.prefix.rpartition('/')[2]}.png"}
    if found := [report for report in reports(store, checkpoint.run_id) if report.best.checkpoint == checkpoint]:
        wanted |= {
            f"report.{kind}": f"{run}/reports/{found[-1].protocol_hash}.{kind}" for kind in ("json", "png", "html")
        }
    for name, key in wanted.items():
        with suppress(FileNotFoundError):
            (folder / name).write_bytes(store.read_bytes(key))


def _equal(ours: Path, theirs: Path) -> bool:
    def content(folder: Path) -> dict[str, bytes | None]:
        return {path.name: path.read_bytes() if path.is_file() else None for path in folder.iterdir()}

    return content(ours) == content(theirs)
