"""Several processes train as one: the same gradients, exact resumes, and nobody left behind after a kill -9."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch
from cells import OTHERS, cells
from rank_work import config_of
from safetensors.torch import load_file
from tiny import tiny_raw

from ganpipe import runs, train
from ganpipe.config import RunConfig, load_config
from ganpipe.errors import InputError
from ganpipe.launch import run_child
from ganpipe.prepare.manifest import Dataset
from ganpipe.refs import CheckpointRef
from ganpipe.settings import Settings
from ganpipe.storage import Store

ROOT = Path(__file__).parents[2]
FEW = [
    "dcgan-non_saturating-free",
    "dcgan-wasserstein-weight_clip",
    "dcgan-wasserstein-gradient_penalty",
    "mlp-minimax-r1",
    "mlp-lsgan-r2",
    "resnet-hinge-spectral_norm",
    "resnet-relativistic-lazy",
    "dcgan-relativistic-lazy-projection",
    "resnet-hinge-spectral_norm-auxiliary",
    "mlp-wasserstein-gradient_penalty-concat",
    *OTHERS,
]
GRID = cells() | OTHERS


@pytest.fixture(autouse=True)
def _children_find_the_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    folders = [ROOT, ROOT / "tests", ROOT / "tests" / "train"]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, folders)))


def compare(names: list[str], prepared: Callable[[RunConfig], Dataset], settings: Settings, tmp_path: Path) -> None:
    """Two ranks against one process over the same micro-batches: every gradient within 1e-5 of its norm."""
    found = []
    datasets = {name: prepared(config_of(GRID[name], "fp32")).digest for name in names}
    for count in (1, 2):
        request = {
            "datasets": datasets,
            "cells": {name: GRID[name] for name in names},
            "out": str(tmp_path / f"{count}.safetensors"),
        }
        answer = run_child("rank_work", request, settings.model_copy(update={"num_processes": count}))
        assert answer == {"ranks": count, "unreached": [], "unlike": []}
        found.append(load_file(request["out"]))
    alone, together = found
    assert alone.keys() == together.keys()
    for cell in sorted({key.split("/")[0] for key in alone}):
        phases = {key.split("/")[1].split(".")[0] for key in alone if key.startswith(f"{cell}/")}
        assert phases == ({"generator"} if "-l1-" in cell else {"discriminator", "generator"})
        for phase in sorted(phases):
            keys = [key for key in alone if key.startswith(f"{cell}/{phase}.")]
            ours, theirs = (torch.cat([side[key].double().flatten() for key in keys]) for side in (together, alone))
            assert theirs.norm() > 0
            assert (ours - theirs).norm() <= 1e-5 * theirs.norm(), f"{cell}: {phase}"


def test_two_ranks_train_as_one_process(
    prepared: Callable[[RunConfig], Dataset], settings: Settings, tmp_path: Path
) -> None:
    compare(FEW, prepared, settings, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("network", ["mlp", "dcgan", "resnet"])
def test_two_ranks_train_as_one_process_in_every_cell(
    network: str, prepared: Callable[[RunConfig], Dataset], settings: Settings, tmp_path: Path
) -> None:
    names = [name for name in GRID if name.startswith(network)]
    assert len(names) > 30
    compare(names, prepared, settings, tmp_path)


# --- killed ------------------------------------------------------------------------------------------------------


def start(run_id: str, config: Path, settings: Settings, *more: str) -> subprocess.Popen[bytes]:
    """`ganpipe train` on two processes."""
    environment = {**os.environ, **settings.to_environment()}
    command = [sys.executable, "-m", "ganpipe", "train", *more, "--num-processes", "2"]
    command += [] if "--resume" in more else [str(config), "--run", run_id]
    return subprocess.Popen(command, env=environment, cwd=ROOT, stderr=subprocess.DEVNULL)


def until(condition: Callable[[], object], seconds: float = 120) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return bool(condition())


def weights(store: Store, ref: CheckpointRef) -> dict[str, torch.Tensor]:
    return load_file(store.fetch(ref.prefix)["training.safetensors"])


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["command", "torchrun", "rank"])
def test_killed_on_two_ranks_and_resumed(victim: str, store: Store, settings: Settings, tmp_path: Path) -> None:
    """Whatever of it is killed, nothing stays behind; resumed equals never killed."""
    path = tmp_path / "tiny.json"
    raw = tiny_raw(micro_batch=8, stop={"kimg": 4.8}, snapshot_kimg=0.8)
    path.write_text(json.dumps(raw))
    assert start("straight", path, settings).wait(300) == 0

    command = start("killed", path, settings)
    assert until(lambda: runs.checkpoints(store, "killed"))
    (torchrun,) = psutil.Process(command.pid).children()
    ranks = torchrun.children(recursive=True)
    assert len(ranks) == 2
    family = [torchrun, *ranks]
    chosen = {"command": command.pid, "torchrun": torchrun.pid, "rank": ranks[1].pid}[victim]
    os.kill(chosen, signal.SIGKILL)
    command.wait(60)
    assert until(lambda: not any(process.is_running() for process in family), 30)
    assert list((settings.home / "work").glob("child-*")) == [] or victim == "command"

    assert start("killed", path, settings, "--resume", "killed").wait(300) == 0
    ours, theirs = (weights(store, runs.checkpoints(store, run_id)[-1]) for run_id in ("killed", "straight"))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours if "running_" not in name)
    assert runs.read_state(store, "killed") == "finished"


@pytest.mark.slow
def test_two_machines_train_one_run(store: Store, settings: Settings, tmp_path: Path) -> None:
    """Two launchers with a home of their own, one store: the weights are those of two processes of one machine."""
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps(tiny_raw(micro_batch=8)))
    assert start("one", path, settings).wait(300) == 0
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    commands = []
    for node in (1, 0):  # the one that joins first waits
        home = settings.model_copy(update={"home": tmp_path / f"node-{node}"})
        where = ["--nodes", "2", "--node", str(node), "--rendezvous", f"127.0.0.1:{port}"]
        command = [sys.executable, "-m", "ganpipe", "train", str(path), "--run", "two", *where]
        commands.append(subprocess.Popen(command, env={**os.environ, **home.to_environment()}, cwd=ROOT))
    assert [command.wait(300) for command in commands] == [0, 0]
    ours, theirs = (runs.checkpoints(store, run_id)[-1] for run_id in ("two", "one"))
    assert all(torch.equal(tensor, weights(store, theirs)[name]) for name, tensor in weights(store, ours).items())


def test_a_batch_that_cannot_be_shared_is_refused(settings: Settings) -> None:
    pair = settings.model_copy(update={"num_processes": 2})
    with pytest.raises(InputError, match=r"set train\.micro_batch to 8"):
        train.check(load_config(tiny_raw()), pair)
    train.check(load_config(tiny_raw(micro_batch=8)), pair)
    with pytest.raises(InputError, match=r"3 processes.*train\.batch a multiple of 3"):
        train.check(load_config(tiny_raw(micro_batch=8)), settings.model_copy(update={"num_processes": 3}))


@pytest.mark.parametrize(
    "given", [{"nodes": 2}, {"node": 1}, {"nodes": 2, "node": 2, "rendezvous": "a:1"}, {"nodes": 2, "rendezvous": "a"}]
)
def test_machines_that_could_never_meet_are_refused(given: dict[str, int | str], settings: Settings) -> None:
    with pytest.raises(InputError, match="--rendezvous HOST:PORT"):
        settings.on_processes(**given)


def test_a_number_of_processes_that_is_none_is_refused() -> None:
    for wrong in ("0", "two", "-1"):
        with pytest.raises(InputError, match="GANPIPE_NUM_PROCESSES"):
            Settings.from_environment({"GANPIPE_NUM_PROCESSES": wrong})
