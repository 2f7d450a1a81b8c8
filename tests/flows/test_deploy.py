"""What is refused before any server is asked; what a server does with it stands in tests/stack."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tiny import tiny_raw

from flows.deploy import Nightly, nights_of, pinned, scheduled
from ganpipe.cli import main
from ganpipe.config import load_config
from ganpipe.configfile import to_yaml
from ganpipe.errors import InputError

LIST = Path(__file__).parents[2] / "infra/prefect.yaml"


def test_the_list_of_nights_that_is_shipped_loads() -> None:
    first, second = nights_of(LIST)
    assert first.config.name == "digits-dcgan" and first.schedule is not None and first.schedule.cron == "0 22 * * *"
    assert second.config.train.stop.at == "06:30" and second.max_hours == 9


@pytest.mark.parametrize(
    ("entry", "named"),
    [
        ({"name": "other", "parameters": {"config": "night.yaml"}}, "deployment other has the configuration of tiny"),
        ({"name": "tiny", "parameters": {}}, "parameters.config"),
        ({"name": "tiny", "parameters": {"config": "night.yaml"}, "gpus": 2}, "gpus"),
        ({"name": "tiny", "parameters": {"config": "none.yaml"}}, "none.yaml"),
        ({"name": "tiny", "parameters": {"config": "night.yaml"}, "schedule": {"cron": "at ten"}}, "cron"),
    ],
)
def test_a_wrong_list_is_told_by_field(entry: dict[str, object], named: str, tmp_path: Path) -> None:
    (tmp_path / "night.yaml").write_text(to_yaml(tiny_raw()))
    (tmp_path / "list.yaml").write_text(to_yaml({"deployments": [entry]}))
    with pytest.raises(InputError, match=named):
        nights_of(tmp_path / "list.yaml")


@pytest.mark.parametrize(
    ("cron", "zone", "named"), [("0 22 * *", "UTC", "--cron"), ("0 22 * * *", "Europe/Nowhere", "--timezone")]
)
def test_what_is_no_schedule(cron: str, zone: str, named: str) -> None:
    with pytest.raises(InputError, match=named):
        scheduled(cron, zone)


def test_a_pinned_configuration_means_the_same_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths do not hang on where the worker runs, nor hours on the zone of its clock."""
    monkeypatch.chdir(tmp_path)
    raw = tiny_raw(stop={"at": "06:30"})
    raw["prepare"]["source"] = {"name": "folder", "path": "pictures"}
    night = Nightly(config=load_config(raw), schedule=scheduled("0 22 * * *", "Asia/Tokyo"))
    config = pinned(night)
    assert config.prepare.source.path == tmp_path / "pictures"  # type: ignore[union-attr]
    assert config.train.stop.timezone == "Asia/Tokyo"


def test_without_a_server(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["deploy", str(LIST.parents[1] / "configs/debug.yaml")]) == 2
    assert "PREFECT_API_URL" in capsys.readouterr().err
    assert main(["worker"]) == 2
    assert main(["deploy"]) == 2
    assert "--file" in capsys.readouterr().err


def test_flows_import_no_torch() -> None:
    """A worker lives for months, and every night begins with them: seconds and memory that nobody uses."""
    asked = "import sys, flows.nightly, flows.worker; print(sorted({'torch', 'mlflow', 'datasets'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", asked], capture_output=True, text=True, check=True, cwd=LIST.parents[1]
    )
    assert done.stdout == "[]\n"
