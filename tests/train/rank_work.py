"""What test_ranks.py has one process do, and two: the first gradients of many recipes, and exact resumes."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from cells import data_for
from pydantic import BaseModel
from safetensors.torch import save_file
from tiny import tiny_raw
from torch import Tensor

from ganpipe.config import RunConfig, load_config
from ganpipe.gans import GANS
from ganpipe.launch import StopSignal, child_main
from ganpipe.prepare.manifest import Dataset
from ganpipe.ranks import Ranks
from ganpipe.settings import Settings
from ganpipe.storage import Store, open_store
from ganpipe.train.trainer import Trainer


class Answer(BaseModel):
    ranks: int
    unreached: list[str] = []
    """Recipes with a parameter that got no gradient, on any rank."""
    unlike: list[str] = []
    """Recipes whose resumed training differs from the uninterrupted one on any rank, or p between ranks."""


def config_of(gan: dict[str, Any], precision: str) -> RunConfig:
    """With all augmentation, at a p that changes with every step where the recipe's logits can steer it."""
    steered = GANS[gan["name"]](GANS[gan["name"]].Config.model_validate(gan)).absolute_logits()
    p = {"start": 0.5, "over_kimg": 0.2, "every": 1} if steered else 0.5
    augment = {"translation": 0.125, "ada": True, "p": p}
    raw = tiny_raw(precision=precision, micro_batch=4, augment=augment, snapshot_kimg=1)
    raw["prepare"] |= data_for(gan)
    return load_config({**raw, "gan": gan})


def gradients(trainer: Trainer) -> dict[str, Tensor | None]:
    """Of each parameter, in the first update of D and in the first of G, as the optimizers get them."""
    found: dict[str, Tensor | None] = {}
    sides = [("discriminator", trainer.discriminator, trainer.d_optimizer)]
    sides += [("generator", trainer.generator, trainer.g_optimizer)]
    for phase, network, optimizer in sides:
        if network is None:
            continue
        assert optimizer is not None

        def note(*_: object, phase: str = phase, network: torch.nn.Module = network) -> None:
            for name, parameter in network.named_parameters():
                found[f"{phase}.{name}"] = None if parameter.grad is None else parameter.grad.clone().contiguous()

        handle = optimizer.register_step_pre_hook(note)
        trainer._update(phase, 0, 0)
        handle.remove()
    return found


def state(trainer: Trainer) -> dict[str, Tensor]:
    """All weights and all optimizer state."""
    sections = trainer._sections()
    averages = {f"ema/{name}": tensor for name, tensor in trainer.ema.module.named_parameters()}
    flat = {f"{section}/{name}": tensor for section, group in sections.items() for name, tensor in group.items()}
    # Running statistics of batch normalisation are each rank's own, and nothing is computed from them.
    return {name: tensor.clone() for name, tensor in {**flat, **averages}.items() if "running_" not in name}


def resumed_is_equal(config: RunConfig, dataset: Dataset, store: Store, work: Path, ranks: Ranks, run_id: str) -> bool:
    straight = Trainer(config, dataset, run_id, store, work, ranks)
    for step in range(4):
        straight.step()
        if step == 1:
            with straight.uploads if ranks.is_main else nullcontext():
                straight.snapshot()
            ranks.any(False)  # nobody reads it before it is there
    again = Trainer(config, dataset, run_id, store, work, ranks)
    assert again._newest_checkpoint() is not None and again.progress.steps == 2
    for _ in range(2):
        again.step()
    ours, theirs = state(again), state(straight)
    if again.discriminator is not None and len(set(ranks.gather(float(again.augment.p)))) > 1:
        return False
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def work(request: dict[str, Any], _: StopSignal) -> Answer:
    settings = Settings.from_environment()
    store = open_store(settings.store)
    ranks = Ranks()
    folder = settings.local_folder("work", "matrix")
    kept: dict[str, Tensor] = {}
    unreached, unlike = [], []
    for name, gan in request["cells"].items():
        dataset = Dataset.open(store, request["datasets"][name])
        for precision in ("fp32", "bf16"):
            cell = f"{name}-{precision}"
            config = config_of(gan, precision)
            found = gradients(Trainer(config, dataset, f"{cell}-{ranks.count}", store, folder, ranks))
            if any(gradient is None for gradient in found.values()):
                unreached.append(cell)
            kept |= {f"{cell}/{key}": gradient for key, gradient in found.items() if gradient is not None}
            if not resumed_is_equal(config, dataset, store, folder, ranks, f"{cell}-{ranks.count}"):
                unlike.append(cell)
    if ranks.is_main:
        save_file(kept, request["out"])
    everyone = ranks.gather((unreached, unlike))
    return Answer(
        ranks=ranks.count,
        unreached=sorted({cell for first, _ in everyone for cell in first}),
        unlike=sorted({cell for _, second in everyone for cell in second}),
    )


if __name__ == "__main__":
    child_main(work)
