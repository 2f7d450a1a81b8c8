"""When a training is over."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from ..trainconfig import StopConfig
from . import alarms
from .checkpoint import Progress


def deadline(stop: StopConfig, now: datetime) -> datetime | None:
    """The first moment `stop.at`, less the reserve, that lies ahead of `now`, in UTC; None without one."""
    if stop.at is None:
        return None
    hour, minute = map(int, stop.at.split(":"))
    here = now.astimezone(ZoneInfo(stop.timezone)) if stop.timezone else now.astimezone().replace(tzinfo=None)
    moment = here.replace(hour=hour, minute=minute, second=0, microsecond=0) - timedelta(minutes=stop.reserve_minutes)
    while moment <= here:  # twice, where the reserve reaches back over midnight
        moment += timedelta(days=1)
    return moment.astimezone(UTC)


def is_over(stop: StopConfig, progress: Progress, deadline: datetime | None) -> bool:
    """Whether a limit of `train.stop` or an alarm of `train.stop_on` is reached."""
    return (
        (stop.kimg is not None and progress.images_seen >= stop.kimg * 1000)
        or (stop.hours is not None and progress.seconds >= stop.hours * 3600)
        or (deadline is not None and datetime.now(UTC) >= deadline)
        or alarms.over(progress)
    )
