"""No password and no key is found in anything that a night leaves behind, and nobody gets in without one."""

from __future__ import annotations

import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import psutil
import pytest
from on_servers import Stack, command, ganpipe, night_raw, until
from test_deployments import deployed
from test_endings import final

pytestmark = [pytest.mark.stack, pytest.mark.timeout(600)]


@pytest.fixture
def secrets(stack: Stack) -> list[str]:
    """All of them, as the stack drew them."""
    lines = (stack.folder / "secrets").read_text() + (stack.folder / "s3/environment").read_text()
    values = dict(line.split("=", 1) for line in lines.splitlines())
    return [value for name, value in values.items() if "password" in name or "KEY" in name or name == "cookie"]


def test_nothing_that_a_night_leaves_holds_a_secret(
    stack: Stack, client: Any, secrets: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import boto3
    import psycopg

    assert len(secrets) == 6
    deployment = deployed(tmp_path, night_raw("secretive"))
    run = client.create_flow_run_from_deployment(deployment)
    seen: dict[str, str] = {}

    def watched() -> Any:
        seen.update({f"process {process.pid}": command(process) for process in psutil.process_iter()})
        return final(client, run)

    assert until(watched, 300, "the night").name == "Completed"

    monkeypatch.setenv("GANPIPE_STORE", "s3://no-such-bucket/x")
    seen["message of a failure"] = ganpipe("runs", check=False).stderr
    monkeypatch.setenv("GANPIPE_TRACKING_URI", "http://127.0.0.1:9")
    seen["message of a doctor"] = ganpipe("doctor", check=False).stdout

    for folder in ("logs", "home"):
        for path in (stack.folder / folder).rglob("*"):
            if path.is_file():
                seen[str(path)] = path.read_bytes().decode("latin-1")
    s3 = boto3.client("s3")
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket="ganpipe"):
        for item in page.get("Contents", []):
            seen[f"s3 {item['Key']}"] = (
                s3.get_object(Bucket="ganpipe", Key=item["Key"])["Body"].read().decode("latin-1")
            )
    monkeypatch.setenv("PGPASSFILE", str(stack.folder / "pgpass"))
    port = (stack.folder / "pgpass").read_text().split(":")[1]
    for name in ("mlflow", "prefect"):
        with psycopg.connect(f"postgresql://ganpipe@127.0.0.1:{port}/{name}") as database:
            tables = database.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
            for (table,) in tables:
                seen[f"{name}.{table}"] = repr(database.execute(f'SELECT * FROM "{table}"').fetchall())

    assert len(seen) > 200 and any("secretive" in text for text in seen.values())
    assert [
        (where, secrets.index(secret)) for where, text in seen.items() for secret in secrets if secret in text
    ] == []


def test_private_files_are_private(stack: Stack) -> None:
    for name in ("secrets", "environment", "pgpass", "s3/environment", "mlflow-auth.ini"):
        assert (stack.folder / name).stat().st_mode & 0o077 == 0, name
    listening = subprocess.run(["ss", "-Hltn"], capture_output=True, text=True, check=False).stdout
    ports = [line.split()[3] for line in listening.splitlines()]
    port = int(stack.environment["AWS_ENDPOINT_URL"].rpartition(":")[2])
    ours = [address for address in ports if port <= int(address.rpartition(":")[2]) <= port + 5]
    assert len(ours) >= 6 and all(address.startswith("127.0.0.1:") for address in ours), ours


def test_nobody_gets_in_without_credentials(stack: Stack) -> None:
    import psycopg

    environment = stack.environment
    asked = {
        f"{environment['GANPIPE_TRACKING_URI']}/api/2.0/mlflow/experiments/search?max_results=1": 401,
        f"{environment['GANPIPE_TRACKING_URI']}/": 401,
        f"{environment['PREFECT_API_URL']}/admin/version": 401,
        f"{environment['AWS_ENDPOINT_URL']}/ganpipe?list-type=2": 403,
    }
    for url, refused in asked.items():
        with pytest.raises(urllib.error.HTTPError) as answer:
            urllib.request.urlopen(url, timeout=20)
        assert answer.value.code == refused, url
    port = (stack.folder / "pgpass").read_text().split(":")[1]
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(f"postgresql://ganpipe@127.0.0.1:{port}/mlflow", passfile="/dev/null")
