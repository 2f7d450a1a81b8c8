"""The nightly flow: the stages of ganpipe/night.py as Prefect's tasks, and the result as an artifact.

Data sets are not cached here: `prepare` keeps its own index by content digest, and a second one could only disagree.
"""

from __future__ import annotations

import base64
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import UTC
from typing import Any, TypeVar

from prefect import flow, runtime, task
from prefect.artifacts import create_markdown_artifact
from prefect.blocks.abstract import NotificationBlock
from prefect.blocks.core import Block
from prefect.cache_policies import NO_CACHE
from prefect.concurrency.sync import concurrency
from prefect.settings import PREFECT_UI_URL

from ganpipe.config import load_config
from ganpipe.errors import InputError, WorkFailed
from ganpipe.night import Night, night
from ganpipe.notes import in_short
from ganpipe.settings import Settings
from ganpipe.storage import open_store, scratch_folder
from ganpipe.summary import markdown, summary

from .progress import progress_of

log = logging.getLogger(__name__)

Result = TypeVar("Result")

LEASE_SECONDS = 60.0
"""For which GPUs stay taken when their night was killed."""

MAX_PICTURE_BYTES = 256 << 10
"""Of a picture inside the artifact: image artifacts proper take only addresses that a browser can reach."""


def worth_a_retry(_task: Any, _run: Any, state: Any) -> bool:
    """A place that was away may be back; wrong input stays wrong, and a night's time is up once."""
    if state.name == "TimedOut":
        return False
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
def nightly(
    config: dict[str, Any] | str,
    overrides: list[str] | None = None,
    seed: int | None = None,
    num_processes: int | None = None,
    max_hours: float | None = None,
    pool: str | None = None,
    notify: str | None = None,
) -> Night:
    """Train the configuration (a YAML file's path, or its content) and ask the gate about the result.

    A retry of the same flow run continues its run. The last four belong to deployments, see flows/deploy.py: processes
    that train together, hours after which the night is stopped, the pool whose GPUs they take, and the block that is
    told the result.
    """
    resolved = load_config(config, [*(overrides or []), *([] if seed is None else [f"train.seed={seed}"])])
    settings = Settings.from_environment().on_processes(num_processes=num_processes)
    leave_with_the_worker()
    with gpus(pool, settings.num_processes):
        result = night(
            resolved,
            settings,
            started=runtime.flow_run.scheduled_start_time.astimezone(UTC),
            call=Tasks(max_hours),
            flow_run_id=str(runtime.flow_run.id),
            where=f"flow run {runtime.flow_run.name}",
        )
    create_markdown_artifact(
        markdown(result, *(_embedded(uri, settings) for uri in (result.side_by_side or result.grid, result.trend))),
        key=f"nightly-{result.model.product}".lower().replace("_", "-").replace(".", "-"),
        description=f"{in_short(result.decision)} ({result.run_id})",
    )
    if notify:
        tell(notify, result, settings)
    return result


class Tasks:
    """Runs stages as tasks, in this thread: a submitted one could not stop its child process when it is cancelled.

    Their arguments stay out of Prefect's hands, which would look for futures in every corner of them.
    """

    def __init__(self, max_hours: float | None):
        self._deadline = None if max_hours is None else time.monotonic() + max_hours * 3600

    def __call__(self, name: str, stage: Callable[..., Result], *arguments: Any, **options: Any) -> Result:
        def run_stage() -> Result:
            with progress_of(*arguments) if name == "train" else nullcontext():
                return stage(*arguments, **options)

        left = None if self._deadline is None else max(1.0, self._deadline - time.monotonic())
        stage_task = task(
            name=name, cache_policy=NO_CACHE, persist_result=False, timeout_seconds=left, **RETRIED.get(name, {})
        )
        return stage_task(run_stage)()


def gpu_limit(pool: str) -> str:
    """Name of the limit on a pool's GPUs."""
    return f"{pool}-gpus"


@contextmanager
def gpus(pool: str | None, count: int) -> Iterator[None]:
    """Wait for as many of the pool's GPUs and hold them; of a night without a pool nothing is asked.

    A process that is killed gives them back when its lease ends. A server that is away stops no training.
    """
    if pool is None:
        yield
        return
    log.info("waiting for %d of the GPUs of pool %s", count, pool)
    with concurrency(
        gpu_limit(pool), occupy=count, strict=True, lease_duration=LEASE_SECONDS, raise_on_lease_renewal_failure=False
    ):
        yield


def leave_with_the_worker() -> None:
    """A worker that is killed takes its nights along, as one that is stopped does: nobody else could cancel them."""
    if "PREFECT__FLOW_RUN_ID" not in os.environ:
        return
    worker = os.getppid()

    def watch() -> None:
        while os.getppid() == worker:
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="watch-worker", daemon=True).start()


def tell(block: str, result: Night, settings: Settings) -> None:
    """Send the morning's message, the grids attached. A channel that is away is worth a warning, not a night."""
    verdict = "promoted" if result.decision.promoted else "the champion stays"
    subject = f"{result.model.product}: {verdict}"
    body = f"{summary(result, settings)}\n{flow_run_page()}"
    try:
        channel = Block.load(block)
        if not isinstance(channel, NotificationBlock):
            raise InputError("it sends no messages; name a block of another type")
        apprise = getattr(channel, "_apprise_client", None)  # Prefect's own `notify` takes no pictures
        if apprise is None:
            channel.notify(body, subject=subject)  # type: ignore[unused-coroutine]
            return
        png = _picture(result.side_by_side or result.grid, settings)
        with scratch_folder(settings.local_folder("work"), "message-") as folder:
            picture = folder / f"{result.model.product}-{result.model.version}.png"
            if png is not None:
                picture.write_bytes(png)
            if not apprise.notify(body=body, title=subject, attach=str(picture) if png else None):
                raise WorkFailed("it took nothing; the log of `apprise` says why")
    except Exception as error:
        log.warning("%s did not take the morning's message: %s", block, error)


def flow_run_page() -> str:
    """Of this flow run, on Prefect's pages."""
    return f"night    {PREFECT_UI_URL.value()}/runs/flow-run/{runtime.flow_run.id}"


def _embedded(uri: str | None, settings: Settings) -> str | None:
    """A picture of the store as an address that holds it; None when it is missing or large."""
    png = _picture(uri, settings)
    if png is None or len(png) > MAX_PICTURE_BYTES:
        return None
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _picture(uri: str | None, settings: Settings) -> bytes | None:
    """Of the store; None when it is missing."""
    if uri is None:
        return None
    try:
        return open_store(settings.store).read_bytes(uri.removeprefix(f"{settings.store}/"))
    except FileNotFoundError:
        return None
