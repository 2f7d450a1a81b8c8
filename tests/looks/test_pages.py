"""What one sees in the morning, read off MLflow's and Prefect's own pages by a browser."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote
from urllib.request import Request, urlopen

import pytest
from browser import Browser, browser  # noqa: F401
from s3_server import free_port

from ganpipe.refs import Decision, EvalReport
from ganpipe.settings import Settings
from ganpipe.tables import interval_text

pytestmark = [pytest.mark.stack, pytest.mark.timeout(900)]

DEBUG = str(Path(__file__).parents[2] / "configs/debug.yaml")
RING = str(Path(__file__).parents[2] / "configs/ring8-rpgan.yaml")
QUICK = ["train.batch=32", "train.stop.kimg=2", "train.log_every_kimg=0.5", "train.snapshot_kimg=1"]
PICTURES = os.environ.get("GANPIPE_TEST_SCREENSHOTS")
"""Folder to leave screenshots in; docs/ has those of `make screenshots`."""


@dataclass
class Shown:
    """Two nights of images, the first one's version champion, and a training of points."""

    settings: Settings
    environment: dict[str, str]
    nights: list[dict[str, Any]]
    addresses: dict[str, str]

    def client(self) -> Any:
        from mlflow import MlflowClient

        return MlflowClient(tracking_uri=self.settings.tracking_uri)

    def runs(self, product: str = "debug") -> list[Any]:
        """Oldest first."""
        experiment = self.client().get_experiment_by_name(product)
        found: list[Any] = self.client().search_runs([experiment.experiment_id], order_by=["start_time ASC"])
        return found

    def mlflow(self, fragment: str) -> str:
        mark = "&" if "?" in fragment else "?"
        return f"{self.addresses['mlflow']}/#/{fragment}{mark}workflowType=machine_learning"


def ganpipe(
    environment: dict[str, str], *arguments: str, codes: tuple[int, ...] = (0, 3), seconds: int = 300
) -> dict[str, Any]:
    command = [sys.executable, "-m", "ganpipe", *arguments, "--json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=seconds)
    assert done.returncode in codes, done.stderr[-3000:]
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def serve(environment: dict[str, str]) -> tuple[subprocess.Popen[str], dict[str, str]]:
    port = free_port()
    command = [sys.executable, "-m", "ganpipe", "ui", "--port", str(port), "--prefect-port", str(port + 1), "--json"]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, process.communicate()[1][-3000:]
    return process, json.loads(line)


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    home = tmp_path_factory.mktemp("home")
    dropped = ("GANPIPE_", "MLFLOW_", "PREFECT_", "AWS_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    environment |= {"GANPIPE_HOME": str(home)}
    settings = Settings.from_environment(environment)
    first = ganpipe(environment, "run", DEBUG, "--no-orchestrator", "--seed", "1")
    from mlflow import MlflowClient

    MlflowClient(tracking_uri=settings.tracking_uri).set_registered_model_alias("debug", "champion", "1")
    ganpipe(environment, "promote", "debug", "--adopt")
    process, addresses = serve(environment)
    try:  # the second one while the pages are up, on the same databases
        second = ganpipe(environment, "run", DEBUG, "--seed", "2", "--set", "train.stop.kimg=3")
        quick = [word for pair in QUICK for word in ("--set", pair)]
        ganpipe(environment, "train", RING, *quick)
        yield Shown(settings, environment, [first, second], addresses)
    finally:
        process.terminate()
        process.wait(60)


def keep(browser: Browser, name: str) -> None:  # noqa: F811
    if PICTURES:
        browser.picture(Path(PICTURES) / f"{name}.png")


def close_the_assistant(browser: Browser) -> None:  # noqa: F811
    """MLflow's panel for questions takes a third of the page until it is closed once."""
    browser.driver.execute_script(
        "for (const b of document.querySelectorAll('button')) if (/close/i.test(b.ariaLabel || '')) b.click()"
    )


def test_the_table_of_nights(shown: Shown, browser: Browser) -> None:  # noqa: F811
    experiment = shown.client().get_experiment_by_name("debug")
    assert "the table of nights" in experiment.tags["mlflow.note.content"]
    address = shown.mlflow(f"experiments/{experiment.experiment_id}/runs?viewStateShareKey=nights")
    browser.open(address, "2 matching runs")
    close_the_assistant(browser)
    text = browser.open(address, "2 matching runs", "ganpipe.decision")
    keep(browser, "mlflow-nights")
    for run in shown.runs():
        assert run.info.run_name in text
        assert f"{run.data.metrics['best/fid_domain']:.4f}"[:5] in text
        assert run.data.tags["ganpipe.decision"].split(":")[0] in text
    assert shown.runs()[1].data.tags["ganpipe.decision"].startswith("kept v1: beats_pca_gaussian")


def test_a_runs_page(shown: Shown, browser: Browser) -> None:  # noqa: F811
    run, decision = shown.runs()[1], Decision.model_validate(shown.nights[1]["decision"])
    page = f"experiments/{run.info.experiment_id}/runs/{run.info.run_id}"
    text = browser.open(shown.mlflow(page), "Show more", "system/cpu_utilization_percentage")
    browser.driver.execute_script(
        "[...document.querySelectorAll('button')].find(b => b.innerText == 'Show more').click()"
    )
    text = browser.read("Kept up to date by ganpipe")
    keep(browser, "mlflow-run")
    assert decision.reason in text and "digits" in text
    table = re.search(r"^fid_domain\s+(\S+)\s+(\S+)", text, re.MULTILINE)
    assert table and decision.candidate_scores and decision.champion_scores
    assert table[1] == f"{decision.candidate_scores.scores['fid_domain']:.4g}"
    assert table[2] == f"{decision.champion_scores.scores['fid_domain']:.4g}"
    for name in ("progress/kimg", "progress/images_per_second"):
        value = run.data.metrics[name]
        assert re.search(rf"{name}\s+{re.escape(str(value).removesuffix('.0'))}", text), name

    champion = next(link for link in links(browser) if shown.runs()[0].info.run_id in link)
    browser.open(champion, shown.runs()[0].info.run_name, "Description")
    text = browser.open(shown.mlflow(f"{page}/system-metrics"), "System metrics", "cpu_utilization_percentage")
    assert "system_memory_usage" in text


def links(browser: Browser) -> list[str]:  # noqa: F811
    found: list[str] = browser.driver.execute_script("return [...document.querySelectorAll('a')].map(a => a.href)")
    return found


def test_runs_side_by_side(shown: Shown, browser: Browser) -> None:  # noqa: F811
    runs = shown.runs()
    ids, experiments = quote(json.dumps([run.info.run_id for run in runs])), quote('["1"]')
    text = browser.open(shown.mlflow(f"compare-runs?runs={ids}&experiments={experiments}"), "best/fid_domain")
    browser.until(lambda: "No common artifacts" in browser.text() or "Artifacts" in browser.text(), lambda: "artifacts")
    lines = text[text.index("\nMetrics\n") : text.index("\nArtifacts\n")].splitlines()[3:]
    names = [line for line in lines if "/" in line]
    values = [float(line.replace("\N{MINUS SIGN}", "-")) for line in lines[len(names) :]]
    read = {name: values[2 * place : 2 * place + 2] for place, name in enumerate(names)}
    assert {"best/fid_domain", "best/kid_domain"} <= set(read)  # the page shows the first of many
    for name, pair in read.items():
        assert pair == pytest.approx([run.data.metrics[name] for run in runs], rel=1e-3, abs=1e-3), name


def test_pictures_of_all_runs_at_once(shown: Shown, browser: Browser) -> None:  # noqa: F811
    address = "experiments/1/runs?viewStateShareKey=nights&compareRunsMode=CHART"
    browser.open(shown.mlflow(address), "2 matching runs", "best_samples")
    pictures = (
        "return [...document.querySelectorAll('img')].filter(i => !i.src.startsWith('data:')).map(i => i.naturalWidth)"
    )
    browser.until(lambda: len(browser.driver.execute_script(pictures)) >= 2, browser.text)
    keep(browser, "mlflow-samples")
    assert all(width > 0 for width in browser.driver.execute_script(pictures))


def test_names_are_the_same_for_images_and_points(shown: Shown) -> None:
    image, point = shown.runs()[1], shown.runs("ring8")[0]
    groups = ("progress/", "system/", "generator/loss", "discriminator/loss")
    names = [{name for name in run.data.metrics if name.startswith(groups)} for run in (image, point)]
    assert names[0] == names[1] and {"progress/device_hours", "system/cpu_utilization_percentage"} <= names[0]
    for run, keys in ((image, {"samples", "best_samples"}), (point, {"samples"})):
        pictures = shown.client().list_artifacts(run.info.run_id, "images")
        assert {item.path.split("/")[1].split("+")[0] for item in pictures} == keys
    there = {item.path for item in shown.client().list_artifacts(image.info.run_id, "reports")}
    assert {"reports/side-by-side.png", "reports/trend.html"} <= there


def test_prefects_pages(shown: Shown, browser: Browser) -> None:  # noqa: F811
    address, night = shown.addresses["prefect"], shown.nights[1]

    def asked(what: str) -> list[dict[str, Any]]:
        request = Request(f"{address}/api/{what}/filter", b"{}", {"Content-Type": "application/json"})
        found: list[dict[str, Any]] = json.load(urlopen(request, timeout=30))
        return found

    (flow_run,) = asked("flow_runs")
    text = browser.open(f"{address}/runs/flow-run/{flow_run['id']}", "Completed", "5 Task runs")
    keep(browser, "prefect-run")
    assert flow_run["name"] in text
    artifacts = {artifact["type"]: artifact for artifact in asked("artifacts")}
    assert artifacts["progress"]["data"] == 100 and artifacts["progress"]["task_run_id"]
    text = browser.open(f"{address}/artifacts/artifact/{artifacts['markdown']['id']}", "not promoted", "PCA-Gaussian")
    keep(browser, "prefect-night")
    report = EvalReport.model_validate(night["report"])
    decision = Decision.model_validate(night["decision"])
    assert decision.reason in text and decision.candidate_scores is not None
    rows = {line.split("\t")[0]: line.split("\t")[1:] for line in text.splitlines() if "\t" in line}
    gaussian = report.control("pca_gaussian").scores
    for metric, value in decision.candidate_scores.scores.items():
        model, interval, floor, control = rows[metric][:4]
        assert (model, control) == (f"{value:.4g}", f"{gaussian[metric]:.4g}")
        assert interval == interval_text(decision.candidate_scores.intervals.get(metric))
        assert floor == f"{report.control('real').scores[metric]:.4g}"
    sizes = browser.driver.execute_script("return [...document.querySelectorAll('img')].map(i => i.naturalWidth)")
    assert sorted(sizes)[-2:] == [1280, 1296], "the trend, and candidate beside champion"


def test_nobody_is_left_when_the_command_is_killed(shown: Shown) -> None:
    process, addresses = serve(shown.environment)
    process.kill()
    process.wait()
    deadline = time.monotonic() + 30
    while members := [pid for pid in Path("/proc").iterdir() if _says(pid, addresses["mlflow"].rpartition(":")[2])]:
        assert time.monotonic() < deadline, members
        time.sleep(0.2)
    ports = [address.rpartition(":")[2] for address in (addresses["mlflow"], shown.addresses["prefect"])]
    taken = ganpipe(shown.environment, "ui", "--port", ports[0], "--prefect-port", ports[1], codes=(2,))
    assert taken["error"].startswith(f"--prefect-port {ports[1]} cannot be had")


def _says(pid: Path, word: str) -> bool:
    try:
        return word in (pid / "cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return False
