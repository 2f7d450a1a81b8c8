"""What libraries may put on the screen, and how our own words look. Called by the command line only."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .settings import Settings


def set_up_logging() -> None:
    """ganpipe's own words to stderr; libraries only speak of what went wrong."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Short())
    for name in ("ganpipe", "flows"):
        logger = logging.getLogger(name)
        logger.setLevel(logging.INFO)
        logger.handlers = [handler]
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    if not sys.warnoptions:
        ours = "ignore::DeprecationWarning,ignore::FutureWarning"
        os.environ.setdefault("PYTHONWARNINGS", ours)
        for category in (DeprecationWarning, PendingDeprecationWarning, FutureWarning):
            warnings.simplefilter("ignore", category)


def keep_to_ourselves(settings: Settings) -> None:
    """Libraries leave the user's home folder alone, tell nobody, draw no bars, and find the store. Children's too."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # it would keep an installation id in ~/.config/mlflow
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MPLCONFIGDIR", str(settings.home / "matplotlib"))
    if settings.store.startswith("s3://"):  # MLflow's own client is to speak to the server as ours does
        os.environ.setdefault("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
        os.environ.setdefault("AWS_RESPONSE_CHECKSUM_VALIDATION", "when_required")
        os.environ.setdefault("MLFLOW_BOTO_CLIENT_ADDRESSING_STYLE", "path")


class _Short(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return text if record.levelno <= logging.INFO else f"{record.levelname.lower()}: {text}"


def quiet_orchestrator(settings: Settings) -> None:
    """Environment of a Prefect that tells nobody, writes under our own folder, and leaves the screen to us.

    Must come before Prefect is imported. What the user has set is kept; with PREFECT_API_URL that server is used.
    """
    for name, value in {
        "DO_NOT_TRACK": "1",
        "PREFECT_HOME": str(settings.local_folder("prefect")),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
        "PREFECT_LOGGING_EXTRA_LOGGERS": "ganpipe",
        "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    }.items():
        os.environ.setdefault(name, value)
