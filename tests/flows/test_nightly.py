from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from nights import replace_stages
from tiny import tiny_raw
from webhook import listening

from ganpipe.errors import InputError, WorkFailed
from ganpipe.grids import grid_png
from ganpipe.quiet import quiet_orchestrator
from ganpipe.settings import Settings
from ganpipe.storage import open_store
from ganpipe.summary import markdown, summary


@pytest.fixture(scope="module", autouse=True)
def _server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    before = dict(os.environ)
    home = tmp_path_factory.mktemp("home")
    quiet_orchestrator(Settings(home=home, store=f"file://{home}/store", tracking_uri="off"))
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def nightly(monkeypatch: pytest.MonkeyPatch) -> Any:
    from flows import nightly

    monkeypatch.setenv("GANPIPE_TRACKING_URI", "sqlite:///nowhere.db")
    monkeypatch.setitem(nightly.IO, "retry_delay_seconds", 0)
    return nightly.nightly


def test_a_night_under_prefect(nightly: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect.artifacts import Artifact

    calls = replace_stages(monkeypatch)
    result = nightly(tiny_raw(seed="auto"), overrides=["train.batch=8"], seed=5)
    assert [name for name, _ in calls] == ["prepare", "train", "evaluate", "register", "promote"]
    assert calls[1][1].flow_run_id and result.run_id == calls[1][1].run_id
    artifact = Artifact.get("nightly-tiny")
    assert artifact is not None and "not promoted" in str(artifact.data) and result.run_id in str(artifact.data)
    name = f"{'p' * 16}.html"
    assert f"/runs/{result.run_id}/reports/{name}`" in str(artifact.data)
    served = result.model_copy(update={"run_page": "http://mlflow/#/experiments/1/runs/t"})
    assert f"- report: [{name}](http://mlflow/#/experiments/1/runs/t/artifacts/reports/{name})" in markdown(served)
    assert f"/reports/{name}" in summary(result, Settings.from_environment())


def test_wrong_input_stops_at_the_first_line(nightly: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = replace_stages(monkeypatch)
    with pytest.raises(InputError, match=r"train\.batch"):
        nightly(tiny_raw(batch="many"))
    assert calls == []


def test_only_places_that_were_away_are_tried_again(nightly: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = replace_stages(monkeypatch, {"prepare": [OSError("away")], "register": [WorkFailed("away")]})
    nightly(tiny_raw())
    assert [name for name, _ in calls].count("prepare") == [name for name, _ in calls].count("register") == 2

    for stage, error in (("prepare", InputError("wrong")), ("train", WorkFailed("not finite"))):
        calls = replace_stages(monkeypatch, {stage: [error]})
        with pytest.raises(type(error), match=str(error)):
            nightly(tiny_raw())
        assert [name for name, _ in calls].count(stage) == 1


def test_a_retry_of_the_flow_run_continues_its_run(nightly: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = replace_stages(monkeypatch, {"train": [WorkFailed("the machine went away")]})
    nightly.with_options(retries=1, retry_delay_seconds=2)(tiny_raw(seed="auto"))
    first, second = [record for name, record in calls if name == "train"]
    assert first.run_id == second.run_id and first.config_digest == second.config_digest


def test_the_morning_message_carries_the_grids(
    nightly: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from prefect import flow
    from prefect.blocks.notifications import SlackWebhook

    from flows.nightly import tell

    replace_stages(monkeypatch)
    night = nightly(tiny_raw())
    settings = Settings.from_environment()
    png = grid_png(np.zeros((4, 1, 8, 8), np.uint8))
    open_store(settings.store).write_bytes("runs/tiny-run/reports/side-by-side.png", png)
    with_picture = night.model_copy(update={"side_by_side": f"{settings.store}/runs/tiny-run/reports/side-by-side.png"})
    with listening() as (server, messages):
        SlackWebhook(url=f"json://127.0.0.1:{server.server_port}").save("grids")  # any address that Apprise knows
        flow(lambda: tell("slack-webhook/grids", with_picture, settings), name="morning")()
        flow(lambda: tell("slack-webhook/grids", night, settings), name="morning")()
    first, second = map(json.loads, messages)
    assert first["title"] == "tiny: the champion stays" and night.decision.reason in first["message"]
    assert "/runs/flow-run/" in first["message"]
    (attached,) = first["attachments"]
    assert attached["filename"] == "tiny-7.png" and base64.b64decode(attached["base64"]) == png
    assert not second["attachments"]

    flow(lambda: tell("slack-webhook/grids", night, settings), name="morning")()
    assert "slack-webhook/grids did not take the morning's message" in caplog.text
