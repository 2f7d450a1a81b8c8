"""Where things live on this machine. Read from the environment only, never from a run's YAML."""

from __future__ import annotations

import getpass
import math
import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote, unquote

from pydantic import BaseModel, ConfigDict, Field

from .errors import InputError

TRACKING_OFF = "off"
CACHE_GB = 20.0

SQLITE = "sqlite:///"


def file_uri(path: Path) -> str:
    """`file:///...` of an absolute path, readable: only what has a meaning in a URI is escaped, spaces are not."""
    return f"file://{_escaped(path)}"


def _escaped(path: Path) -> str:
    return "".join(quote(letter) if letter in "%#?" else letter for letter in str(path))


def _gigabytes(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not number >= 0:
        raise InputError(f"GANPIPE_CACHE_GB={text!r}: use a number of gigabytes, like {CACHE_GB:g}")
    return number


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise InputError(f"GANPIPE_NUM_PROCESSES={text!r}: use a whole number, 1 or more")
    return int(text)


def user_name() -> str:
    """Who runs this; `unknown` where the system does not know the user, as in many containers."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


class Settings(BaseModel):
    """Locations and machine facts; the same run gives the same numbers under any of them.

    Environment variables:
        GANPIPE_HOME: folder for everything local (default `.ganpipe` under the working directory).
        GANPIPE_STORE: `file:///...` (default `<home>/store`) or `s3://bucket/prefix`, with endpoint, region and keys in
            boto3's own variables (AWS_ENDPOINT_URL, AWS_DEFAULT_REGION, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY).
        GANPIPE_CACHE_GB: how much of an S3 store is kept in `<home>/cache`, in 10^9 bytes (default 20).
        GANPIPE_TRACKING_URI: MLflow's tracking URI (default SQLite under `<home>`), or `off`.
        GANPIPE_INCEPTION_WEIGHTS: file with torch-fidelity's Inception weights.
        GANPIPE_NUM_PROCESSES: processes that train and evaluate together on this machine (default 1).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    home: Path
    """Folder for local state: work in progress, indexes, caches."""
    store: str
    """URI of the store that keeps data sets, runs and models."""
    tracking_uri: str
    """MLflow tracking URI, or `off`."""
    cache_gb: float = CACHE_GB
    """How much of a remote store is kept under `home`, in 10^9 bytes; what is in use stays in any case."""
    inception_weights: Path | None = None
    """torch-fidelity's Inception weights, when they are not in torch's cache or in the store."""
    num_processes: int = Field(1, ge=1)
    """Processes that train and evaluate together on this machine: one for each GPU."""
    nodes: int = Field(1, ge=1)
    """Machines that train together."""
    node: int = Field(0, ge=0)
    """Which of them this one is; the first one keeps the records."""
    rendezvous: str | None = None
    """`host:port` of the first one, free there and to be reached from all; needed with several machines."""

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Settings:
        """Settings of this process. Raises InputError for a store URI that no backend serves."""
        try:
            home = Path(environ.get("GANPIPE_HOME") or ".ganpipe").expanduser().resolve()
        except (OSError, RuntimeError) as error:
            raise InputError(f"GANPIPE_HOME cannot be found: {error}; set it to an absolute path") from error
        store = environ.get("GANPIPE_STORE") or f"{file_uri(home)}/store"
        if store.startswith("s3://"):
            store = store.rstrip("/")
        elif not store.startswith("file://"):
            raise InputError(f"GANPIPE_STORE={store!r}: use file:///absolute/folder or s3://bucket/prefix")
        weights = environ.get("GANPIPE_INCEPTION_WEIGHTS")
        return cls(
            home=home,
            store=store,
            tracking_uri=environ.get("GANPIPE_TRACKING_URI") or f"{SQLITE}{_escaped(home)}/mlflow.db",
            cache_gb=_gigabytes(environ.get("GANPIPE_CACHE_GB") or str(CACHE_GB)),
            inception_weights=Path(weights).expanduser() if weights else None,
            num_processes=_count(environ.get("GANPIPE_NUM_PROCESSES") or "1"),
        )

    def on_processes(self, **given: int | str | None) -> Settings:
        """The same with `num_processes`, `nodes`, `node` and `rendezvous` as they are given, None for as they are.

        Raises InputError when several machines have no place to meet.
        """
        settings = self.model_copy(update={name: value for name, value in given.items() if value is not None})
        host, _, port = (settings.rendezvous or "").rpartition(":")
        met = settings.nodes > 1 and bool(host) and port.isdigit() and 0 <= settings.node < settings.nodes
        if (settings.nodes, settings.node, settings.rendezvous) != (1, 0, None) and not met:
            raise InputError(
                f"several machines need --nodes N, 2 or more (here {settings.nodes}), and --rendezvous HOST:PORT, the "
                f"same on every machine (here {settings.rendezvous}), and --node K, 0 to N - 1, another one on each "
                f"(here {settings.node})"
            )
        return settings

    @property
    def tracking_on(self) -> bool:
        return self.tracking_uri.lower() not in (TRACKING_OFF, "none")

    def local_folder(self, *names: str) -> Path:
        """A folder under `home`, made when it is not there. Raises InputError when it cannot be."""
        path = self.home.joinpath(*names)
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"GANPIPE_HOME={self.home}: cannot be written to: {error}; set it to another folder"
            ) from error
        return path

    def prepared_tracking_uri(self) -> str:
        """`tracking_uri`, with the folder of an SQLite file made. Raises InputError when it cannot be."""
        if self.tracking_uri.startswith(SQLITE):
            path = Path(unquote(self.tracking_uri.removeprefix(SQLITE).partition("?")[0]))
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise InputError(f"GANPIPE_TRACKING_URI={self.tracking_uri}: {error}") from error
        return self.tracking_uri

    def to_environment(self) -> dict[str, str]:
        """The variables that give a child process these very settings."""
        variables = {
            "GANPIPE_HOME": str(self.home),
            "GANPIPE_STORE": self.store,
            "GANPIPE_TRACKING_URI": self.tracking_uri,
            "GANPIPE_CACHE_GB": str(self.cache_gb),
            "GANPIPE_NUM_PROCESSES": str(self.num_processes),
        }
        if self.inception_weights:
            variables["GANPIPE_INCEPTION_WEIGHTS"] = str(self.inception_weights)
        return variables
