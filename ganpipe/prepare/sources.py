"""Where data comes from: every kind of source by its name. It finds out cheaply what it holds, and loads it later."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from ..translationconfig import AnySource
from .archive import archive
from .captioned import captioned_digits
from .digits import digits
from .folder import folder
from .found import Found
from .paired import paired, paired_folder
from .s3 import s3
from .tables import hub, parquet
from .unpaired import restyled_digits, unpaired, unpaired_folder

CLOCK_TICK_SECONDS = 0.02

SOURCES: dict[str, Callable[[Any], Found]] = {
    "digits": digits,
    "stacked_digits": digits,
    "captioned_digits": captioned_digits,
    "folder": folder,
    "archive": archive,
    "s3": s3,
    "parquet": parquet,
    "hub": hub,
    "paired_folder": paired_folder,
    "paired": paired,
    "unpaired_folder": unpaired_folder,
    "unpaired": lambda source: unpaired(source, find),
    "restyled_digits": restyled_digits,
}


def find(source: AnySource) -> Found:
    """What the source holds. Raises InputError when it is missing or holds no images."""
    found = SOURCES[source.name](source)
    newest = max((stat.ctime_ns for stat in found.stats), default=0)
    if time.time_ns() - newest < CLOCK_TICK_SECONDS * 1e9:
        # A file changed again within the same tick of the file system's clock would look unchanged later on.
        time.sleep(CLOCK_TICK_SECONDS)
        found = SOURCES[source.name](source)
    return found
