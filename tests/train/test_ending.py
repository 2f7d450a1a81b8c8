"""When a training is over by the clock."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from ganpipe.train.ending import deadline
from ganpipe.trainconfig import StopConfig


def test_a_night_whose_window_is_over_means_the_next_one() -> None:
    """With 10 minutes to `at` and an hour in reserve; and 5 minutes to midnight, when the reserve lies behind it."""
    stop = StopConfig(at="06:30", timezone="UTC", reserve_minutes=60)
    assert deadline(stop, datetime(2026, 5, 4, 6, 20, tzinfo=UTC)) == datetime(2026, 5, 5, 5, 30, tzinfo=UTC)
    assert deadline(stop, datetime(2026, 5, 4, 5, 20, tzinfo=UTC)) == datetime(2026, 5, 4, 5, 30, tzinfo=UTC)
    stop = StopConfig(at="00:05", timezone="UTC", reserve_minutes=60)
    assert deadline(stop, datetime(2026, 5, 4, 23, 55, tzinfo=UTC)) == datetime(2026, 5, 5, 23, 5, tzinfo=UTC)


@pytest.mark.parametrize("zone", [None, "UTC", "Pacific/Kiritimati", "Pacific/Pago_Pago"])  # up to 25 hours apart
@pytest.mark.parametrize("reserve", [0, 60, 24 * 60 - 1])
def test_a_deadline_is_within_a_day(zone: str | None, reserve: int) -> None:
    now = datetime(2026, 5, 4, 12, 34, 56, tzinfo=UTC)
    for hour in range(24):
        found = deadline(StopConfig(at=f"{hour:02d}:00", timezone=zone, reserve_minutes=reserve), now)
        assert found is not None and timedelta(0) < found - now <= timedelta(days=1)
        morning = (found + timedelta(minutes=reserve)).astimezone(ZoneInfo(zone) if zone else None)
        assert f"{morning:%H:%M}" == f"{hour:02d}:00"


def test_across_a_change_of_clocks_it_stays_the_morning() -> None:
    """Berlin's night of 25 October 2026 has an hour more."""
    stop = StopConfig(at="06:30", timezone="Europe/Berlin")
    found = deadline(stop, datetime(2026, 10, 24, 20, 0, tzinfo=UTC))
    assert found == datetime(2026, 10, 25, 5, 30, tzinfo=UTC)
