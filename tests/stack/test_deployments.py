"""Nights that the server starts by schedule, on real servers and with real processes."""

from __future__ import annotations

import json
from datetime import UTC
from pathlib import Path
from typing import Any

import pytest
from on_servers import Stack, ganpipe, night_raw, until

from ganpipe.configfile import to_yaml
from ganpipe.settings import Settings
from ganpipe.storage import open_store

pytestmark = [pytest.mark.stack, pytest.mark.timeout(900)]


def deployed(tmp_path: Path, raw: dict[str, Any], *options: str) -> str:
    """Deploy it from a file that is gone afterwards; returns the deployment's id."""
    path = tmp_path / "night.yaml"
    path.write_text(to_yaml(raw))
    done = ganpipe("deploy", str(path), "--num-processes", "2", "--json", *options)
    path.unlink()
    return str(json.loads(done.stdout)["deployments"][0]["url"]).rpartition("/")[2]


def runs_of(client: Any, deployment_id: str) -> list[Any]:
    from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId

    which = DeploymentFilter(id=DeploymentFilterId(any_=[deployment_id]))
    return list(client.read_flow_runs(deployment_filter=which))


def test_a_schedule_trains_on_two_processes_and_decides(
    stack: Stack, client: Any, tmp_path: Path, webhook: Any
) -> None:
    """Nobody starts it by hand; what it ran with is what was deployed; the morning's message holds the decision."""
    deployment = deployed(
        tmp_path,
        night_raw("scheduled"),
        "--cron",
        "* * * * *",
        "--timezone",
        "Europe/Berlin",
        "--notify",
        webhook.block,
    )
    try:
        first = until(
            lambda: next((run for run in runs_of(client, deployment) if run.state.name == "Completed"), None),
            400, "a scheduled night",
        )  # fmt: skip
    finally:
        client.pause_deployment(deployment)
    assert first.auto_scheduled and first.run_count == 1
    store = open_store(Settings.from_environment().store)
    run_id = f"scheduled-{first.expected_start_time.astimezone(UTC):%Y%m%dt%H%M%S}"
    log = next(
        item.key for item in store.list("runs") if item.key.startswith(f"runs/{run_id}") and "metrics" in item.key
    )
    assert store.read_bytes(log)
    decisions = [item.key for item in store.list("models/scheduled/log")]
    assert len(decisions) >= 1
    message = until(lambda: webhook.messages, 30, "a message")[0]
    assert "scheduled version" in message and "fid_domain" in message and "/runs/flow-run/" in message


def test_of_two_at_once_one_is_cancelled_and_says_why(stack: Stack, client: Any, tmp_path: Path) -> None:
    deployment = deployed(tmp_path, night_raw("twice"))
    for _ in range(2):
        client.create_flow_run_from_deployment(deployment)
    ended = until(
        lambda: all(run.state.is_final() for run in runs_of(client, deployment)) and runs_of(client, deployment),
        300, "both nights",
    )  # fmt: skip
    states = {run.state.name: run.state.message for run in ended}
    assert set(states) == {"Completed", "Cancelled"}
    assert "concurrency limit" in states["Cancelled"]
