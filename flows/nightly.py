"""The nightly flow: the stages of ganpipe/night.py as Prefect's tasks, and the result as an artifact.

Data sets are not cached here: `prepare` keeps its own index by content digest, and a second one could only disagree.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from contextlib import nullcontext
from datetime import UTC
from typing import Any, TypeVar

from prefect import flow, runtime, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from ganpipe.config import load_config
from ganpipe.errors import InputError, WorkFailed
from ganpipe.night import Night, markdown, night
from ganpipe.notes import in_short
from ganpipe.settings import Settings
from ganpipe.storage import open_store

from .progress import progress_of

Result = TypeVar("Result")

MAX_PICTURE_BYTES = 256 << 10
"""Of a picture inside the artifact: image artifacts proper take only addresses that a browser can reach."""


def worth_a_retry(_task: Any, _run: Any, state: Any) -> bool:
    """A place that was away may be back; wrong input stays wrong."""
    try:
        state.result()
    except InputError:
        return False
    except (OSError, WorkFailed):
        return True
    except BaseException:
        return False
    return False


IO = {"retries": 2, "retry_delay_seconds": 5, "retry_condition_fn": worth_a_retry}
RETRIED: dict[str, dict[str, Any]] = {"prepare": IO, "register": IO}
"""Stages that read from and write to other machines. A training that failed is continued by a retry of the flow run."""


@flow(name="nightly", persist_result=False)
def nightly(config: dict[str, Any] | str, overrides: list[str] | None = None, seed: int | None = None) -> Night:
    """Train the configuration (a YAML file's path, or its content) and ask the gate about the result.

    A retry of the same flow run continues its run.
    """
    resolved = load_config(config, [*(overrides or []), *([] if seed is None else [f"train.seed={seed}"])])
    settings = Settings.from_environment()
    result = night(
        resolved,
        settings,
        started=runtime.flow_run.scheduled_start_time.astimezone(UTC),
        call=as_task,
        flow_run_id=str(runtime.flow_run.id),
        where=f"flow run {runtime.flow_run.name}",
    )
    create_markdown_artifact(
        markdown(result, *(_embedded(uri, settings) for uri in (result.side_by_side or result.grid, result.trend))),
        key=f"nightly-{result.model.product}".lower().replace("_", "-").replace(".", "-"),
        description=f"{in_short(result.decision)} ({result.run_id})",
    )
    return result


def as_task(name: str, stage: Callable[..., Result], *arguments: Any, **options: Any) -> Result:
    """Run a stage as a task, in this thread: a submitted one could not stop its child process when it is cancelled.

    The arguments stay out of Prefect's hands, which would look for futures in every corner of them.
    """

    def run_stage() -> Result:
        with progress_of(*arguments) if name == "train" else nullcontext():
            return stage(*arguments, **options)

    return task(name=name, cache_policy=NO_CACHE, persist_result=False, **RETRIED.get(name, {}))(run_stage)()


def _embedded(uri: str | None, settings: Settings) -> str | None:
    """A picture of the store as an address that holds it; None when it is missing or large."""
    if uri is None:
        return None
    try:
        png = open_store(settings.store).read_bytes(uri.removeprefix(f"{settings.store}/"))
    except FileNotFoundError:
        return None
    if len(png) > MAX_PICTURE_BYTES:
        return None
    return "data:image/png;base64," + base64.b64encode(png).decode()
