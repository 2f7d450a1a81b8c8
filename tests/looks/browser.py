"""A real browser without a window: Debian's Chromium, driven by selenium."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

PACKAGES = ("chromium", "chromium-driver")
FLAGS = ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--hide-scrollbars")
WAIT_SECONDS = 60.0


class Browser:
    """One page at a time, 1600 x 1000 pixels."""

    def __init__(self) -> None:
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service

        os.environ["SE_AVOID_STATS"] = "true"
        options = webdriver.ChromeOptions()
        options.binary_location = str(shutil.which("chromium"))
        for flag in (*FLAGS, "--window-size=1600,1000"):
            options.add_argument(flag)
        self.driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))

    def open(self, url: str, *words: str) -> str:
        """The page's text, once all the words are in it."""
        self.driver.get("about:blank")  # a new fragment alone loads nothing
        self.driver.get(url)
        return self.read(*words)

    def read(self, *words: str) -> str:
        """The text of the page as it is, once all the words are in it."""
        self.until(lambda: all(word in self.text() for word in words), lambda: f"{words} in: {self.text()}")
        return self.text()

    def text(self) -> str:
        return str(self.driver.execute_script("return document.body ? document.body.innerText : ''"))

    def until(self, condition: Callable[[], bool], what: Callable[[], str]) -> None:
        deadline = time.monotonic() + WAIT_SECONDS
        while not condition():
            assert time.monotonic() < deadline, f"waited in vain for {what()}"
            time.sleep(0.3)

    def look_like(self, width: int, height: int, dark: bool = False) -> None:
        """Be a screen of so many pixels, whose owner likes it light or dark."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        likes = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [likes]})

    def look_as_before(self) -> None:
        self.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})

    def picture(self, path: Path) -> None:
        self.driver.save_screenshot(str(path))


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    _installed_or_skipped()
    opened = Browser()
    yield opened
    opened.driver.quit()


def _installed_or_skipped() -> None:
    if all(map(shutil.which, ("chromium", "chromedriver"))):
        return
    reason = "there is no chromium with chromedriver, and this is no Debian with root to install it"
    if shutil.which("apt-get") and os.geteuid() == 0:
        for command in (["update"], ["install", "-y", "--no-install-recommends", *PACKAGES]):
            done = subprocess.run(["apt-get", "-q", *command], capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return
        reason = done.stderr.strip()
    reason = f"NO PAGE IS LOOKED AT: {reason}"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)
