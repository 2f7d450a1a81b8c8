"""Every way a night can be ended in mid-training: nobody is left behind, nothing is lost, the next night starts."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from on_servers import Stack, ganpipe, night_raw, until
from safetensors.numpy import load
from test_deployments import deployed

from ganpipe.configfile import to_yaml
from ganpipe.runs import checkpoints
from ganpipe.settings import Settings
from ganpipe.storage import Store, open_store

pytestmark = [pytest.mark.stack, pytest.mark.timeout(900)]

KIMG = 24.0
CHECKPOINT_SECONDS = 20.0


def cancel(client: Any, run: Any, _stack: Stack) -> None:
    from prefect.states import Cancelling

    client.set_flow_run_state(run.id, Cancelling())


def stop_worker(_client: Any, _run: Any, stack: Stack) -> None:
    """By somebody who has no patience: the second signal must not cost the checkpoint."""
    for _ in range(2):
        stack.worker().send_signal(signal.SIGTERM)
        time.sleep(1)


def kill_night(_client: Any, _run: Any, stack: Stack) -> None:
    (night,) = stack.nights()
    night.kill()


def kill_worker(_client: Any, _run: Any, stack: Stack) -> None:
    stack.worker().kill()


def time_out(_client: Any, _run: Any, _stack: Stack) -> None:
    """Its time is up by itself."""


ENDINGS: dict[str, tuple[Callable[[Any, Any, Stack], None], str]] = {
    "cancel": (cancel, "Cancelled"),
    "time-out": (time_out, "TimedOut"),
    "worker-sigterm": (stop_worker, "Crashed"),
    "kill-9-night": (kill_night, "Crashed"),
    "kill-9-worker": (kill_worker, "Crashed"),
}


@pytest.fixture(scope="module")
def whole() -> dict[float, Any]:
    """kimg -> the last checkpoint of the training that nobody ended, once there is one."""
    return {}


@pytest.fixture
def store(stack: Stack) -> Store:
    return open_store(Settings.from_environment().store)


@pytest.mark.parametrize("how", ENDINGS)
def test_ended_in_mid_training(
    how: str, stack: Stack, client: Any, store: Store, tmp_path: Path, whole: dict[float, Any]
) -> None:
    kimg, hours = (2 * KIMG, {"max_hours": 32 / 3600}) if how == "time-out" else (KIMG, {})
    raw = night_raw("ended", stop={"kimg": kimg}, snapshot_kimg=kimg, log_every_kimg=1, seed=1)
    deployment = deployed(tmp_path, raw)
    run = client.create_flow_run_from_deployment(deployment, parameters=hours)
    run_id = until(lambda: training_of(store, stack, run), 240, "metrics of the training")
    assert len(stack.ranks()) == 3  # torchrun and two ranks

    end, expected = ENDINGS[how]
    end(client, run, stack)
    began = time.monotonic()
    until(lambda: not stack.ranks(), 90 if how == "time-out" else CHECKPOINT_SECONDS + 10, "no process is left")
    took = time.monotonic() - began
    (checkpoint,) = checkpoints(store, run_id)
    assert 0 < checkpoint.images_seen < kimg * 1000
    until(lambda: not stack.nights(), 60, "the flow's process is gone")
    state = until(lambda: final(client, run), 300, "the run is marked")  # by the server, if need be
    assert state.name == expected, (state, took)
    until(lambda: taken(client) == 0, 120, "the GPUs are free")

    resumed = json.loads(ganpipe("train", "--resume", run_id, "--num-processes", "2", "--json").stdout)
    if kimg not in whole:
        path = tmp_path / "whole.yaml"
        path.write_text(to_yaml(raw))
        whole[kimg] = json.loads(ganpipe("train", str(path), "--num-processes", "2", "--json").stdout)
    refs = (resumed, whole[kimg])
    assert resumed["images_seen"] == whole[kimg]["images_seen"]
    weights, others = (load(store.read_bytes(f"{ref['prefix']}/generator.safetensors")) for ref in refs)
    assert weights.keys() == others.keys() and all((weights[name] == others[name]).all() for name in weights)


def test_a_machine_that_vanishes(stack: Stack, client: Any, store: Store, tmp_path: Path) -> None:
    """Worker and night at once: nobody here can tell, so the server does, and the next night starts."""
    deployment = deployed(tmp_path, night_raw("vanished", stop={"kimg": KIMG}, snapshot_kimg=KIMG, log_every_kimg=1))
    run = client.create_flow_run_from_deployment(deployment)
    until(lambda: training_of(store, stack, run), 240, "metrics of the training")
    for process in [stack.worker(), *stack.worker().children(recursive=True)]:
        process.kill()
    assert until(lambda: final(client, run), 300, "the server's automation").name == "Crashed"

    stack.run("up")
    short = client.create_flow_run_from_deployment(deployment, parameters={"overrides": ["train.stop.kimg=0.32"]})
    assert until(lambda: final(client, short), 300, "the next night").name == "Completed"


def training_of(store: Store, stack: Stack, run: Any) -> str | None:
    """The run's id, once its training has written metrics."""
    for folder in Path(stack.environment["GANPIPE_HOME"], "work").glob("*/metrics.jsonl"):
        key = f"runs/{folder.parent.name}/run.json"
        if folder.read_text().count("\n") >= 2 and str(run.id) in store.read_bytes(key).decode():
            return folder.parent.name
    return None


def final(client: Any, run: Any) -> Any:
    state = client.read_flow_run(run.id).state
    return state if state.is_final() else None


def taken(client: Any) -> int:
    return int(client.read_global_concurrency_limit_by_name("ganpipe-gpus").active_slots)
