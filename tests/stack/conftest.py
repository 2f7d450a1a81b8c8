"""The real servers of infra/stack.py, once for all tests here; STACK_FOLDER names one that runs already and stays."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from on_servers import Stack
from s3_server import free_port
from webhook import Webhook, listening


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    given = os.environ.get("STACK_FOLDER")
    folder = Path(given) if given else tmp_path_factory.mktemp("stack")
    stack = Stack(folder, free_port())
    try:
        stack.run("up")
        yield stack
    finally:
        if not given:
            stack.run("delete")


@pytest.fixture
def stack(servers: Stack, monkeypatch: pytest.MonkeyPatch) -> Stack:
    """The servers, all running, and an environment that leads to them."""
    servers.run("up")
    for name, value in servers.environment.items():
        monkeypatch.setenv(name, value)
    return servers


@pytest.fixture
def client(stack: Stack) -> Iterator[Any]:
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

    values = stack.environment
    with (
        temporary_settings(
            {PREFECT_API_URL: values["PREFECT_API_URL"], PREFECT_API_AUTH_STRING: values["PREFECT_API_AUTH_STRING"]}
        ),
        get_client(sync_client=True) as client,
    ):
        yield client


@pytest.fixture
def webhook(client: Any) -> Iterator[Webhook]:
    with listening() as (server, messages):
        yield Webhook(server, messages)
