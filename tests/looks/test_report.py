"""The page of an evaluation and its latent browser, as a phone and a desktop show them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import Browser, browser  # noqa: F401
from test_pages import DEBUG, PICTURES, ganpipe

from ganpipe.refs import EvalReport
from ganpipe.settings import Settings
from ganpipe.storage import open_store

pytestmark = [pytest.mark.stack, pytest.mark.timeout(1800)]

DIGITS = str(Path(DEBUG).with_name("digits-dcgan.yaml"))
PHONE, DESKTOP = (390, 844), (1280, 900)
SIDEWAYS = "return document.documentElement.scrollWidth - window.innerWidth"
SCORES = """return [...document.querySelectorAll('table.scores tbody tr')].map(row => [
    row.querySelector('th').innerText.split(' ')[0],
    [...row.querySelectorAll('td')].map(cell => cell.innerText.split('\\n'))])"""


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> tuple[EvalReport, Path]:
    """A report, and its page. For docs/ it is one of a real night, with a champion beside it."""
    home = tmp_path_factory.mktemp("home")
    dropped = ("GANPIPE_", "MLFLOW_", "PREFECT_", "AWS_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    environment |= {"GANPIPE_HOME": str(home)}
    if PICTURES:
        ganpipe(environment, "run", DIGITS, "--no-orchestrator", "--set", "train.stop.kimg=20", seconds=900)
        stop = ["train.stop.kimg=60", "train.snapshot_kimg=5"]
        options = [word for pair in stop for word in ("--set", pair)]
        ganpipe(environment, "train", DIGITS, "--run", "digits-night", *options, seconds=900)
    else:
        environment |= {"GANPIPE_TRACKING_URI": "off"}
        ganpipe(environment, "train", DEBUG, "--run", "digits-night")
    report = EvalReport.model_validate(ganpipe(environment, "evaluate", "--run", "digits-night"))
    store = open_store(Settings.from_environment(environment).store)
    reports = Path(store.uri.removeprefix("file://"), "runs", report.run_id, "reports")
    return report, reports / f"{report.protocol_hash}.html"


@pytest.fixture
def screen(browser: Browser) -> Iterator[Browser]:  # noqa: F811
    yield browser
    browser.look_as_before()


def keep(screen: Browser, name: str) -> None:
    if PICTURES:
        screen.picture(Path(PICTURES) / f"{name}.png")


def paper(screen: Browser) -> int:
    """The background's brightness, 0 to 255."""
    colour = screen.driver.execute_script("return getComputedStyle(document.body).backgroundColor")
    return sum(map(int, colour.removeprefix("rgb(").removesuffix(")").split(","))) // 3


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("size", [PHONE, DESKTOP])
def test_a_report(evaluated: tuple[EvalReport, Path], screen: Browser, size: tuple[int, int], dark: bool) -> None:
    report, path = evaluated
    screen.look_like(*size, dark=dark)
    screen.driver.get_log("browser")
    text = screen.open(path.as_uri(), report.protocol_hash, "Samples beside real images", "Everything")
    if PICTURES and (size, dark) in ((DESKTOP, False), (PHONE, True)):
        screen.look_like(size[0], 2 * size[1], dark=dark)
        keep(screen, "report-phone" if dark else "report-page")
        screen.look_like(*size, dark=dark)
    assert paper(screen) < 50 if dark else paper(screen) > 200
    assert screen.driver.execute_script(SIDEWAYS) == 0
    screen.driver.execute_script("document.querySelectorAll('details').forEach(one => { one.open = true })")
    assert screen.driver.execute_script(SIDEWAYS) == 0, "tables that are folded scroll within themselves"

    found: list[tuple[str, list[list[str]]]] = screen.driver.execute_script(SCORES)
    assert found[0][0] == report.metric and len(found) == len(report.best.scores)
    columns = [report.best, *report.controls]
    for metric, cells in found:
        ours = cells[:1] + cells[-len(report.controls) :]
        for cell, scores in zip(ours, columns, strict=True):
            assert cell[0] == f"{scores.scores[metric]:.4g}"
            ends = scores.intervals.get(metric)
            assert cell[1:] == ([f"{ends[0]:.4g} to {ends[1]:.4g}"] if ends else [])
    opened = screen.text()
    assert report.dataset_digest in opened and report.best.checkpoint.generator_sha256 in opened
    assert all(str(seed) in opened for seed in report.best.seeds) and text.count("quiet") + text.count("raised") >= 4

    widths = screen.driver.execute_script("return [...document.querySelectorAll('img')].map(one => one.naturalWidth)")
    assert len(widths) > 30 and all(widths)
    shown = screen.driver.execute_script("return [...document.querySelectorAll('svg')].map(one => one.clientWidth)")
    assert sum(width > 0 for width in shown) == 1 and max(shown) <= size[0]
    assert resources(screen) == [] and screen.driver.get_log("browser") == []


def resources(screen: Browser) -> list[Any]:
    """Whatever the page asked anybody for."""
    asked: list[Any] = screen.driver.execute_script(
        "return performance.getEntriesByType('resource').map(one => one.name).filter(name => !name.startsWith('data:'))"
    )
    return asked


@pytest.mark.parametrize("size", [PHONE, DESKTOP])
def test_the_latent_browser(evaluated: tuple[EvalReport, Path], screen: Browser, size: tuple[int, int]) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    report, path = evaluated
    screen.look_like(*size)
    screen.open(path.as_uri(), report.run_id)
    screen.driver.execute_script("document.querySelector('a[href$=\"-latents.html\"]').click()")
    screen.read("truncation", "Back to the report")

    def state() -> tuple[str, str, str]:
        seed, truncation, image = screen.driver.execute_script(
            "return [seed.textContent, truncation.textContent, frame.src]"
        )
        return seed, truncation, image

    def press(key: str) -> tuple[str, str, str]:
        screen.driver.find_element(By.TAG_NAME, "body").send_keys(key)
        return state()

    assert screen.driver.execute_script(SIDEWAYS) == 0
    start = state()
    assert start[:2] == ("0", "1") and not screen.driver.find_element(By.ID, "seed-less").is_enabled()
    if size == DESKTOP:
        keep(screen, "report-latents")
    seen = [start, press(Keys.ARROW_RIGHT), press(Keys.ARROW_UP), press(Keys.ARROW_DOWN), press(Keys.ARROW_DOWN)]
    assert [one[:2] for one in seen] == [("0", "1"), ("1", "1"), ("1", "1.25"), ("1", "1"), ("1", "0.75")]
    assert seen[3] == seen[1] and len({one[2] for one in seen}) == 4
    assert press(Keys.ARROW_LEFT)[:2] == ("0", "0.75") and press(Keys.ARROW_LEFT)[:2] == ("0", "0.75"), "the end"
    screen.driver.find_element(By.ID, "seed-more").click()
    screen.driver.find_element(By.ID, "truncation-more").click()
    assert state() == seen[1]
    screen.driver.execute_script("seeds.value = 7; seeds.dispatchEvent(new Event('input'))")
    assert state()[0] == "7" and not screen.driver.find_element(By.ID, "seed-more").is_enabled()
    assert "--seed 7 --n 36" in screen.text()
    bottom = screen.driver.execute_script(
        "return document.getElementById('truncation-more').getBoundingClientRect().bottom"
    )
    assert bottom <= size[1], "image and buttons are on the screen together"
    assert resources(screen) == []
