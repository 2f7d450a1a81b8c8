"""compose.yaml: what Compose itself and the specification say, and what could hurt whoever starts it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from conftest import INFRA, documents, run

FILE = INFRA / "compose.yaml"
(COMPOSE,) = documents(FILE)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
REQUIRED = sorted(set(re.findall(r"\$\{(\w+):\?", FILE.read_text())))
SECRET = re.compile("PASSWORD|SECRET|ACCESS_KEY|AUTH_STRING|TOKEN")


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """What make-env.sh writes."""
    script = tmp_path / "make-env.sh"
    script.write_text((INFRA / "make-env.sh").read_text())
    assert run("sh", script).returncode == 0
    assert (tmp_path / ".env").stat().st_mode & 0o777 == 0o600
    return dict(line.split("=", 1) for line in (tmp_path / ".env").read_text().splitlines())


def environment_of(service: str, env: dict[str, str]) -> dict[str, str]:
    """As Compose would fill it in."""

    def filled_in(value: str) -> str:
        return re.sub(r"\$\{(\w+):([?-])(.*?)\}", lambda found: env[found[1]] if found[2] == "?" else found[3], value)

    return {name: filled_in(value) for name, value in SERVICES[service]["environment"].items()}


def test_follows_the_specification() -> None:
    checked = run("check-jsonschema", "--builtin-schema", "vendor.compose-spec", FILE)
    assert checked.returncode == 0, checked.stdout


def test_passwords_are_made_once_and_are_never_the_same(env: dict[str, str], tmp_path: Path) -> None:
    assert sorted(env) == REQUIRED
    assert len(set(env.values())) == len(env) and all(len(value) >= 20 for value in env.values())
    before = (tmp_path / ".env").read_text()
    assert "stays" in run("sh", tmp_path / "make-env.sh").stderr
    assert (tmp_path / ".env").read_text() == before


def test_compose_resolves_it_with_what_make_env_writes(compose: list[str], env: dict[str, str], tmp_path: Path) -> None:
    def config(given: dict[str, str]) -> Any:
        (tmp_path / "given").write_text("".join(f"{name}={value}\n" for name, value in given.items()))
        profiles = ["--profile", "gpu", "--profile", "cpu"]
        return run(*compose, "--env-file", str(tmp_path / "given"), "-f", str(FILE), *profiles, "config")

    resolved = config(env)
    assert resolved.returncode == 0, resolved.stderr
    (tmp_path / "resolved.yaml").write_text(resolved.stdout)
    (services,) = (document["services"] for document in documents(tmp_path / "resolved.yaml"))
    assert set(services) == set(SERVICES)
    for name in services:
        assert services[name]["environment"] == environment_of(name, env)
    for name in REQUIRED:
        refused = config({other: value for other, value in env.items() if other != name})
        assert refused.returncode != 0
        assert name in refused.stderr and "run infra/make-env.sh" in refused.stderr


@pytest.mark.parametrize("name", SERVICES)
def test_no_service_can_hurt_the_machine_or_whoever_starts_it(name: str) -> None:
    service = SERVICES[name]
    assert all(str(port).startswith("127.0.0.1:") for port in service.get("ports", []))
    assert service.get("network_mode") is None and not service.get("privileged")
    assert service["healthcheck"]["test"][0] == "CMD" and "start_period" in service["healthcheck"]
    assert {"cpus", "memory"} <= set(service["deploy"]["resources"]["limits"])
    assert service["restart"] == "unless-stopped" and service["logging"]["options"]["max-size"]
    assert "no-new-privileges:true" in service["security_opt"]
    if "build" in service:
        assert service["read_only"] and service["cap_drop"] == ["ALL"] and "user" not in service
    else:
        assert re.search(r":\d+\.\d+$", service["image"]), "a tag that does not move"
    for other, wanted in service.get("depends_on", {}).items():
        assert other in SERVICES and wanted == {"condition": "service_healthy"}
    for volume in service.get("volumes", []):
        source = volume.split(":")[0]
        assert source in COMPOSE["volumes"] or (source.startswith(("./", "${DATA_FOLDER")) and volume.endswith(":ro"))


@pytest.mark.parametrize("name", SERVICES)
def test_no_secret_has_a_default_or_is_on_a_command_line(name: str) -> None:
    service = SERVICES[name]
    for variable, value in service["environment"].items():
        if SECRET.search(variable) or variable == "PGPASSWORD":
            assert re.fullmatch(r"\$\{\w+:\?[^{}]+\}", value), variable
        assert not re.search(r"//[^/@]*:[^/@]*@", value), "a password in an address shows up in logs"
    assert "$" not in json.dumps([service.get("command"), service["healthcheck"]])
    assert "env_file" not in service


def test_only_those_who_hold_keys_reach_the_bucket_and_the_database() -> None:
    on = {name: {other for other in SERVICES if name in SERVICES[other]["networks"]} for name in COMPOSE["networks"]}
    assert on["database"] == {"postgres", "mlflow", "prefect"} and COMPOSE["networks"]["database"]["internal"]
    assert all("AWS_SECRET_ACCESS_KEY" in SERVICES[name]["environment"] for name in on["bucket"])


def test_the_worker_has_the_gpus_and_time_to_save_its_last_checkpoint() -> None:
    (device,) = SERVICES["worker"]["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}
    assert all(SERVICES[name]["stop_grace_period"] == "60s" for name in ("worker", "worker-cpu"))


def test_mlflow_knows_its_options_and_variables(env: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow.environment_variables
    from mlflow.cli import server

    given = environment_of("mlflow", env)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    program, command, *arguments = SERVICES["mlflow"]["command"]
    assert (program, command) == ("mlflow", "server")
    options = server.make_context("server", arguments).params
    assert options["backend_store_uri"] == "postgresql+psycopg:///mlflow" and options["app_name"] == "basic-auth"
    assert options["artifacts_destination"] == "s3://ganpipe/mlflow" and "mlflow:5000" in options["allowed_hosts"]
    known = {getattr(value, "name", None) for value in vars(mlflow.environment_variables).values()}
    known |= {option.envvar for option in server.params}
    assert {name for name in given if name.startswith("MLFLOW_")} <= known


@pytest.mark.parametrize("name", ["prefect", "worker"])
def test_prefect_knows_its_variables(name: str, env: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect.settings import Settings

    given = {key: value for key, value in environment_of(name, env).items() if key.startswith("PREFECT_")}
    for key, value in given.items():
        monkeypatch.setenv(key, value)
    known = Settings().to_environment_variables(include_secrets=True)
    assert {key: known.get(key, "").lower() for key in given} == {key: value.lower() for key, value in given.items()}
