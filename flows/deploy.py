"""Deployments: nights that Prefect's server starts by schedule. Their worker is in worker.py."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from httpx import HTTPError, HTTPStatusError
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.client.schemas.schedules import CronSchedule
from prefect.deployments.runner import RunnerDeployment
from prefect.events.schemas.automations import AutomationCore as Automation
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.settings import PREFECT_API_URL
from prefect.types.entrypoint import EntrypointType
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ganpipe.config import RunConfig, config_digest, config_to_json, load_config
from ganpipe.configfile import read_yaml
from ganpipe.errors import InputError, WorkFailed

from .nightly import gpu_limit, nightly
from .watch import TAG, automations

POOL = "ganpipe"
MAX_HOURS = 20.0


class Nightly(BaseModel):
    """A configuration that is trained again and again."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    config: RunConfig
    schedule: CronSchedule | None = None
    """None: started by hand only."""
    pool: str = POOL
    """Work pool, whose worker's machine trains it."""
    num_processes: int = Field(1, ge=1)
    """Processes, and so GPUs, of a night."""
    max_hours: float = Field(MAX_HOURS, gt=0)
    """After which a night is stopped, at a checkpoint."""
    notify: str | None = None
    """Prefect block that takes the morning's message, like `slack-webhook/team`."""


class Deployed(BaseModel):
    """A deployment on the server."""

    name: str
    """For `prefect deployment run`."""
    url: str
    schedule: str
    config_digest: str


class Entry(BaseModel):
    """A deployment in a file in the format of Prefect's prefect.yaml, of which this much is known here."""

    model_config = ConfigDict(extra="forbid")

    class Parameters(BaseModel):
        model_config = ConfigDict(extra="forbid")

        config: Path
        """From the file's folder."""
        overrides: list[str] = []
        num_processes: int = Field(1, ge=1)
        max_hours: float = Field(MAX_HOURS, gt=0)
        notify: str | None = None

    class WorkPool(BaseModel):
        model_config = ConfigDict(extra="forbid")

        name: str = POOL

    name: str
    """The configuration's."""
    parameters: Parameters
    schedule: CronSchedule | None = None
    work_pool: WorkPool = WorkPool()


class File(BaseModel):
    """All of it."""

    model_config = ConfigDict(extra="forbid")

    deployments: list[Entry]


def nights_of(path: Path) -> list[Nightly]:
    """The deployments of a file. Raises InputError naming file and field."""
    try:
        entries = File.model_validate(read_yaml(path)).deployments
    except ValidationError as error:
        problem = error.errors()[0]
        raise InputError(f"{path}: {'.'.join(map(str, problem['loc']))}: {problem['msg']}") from error
    nights = []
    for entry in entries:
        asked = entry.parameters
        config = load_config(path.parent / asked.config, asked.overrides)
        if config.name != entry.name:
            raise InputError(
                f"{path}: deployment {entry.name} has the configuration of {config.name}; give it that name"
            )
        nights.append(
            Nightly(
                config=config,
                schedule=entry.schedule,
                pool=entry.work_pool.name,
                num_processes=asked.num_processes,
                max_hours=asked.max_hours,
                notify=asked.notify,
            )
        )
    return nights


def scheduled(cron: str | None, timezone: str) -> CronSchedule | None:
    """Raises InputError for what is no schedule, or no time zone."""
    if cron is None:
        return None
    try:
        return CronSchedule(cron=cron, timezone=timezone)
    except ValidationError as error:
        raise InputError("; ".join(f"--{problem['loc'][0]}: {problem['msg']}" for problem in error.errors())) from error


def deploy(night: Nightly) -> Deployed:
    """Create or replace the deployment of `night`, and all that it needs on the server before its first run.

    Raises InputError when there is no server, WorkFailed when it does not answer.
    """
    with server() as client:
        ensure_pool(client, night.pool)
        ensure_gpus(client, night.pool, night.num_processes)
        block = notification_block(client, night.notify)
        config = pinned(night)
        deployment = nightly.to_deployment(
            config.name,
            schedules=[night.schedule] if night.schedule else [],
            concurrency_limit=ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW),
            parameters={
                "config": config_to_json(config),
                "num_processes": night.num_processes,
                "max_hours": night.max_hours,
                "pool": night.pool,
                "notify": night.notify,
            },
            description=f"Trains `{config.name}` for the product `{config.registration.model}`; "
            f"configuration {config_digest(config)[:12]}, as it was when this was deployed.",
            tags=[TAG],
            version=config_digest(config)[:12],
            work_pool_name=night.pool,
            entrypoint_type=EntrypointType.MODULE_PATH,
        )
        assert isinstance(deployment, RunnerDeployment)  # and no coroutine: nothing here is asynchronous
        identity = deployment.apply()
        for automation in automations(
            f"{nightly.name}/{config.name}", str(identity), block, night.schedule is not None
        ):
            ensure_automation(client, automation)
        schedule = f"{night.schedule.cron} ({night.schedule.timezone})" if night.schedule else "by hand"
        return Deployed(
            name=f"{nightly.name}/{config.name}",
            url=f"{str(client.api_url).rstrip('/').removesuffix('/api')}/deployments/deployment/{identity}",
            schedule=schedule,
            config_digest=config_digest(config),
        )


def pinned(night: Nightly) -> RunConfig:
    """The configuration as any machine's worker finds it: paths from the root, times of day in the schedule's zone."""
    raw = config_to_json(night.config)
    path = raw["prepare"]["source"].get("path")
    if path is not None:
        raw["prepare"]["source"]["path"] = str(Path(path).expanduser().absolute())
    stop = raw["train"]["stop"]
    if stop["at"] and not stop["timezone"] and night.schedule:
        stop["timezone"] = night.schedule.timezone
    return RunConfig.model_validate(raw)


# --- what a night needs on the server ------------------------------------------------------------------------------


@contextmanager
def server() -> Iterator[SyncPrefectClient]:
    """A client of the server in PREFECT_API_URL; its absence in words."""
    url = PREFECT_API_URL.value()
    if not url:
        raise InputError(
            "PREFECT_API_URL is not set: schedules need a server that runs all the time; `make stack-up` starts one"
        )
    try:
        with get_client(sync_client=True) as client:
            yield client
    except HTTPStatusError as error:
        if error.response.status_code in (401, 403):
            raise InputError(
                f"Prefect at {url} refuses the credentials; set PREFECT_API_AUTH_STRING=user:password"
            ) from error
        raise WorkFailed(f"Prefect at {url}: {error}") from error
    except HTTPError as error:
        raise WorkFailed(
            f"Prefect at {url} does not answer ({type(error).__name__}); start it, or set PREFECT_API_URL"
        ) from error


def ensure_pool(client: SyncPrefectClient, name: str) -> None:
    with suppress(ObjectAlreadyExists):
        client.create_work_pool(WorkPoolCreate(name=name, type="process"))


def ensure_gpus(client: SyncPrefectClient, pool: str, asked: int) -> None:
    """The limit on a pool's GPUs, before its first night. Its worker says how many there are, until then a deployment.

    Raises InputError when a night asks for more than there are: it would wait for ever.
    """
    try:
        there = client.read_global_concurrency_limit_by_name(gpu_limit(pool)).limit
    except ObjectNotFound:
        client.upsert_global_concurrency_limit_by_name(gpu_limit(pool), asked)
        return
    if asked > there:
        raise InputError(
            f"--num-processes {asked}: the worker of pool {pool} has {there} (Prefect's limit {gpu_limit(pool)}); "
            "ask for fewer, or start the worker on a machine with more"
        )


def notification_block(client: SyncPrefectClient, slug: str | None) -> Any:
    """The id of a block document, by its slug. Raises InputError when there is none."""
    if slug is None:
        return None
    kind, _, name = slug.partition("/")
    try:
        return client.read_block_document_by_name(name, kind).id
    except ObjectNotFound as error:
        raise InputError(
            f"--notify {slug}: there is no such block; make one on Prefect's page Blocks, and write TYPE/NAME, like "
            "slack-webhook/team"
        ) from error


def ensure_automation(client: SyncPrefectClient, wanted: Automation) -> None:
    """Create it, or bring the one of its name up to date."""
    for existing in client.read_automations_by_name(wanted.name):
        client.update_automation(existing.id, wanted)
        return
    client.create_automation(wanted)
