"""Linters over all of infra/, and what the image holds."""

from __future__ import annotations

import re
from pathlib import Path

from conftest import INFRA, run

ROOT = INFRA.parent


def test_linters_find_nothing() -> None:
    for command in (
        ["hadolint", INFRA / "Dockerfile"],
        ["shellcheck", "--exclude=SC1091", *INFRA.glob("*.sh")],
        ["yamllint", "--strict", "--config-file", ROOT / ".yamllint.yaml", INFRA],
    ):
        checked = run(*command)
        assert checked.returncode == 0, checked.stdout + checked.stderr


def test_the_image_runs_as_a_user_and_holds_nothing_secret() -> None:
    stages = (INFRA / "Dockerfile").read_text().split("\nFROM ")
    assert len(stages) == 3 and all(re.match(r"python:3\.\d+\.\d+-slim", stage) for stage in stages[1:])
    assert re.findall(r"^USER (.+)$", stages[-1], re.MULTILINE) == ["10001:10001"]
    lines = re.findall(r"^COPY (?!--from)(.+)$", "\n".join(stages), re.MULTILINE)
    copied = [source for line in lines for source in line.split()[:-1]]
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert ignored[1] == "*" and {f"!{source}" for source in copied} == {line for line in ignored if line[0] == "!"}
    assert all((ROOT / source).exists() for source in copied)
    assert "infra/.env*" in (ROOT / ".gitignore").read_text().splitlines()


def test_the_image_has_what_the_services_run_and_mount() -> None:
    dockerfile = (INFRA / "Dockerfile").read_text()
    compose = (INFRA / "compose.yaml").read_text()
    for place in set(re.findall(r"/srv/ganpipe/(\S+)", compose)):
        assert Path(ROOT / place).exists() and f"COPY {place}" in dockerfile
    for name in re.findall(r"\./([\w.-]+):/", compose):
        assert (INFRA / name).exists(), "Docker would make a folder in its place"
