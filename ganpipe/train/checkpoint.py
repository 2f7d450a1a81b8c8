"""A checkpoint holds all that affects the next step: safetensors and JSON, no pickle.

generator.safetensors   moving average of the generator, ready to sample from; what is released
training.safetensors    networks, optimizers, shared recipe state
rank-00000.safetensors  recipe state of that rank alone; one file for each
progress.json           images_seen, updates, seconds, versions, threads, ranks
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from safetensors.torch import load_file, save_file
from torch import Tensor

from .. import __version__
from ..errors import InputError
from ..refs import CheckpointRef
from ..runs import checkpoint_name, checkpoints
from ..storage import Store

FORMAT = 1
PROGRESS = "progress.json"


class Progress(BaseModel):
    """How far a run is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    images_seen: int = 0
    """Real images shown to D."""
    steps: int = 0
    """Steps completed (D and G phases together)."""
    seconds: float = 0.0
    """Time spent training, over all resumes."""
    device_seconds: float = 0.0
    """The same times the processes that trained: one for each GPU."""
    alarm: str = ""
    """Of `train.stop_on`: what the last snapshot raised, in one sentence."""
    alarms_in_a_row: int = 0
    """Snapshots up to now that raised one."""


Sections = dict[str, dict[str, Tensor]]
"""Named groups of named tensors: networks, optimizers, recipe state."""


def write_checkpoint(
    folder: Path, training: Sections, rank_states: list[dict[str, Tensor]], progress: Progress
) -> None:
    """Write a checkpoint's files into a local folder, beside `generator.safetensors`."""
    flat = {f"{group}/{key}": _plain(tensor) for group, tensors in training.items() for key, tensor in tensors.items()}
    save_file(flat, folder / "training.safetensors")
    for rank, state in enumerate(rank_states):
        save_file({key: _plain(tensor) for key, tensor in state.items()}, folder / _rank_file(rank))
    facts = {**progress.model_dump(), **machine_facts(len(rank_states)), "ganpipe": __version__}
    (folder / PROGRESS).write_text(json.dumps(facts, indent=1))


def publish_checkpoint(store: Store, run_id: str, folder: Path) -> CheckpointRef:
    """Take what `write_checkpoint` wrote to the store; it is there whole or not at all."""
    images_seen = json.loads((folder / PROGRESS).read_text())["images_seen"]
    prefix = f"runs/{run_id}/checkpoints/{checkpoint_name(images_seen)}"
    manifest = {"format": FORMAT, "kind": "checkpoint", "run_id": run_id, "images_seen": images_seen}
    files = store.publish(prefix, folder, manifest)["files"]
    sha256 = files["generator.safetensors"]["sha256"]
    return CheckpointRef(run_id=run_id, images_seen=images_seen, prefix=prefix, generator_sha256=sha256)


def machine_facts(ranks: int) -> dict[str, Any]:
    """What the last bits of the next step depend on besides the checkpoint's tensors."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    bf16 = computes_bf16(device)
    return {"threads": torch.get_num_threads(), "torch": torch.__version__, "ranks": ranks, "bf16": bf16}


def computes_bf16(device: torch.device) -> bool:
    """Whether it has instructions for bf16. A CPU without them takes up to a hundred times as long as with fp32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type != "cpu" or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _rank_file(rank: int) -> str:
    return f"rank-{rank:05d}.safetensors"


def load_checkpoint(
    store: Store, ref: CheckpointRef, rank: int
) -> tuple[Sections, dict[str, Tensor], dict[str, Tensor], dict[str, Any]]:
    """(training sections, the rank's recipe state, moving average, progress facts) of a checkpoint, verified.

    A rank that the checkpoint does not know begins with the state of another one.
    Raises InputError when the checkpoint was removed.
    """
    try:
        manifest = store.manifest(ref.prefix)
    except FileNotFoundError as error:
        left = ", ".join(there.prefix.rpartition("/")[2] for there in checkpoints(store, ref.run_id)) or "none"
        raise InputError(
            f"{store.uri}/{ref.prefix} was removed, so nothing can start from it; of run {ref.run_id} there is {left}. "
            f"Begin a new run from one that is there (train.start_from: {ref.run_id} takes its newest)"
        ) from error
    if manifest.get("format") != FORMAT or manifest.get("kind") != "checkpoint":
        raise InputError(
            f"{store.uri}/{ref.prefix} has format {manifest.get('format')}; this version reads format {FORMAT}"
        )
    files = store.fetch(ref.prefix)
    sections: Sections = {}
    for key, tensor in load_file(files["training.safetensors"]).items():
        group, name = key.split("/", 1)
        sections.setdefault(group, {})[name] = tensor
    facts = json.loads(files[PROGRESS].read_text())
    rank_state = load_file(files[_rank_file(rank % facts.get("ranks", 1))])
    return sections, rank_state, load_file(files["generator.safetensors"]), facts


def _plain(tensor: Tensor) -> Tensor:
    """Contiguous on the CPU: the same bytes whatever the memory format."""
    return tensor.detach().cpu().contiguous()
