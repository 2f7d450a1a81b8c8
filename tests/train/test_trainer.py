"""Training as a user could notice it: exact resumes, honest failures, the contract of every recipe."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from recipes import RECIPES, recipe
from tiny import tiny_raw

from ganpipe import runs, sample
from ganpipe.config import RunConfig, load_config
from ganpipe.errors import InputError, Interrupted
from ganpipe.launch import StopSignal
from ganpipe.prepare.manifest import Dataset
from ganpipe.refs import CheckpointRef
from ganpipe.settings import Settings
from ganpipe.storage import Store
from ganpipe.train import process
from ganpipe.train.metrics import NonFinite
from ganpipe.train.trainer import Trainer


def trainer(config: RunConfig, digits: Dataset, store: Store, tmp_path: Path, run_id: str = "run") -> Trainer:
    work = tmp_path / run_id
    work.mkdir(parents=True, exist_ok=True)
    return Trainer(config, digits, run_id, store, work)


def weights(store: Store, ref: CheckpointRef) -> dict[str, str]:
    """sha256 of every weights file of a checkpoint."""
    files = store.manifest(ref.prefix)["files"]
    return {name: entry["sha256"] for name, entry in files.items() if name.endswith(".safetensors")}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", RECIPES)
def test_interrupted_and_resumed_equals_never_interrupted(
    name: str, precision: str, prepared: Callable[[RunConfig], Dataset], store: Store, tmp_path: Path
) -> None:
    config = recipe(name, precision=precision, augment={"translation": 0.125}, micro_batch=8)
    data = prepared(config)
    straight = trainer(config, data, store, tmp_path, "straight").fit(StopSignal())

    class StopAfter:
        """Asks to stop once five steps were made."""

        reason = "SIGTERM"

        @property
        def requested(self) -> bool:
            return first.progress.steps >= 5

    first = trainer(config, data, store, tmp_path, "resumed")
    with pytest.raises(Interrupted, match="--resume resumed"):
        first.fit(StopAfter())
    second = trainer(config, data, store, tmp_path, "resumed")
    resumed = second.fit(StopSignal())

    assert second.progress.images_seen == straight.images_seen >= 320
    ours, theirs = weights(store, resumed), weights(store, straight)
    assert ours.pop("generator.safetensors") != theirs.pop("generator.safetensors")  # its metadata names the run
    assert ours == theirs
    loaded = [sample.load_generator(store.fetch(ref.prefix)["generator.safetensors"]) for ref in (straight, resumed)]
    states = [entry.module.state_dict() for entry in loaded]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


@pytest.mark.parametrize("name", RECIPES)
def test_each_phase_reaches_every_parameter_of_its_network(
    name: str, prepared: Callable[[RunConfig], Dataset], store: Store, tmp_path: Path
) -> None:
    config = recipe(name)
    subject = trainer(config, prepared(config), store, tmp_path)
    assert (subject.discriminator is None) == (config.recipe().plan(0).d_updates == 0)
    for phase, network in (("discriminator", subject.discriminator), ("generator", subject.generator)):
        if network is None:
            continue
        seen: list[bool] = []
        optimizer = subject.g_optimizer if phase == "generator" else subject.d_optimizer
        assert optimizer is not None
        optimizer.register_step_pre_hook(
            lambda *_, network=network, seen=seen: seen.extend(p.grad is not None for p in network.parameters())
        )
        subject._update(phase, 0, 0)
        assert seen
        assert all(seen), f"{phase}: {seen.count(False)} parameters got no gradient"


def test_micro_batches_add_up_to_the_mean_gradient(digits: Dataset, store: Store, tmp_path: Path) -> None:
    """Without layers that mix examples, four micro-batches give the weights of one batch."""
    network = {"name": "mlp", "hidden_dim": 16, "hidden_layers": 2}
    updated = []
    for micro_batch in (None, 4):
        raw = tiny_raw(
            micro_batch=micro_batch,
            optimizers={
                "generator": {"name": "sgd", "lr": 0.1},
                "discriminator": {"name": "sgd", "lr": 0.1},
            },
        )
        raw["gan"]["network"] = network
        subject = trainer(load_config(raw), digits, store, tmp_path)
        for _ in range(3):
            subject.step()
        updated.append(torch.cat([parameter.flatten() for parameter in subject.generator.parameters()]))
    torch.testing.assert_close(updated[0], updated[1], rtol=1e-5, atol=1e-7)


def test_critic_steps_count_every_real_image(digits: Dataset, store: Store, tmp_path: Path) -> None:
    subject = trainer(recipe("wgan"), digits, store, tmp_path)
    subject.step()
    assert subject.progress.images_seen == 2 * 16
    assert subject.discriminator is not None
    assert max(float(p.detach().abs().max()) for p in subject.discriminator.parameters()) <= 0.01


@pytest.mark.parametrize("optimizer", [{"name": "rmsprop", "lr": 5e-5}, {"name": "sgd", "lr": 1e-3, "momentum": 0.5}])
def test_clipped_critics_train_with_other_optimizers(
    optimizer: dict[str, Any], digits: Dataset, store: Store, tmp_path: Path
) -> None:
    config = recipe("wgan", optimizers={"generator": optimizer, "discriminator": optimizer})
    subject = trainer(config, digits, store, tmp_path)
    before = torch.cat([p.detach().flatten().clone() for p in subject.generator.parameters()])
    subject.fit(StopSignal())
    after = torch.cat([p.detach().flatten() for p in subject.generator.parameters()])
    assert after.isfinite().all()
    assert not torch.equal(before, after)


def test_a_non_finite_loss_stops_the_run_and_keeps_the_last_checkpoint(
    digits: Dataset, store: Store, tmp_path: Path
) -> None:
    subject = trainer(load_config(tiny_raw()), digits, store, tmp_path)
    original, poison_at = subject.gan.generator_loss, 11

    def poisoned(nets: Any, batch: Any, step: Any) -> Any:
        loss = original(nets, batch, step)
        if step.update_index == poison_at:
            loss.total = loss.total * math.nan
        return loss

    subject.gan.generator_loss = poisoned  # type: ignore[method-assign]
    with pytest.raises(NonFinite, match=rf"generator/(loss|grad_norm) was not finite at step {poison_at}"):
        subject.fit(StopSignal())
    newest = runs.checkpoints(store, "run")[-1]
    assert newest.images_seen <= poison_at * 16
    generator = sample.load_generator(store.fetch(newest.prefix)["generator.safetensors"])
    assert all(tensor.isfinite().all() for tensor in generator.module.state_dict().values())


def test_metrics_and_grids_lie_beside_the_checkpoints(digits: Dataset, store: Store, tmp_path: Path) -> None:
    trainer(load_config(tiny_raw()), digits, store, tmp_path).fit(StopSignal())
    lines = [json.loads(line) for line in store.read_bytes("runs/run/metrics.jsonl").splitlines()]
    assert [line["images_seen"] for line in lines] == sorted({line["images_seen"] for line in lines})
    wanted = {
        "discriminator/loss",
        "discriminator/prob_real",
        "discriminator/prob_fake",
        "generator/loss",
        "discriminator/grad_norm",
        "generator/grad_norm",
        "progress/images_per_second",
        "progress/kimg",
    }
    assert all(wanted <= set(line["metrics"]) for line in lines)
    assert all(0 <= line["metrics"]["discriminator/prob_real"] <= 1 for line in lines)
    grids = [item.key for item in store.list("runs/run/samples")]
    names = [ref.prefix.rsplit("/", 1)[1] for ref in runs.checkpoints(store, "run")]
    assert [Path(key).stem for key in grids] == names
    assert len(names) == 3
    assert store.read_bytes(grids[0]).startswith(b"\x89PNG")


def test_a_resumed_run_writes_no_metric_twice(digits: Dataset, store: Store, tmp_path: Path) -> None:
    config = load_config(tiny_raw())
    trainer(config, digits, store, tmp_path).fit(StopSignal())
    whole = (tmp_path / "run" / "metrics.jsonl").read_text()
    newest = runs.checkpoints(store, "run")[-1]
    store.remove(newest.prefix)
    (tmp_path / "run" / "metrics.jsonl").write_text(whole + '{"images_seen": 99')
    trainer(config, digits, store, tmp_path).fit(StopSignal())
    again = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert [json.loads(line)["images_seen"] for line in again.splitlines()] == [
        json.loads(line)["images_seen"] for line in whole.splitlines()
    ]


def test_a_damaged_checkpoint_is_passed_over(
    digits: Dataset, store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = load_config(tiny_raw())
    trainer(config, digits, store, tmp_path).fit(StopSignal())
    *_, older, newest = runs.checkpoints(store, "run")
    path = store.fetch(newest.prefix)["training.safetensors"]
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    for damage in (lambda: path.write_bytes(damaged), path.unlink):
        damage()
        caplog.clear()
        subject = trainer(config, digits, store, tmp_path)
        subject._newest_checkpoint()
        assert subject.progress.images_seen == older.images_seen
        assert newest.prefix in caplog.text


def test_warm_start_takes_the_weights_and_nothing_else(digits: Dataset, store: Store, tmp_path: Path) -> None:
    config = load_config(tiny_raw())
    first = trainer(config, digits, store, tmp_path, "first")
    ref = first.fit(StopSignal())
    second = trainer(config, digits, store, tmp_path, "second")
    second.warm_start(ref)
    assert second.progress.images_seen == 0
    for ours, theirs in zip(second.generator.parameters(), first.generator.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_weights_of_another_architecture_are_refused(digits: Dataset, store: Store, tmp_path: Path) -> None:
    ref = trainer(load_config(tiny_raw()), digits, store, tmp_path).fit(StopSignal())
    other = trainer(recipe("mlp"), digits, store, tmp_path, "other")
    with pytest.raises(InputError, match="another generator"):
        other.warm_start(ref)


def test_moving_average_has_the_half_life_it_says(digits: Dataset, store: Store, tmp_path: Path) -> None:
    subject = trainer(load_config(tiny_raw(ema_half_life_kimg=1)), digits, store, tmp_path)
    parameter = next(iter(subject.ema.module.parameters()))
    start = parameter.clone()
    target = torch.zeros_like(parameter)
    with torch.no_grad():
        next(iter(subject.generator.parameters())).copy_(target)
    for _ in range(10):
        subject.ema.update(subject.generator, 100, 1.0)
    torch.testing.assert_close(parameter, start / 2, rtol=1e-4, atol=1e-6)


def test_samples_do_not_depend_on_what_they_are_drawn_with(digits: Dataset, store: Store, tmp_path: Path) -> None:
    ref = trainer(load_config(tiny_raw()), digits, store, tmp_path).fit(StopSignal())
    loaded = sample.load_generator(store.fetch(ref.prefix)["generator.safetensors"])
    many = sample.draw_images(loaded.gan, loaded.module, 5, 100)
    few = sample.draw_images(loaded.gan, loaded.module, 5, 3)
    assert torch.equal(many[:3], few)
    assert not torch.equal(few, sample.draw_images(loaded.gan, loaded.module, 6, 3))
    assert len(np.unique(many.numpy().reshape(100, -1), axis=0)) == 100


def test_not_a_generator_file(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"garbage")
    with pytest.raises(InputError, match=r"x\.safetensors"):
        sample.load_generator(path)


def test_a_run_continued_on_another_machine_keeps_its_older_metrics(
    digits: Dataset, store: Store, tmp_path: Path
) -> None:
    config = load_config(tiny_raw())
    trainer(config, digits, store, tmp_path).fit(StopSignal())
    whole = store.read_bytes("runs/run/metrics.jsonl").splitlines()
    store.remove(runs.checkpoints(store, "run")[-1].prefix)
    trainer(config, digits, store, tmp_path / "elsewhere").fit(StopSignal())
    again = store.read_bytes("runs/run/metrics.jsonl").splitlines()
    assert [json.loads(line)["images_seen"] for line in again] == [json.loads(line)["images_seen"] for line in whole]


def test_one_run_is_trained_by_one_process(tmp_path: Path) -> None:
    with (
        process.alone(tmp_path, "run"),
        pytest.raises(InputError, match="another process"),
        process.alone(tmp_path, "run"),
    ):
        pass


def test_whatever_ends_a_training_is_its_state(
    digits: Dataset, store: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin_run = {"run_id": "run", "dataset": digits.manifest.ref, "created": datetime.now(UTC), "config_digest": "c"}
    runs.begin_run(store, runs.RunRecord.model_validate(begin_run), load_config(tiny_raw()))

    def out_of_memory(*_: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(process, "_fit", out_of_memory)
    with pytest.raises(RuntimeError):
        process.train({"run_id": "run"}, StopSignal())
    assert json.loads(store.read_bytes("runs/run/state.json"))["state"] == "failed"
