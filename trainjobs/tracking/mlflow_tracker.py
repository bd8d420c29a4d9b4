"""Opens a run's tracker: which MLflow, whether it answers, and a run in it.

Importing this is cheap; mlflow itself is imported in the tracker's thread.
"""

import fcntl
import logging
import os
import ssl
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from cluster.errors import ConfigError, TrackingError
from trainjobs.config import TrackingConfig
from trainjobs.tracking.background import BackgroundTracker, one_line
from trainjobs.tracking.tracker import Tracker

if TYPE_CHECKING:
    from trainjobs.tracking.mlflow_run import MlflowRun

logger = logging.getLogger(__name__)

MLFLOW_SETTINGS = {
    # Seven retries of up to 120 s each would hold one record for minutes; we repeat on our own.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    # Standard output belongs to the commands.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
DATABASE_SCHEMES = ("sqlite", "postgresql", "mysql", "mssql")
OPEN_TIMEOUT_S = 120.0  # import and a new sqlite schema took 5 to 70 s; others may be first
POLL_S = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class TrackingStore:
    """Which MLflow a run is recorded in."""

    uri: str
    artifacts: str | None = None
    """Where new experiments keep files; None leaves it to the server."""
    warning: str | None = None
    """What the user should know about the choice."""

    @property
    def is_server(self) -> bool:
        """Whether it is reached over HTTP."""
        return self.uri.startswith(("http://", "https://"))

    @property
    def public_uri(self) -> str:
        """The URI without credentials."""
        scheme, separator, rest = self.uri.partition("://")
        host, slash, path = rest.partition("/")
        return f"{scheme}{separator}{host.rpartition('@')[2]}{slash}{path}"


def choose_store(uri: str | None, storage: str, environ: Mapping[str, str]) -> TrackingStore:
    """Decide where to record, without touching anything.

    Args:
        uri: `tracking.uri`.
        storage: absolute path or URI of the folder that holds the runs.
        environ: the environment; MLFLOW_TRACKING_URI stands in for a missing `uri`.

    Raises:
        ConfigError: the URI is a folder, which MLflow no longer writes to.
    """
    source = "tracking.uri" if uri else "MLFLOW_TRACKING_URI"
    uri = uri or environ.get("MLFLOW_TRACKING_URI")
    if not uri:
        if "://" not in storage or storage.startswith("file://"):
            return _sqlite_under(Path(storage.removeprefix("file://")))
        folder = Path.home() / ".trainjobs"
        text = (
            f"runs are kept at {storage}, but no MLflow server is set (tracking.uri or "
            f"MLFLOW_TRACKING_URI): MLflow records into {folder / 'mlflow.db'} on this machine"
        )
        return _sqlite_under(folder, warning=text)
    scheme = urlsplit(uri).scheme.partition("+")[0]
    if scheme == "sqlite" and uri.partition(":///")[2]:
        path = Path(uri.partition(":///")[2]).absolute()
        return TrackingStore(uri=f"sqlite:///{path}", artifacts=str(path.parent / "mlartifacts"))
    if scheme in DATABASE_SCHEMES:
        return TrackingStore(uri=uri, artifacts=f"{storage}/mlartifacts")
    if scheme in ("", "file") and uri != "databricks":
        raise ConfigError(
            f"{source} must be a server (http://...) or a database (sqlite:///FILE), got the "
            f"folder {uri!r}, which MLflow no longer writes to"
        )
    return TrackingStore(uri=uri)


def store_uri(config: TrackingConfig, storage: str) -> str:
    """URI of the store that a run with this config records in, for other runs to be given it."""
    return choose_store(config.uri, storage, os.environ).uri


def _sqlite_under(folder: Path, warning: str | None = None) -> TrackingStore:
    return TrackingStore(
        uri=f"sqlite:///{folder / 'mlflow.db'}",
        artifacts=str(folder / "mlartifacts"),
        warning=warning,
    )


def open_tracker(
    config: TrackingConfig,
    *,
    run_name: str,
    storage: str,
    experiment: str,
    resume_run_id: str | None = None,
) -> Tracker:
    """Open the tracker of one run, in the driver's process, without waiting for it.

    A thread imports mlflow and opens the run; what is logged meanwhile waits for it. A tracker
    that cannot be had is one warning: training does not need it.

    Args:
        config: where; a server gets `timeout_s` to answer.
        run_name: name of the MLflow run.
        storage: absolute path or URI of the folder that holds the runs.
        experiment: name of the MLflow experiment, unless the config names one.
        resume_run_id: MLflow run to continue; where it is gone, a new one with a warning.

    Raises:
        ConfigError: `tracking.uri` cannot be used at all.
    """
    store = choose_store(config.uri, storage, os.environ)
    if store.warning:
        logger.warning("%s", store.warning)
    experiment = config.experiment or experiment
    place = f"MLflow at {store.public_uri}"

    def open_sink() -> "MlflowRun":
        if store.is_server:
            _wait_for_server(store.public_uri, config.timeout_s)
        _prepare_mlflow()
        from trainjobs.tracking.mlflow_run import open_run  # noqa: PLC0415  # 4 s, only if used

        _silence_libraries()
        with _sqlite_lock(store.uri):
            return open_run(
                store.uri,
                place=place,
                experiment=experiment,
                artifacts=store.artifacts and f"{store.artifacts}/{quote(experiment, safe=' ')}",
                run_name=run_name,
                run_id=resume_run_id,
                parent_run_id=config.parent_run_id,
            )

    return BackgroundTracker(open_sink, place=place, open_timeout_s=OPEN_TIMEOUT_S)


def _prepare_mlflow() -> None:
    for name, value in MLFLOW_SETTINGS.items():
        os.environ.setdefault(name, value)
    # MLflow 3.17 uses what sqlalchemy 2.1 deprecates; nobody here can change that.
    warnings.filterwarnings("ignore", "The ``noload`` loader strategy", DeprecationWarning)


def _wait_for_server(uri: str, timeout_s: float) -> None:
    """Return once the server answers anything but "not now".

    Raises:
        TrackingError: it did not within `timeout_s`.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        left_s = max(POLL_S, deadline - time.monotonic())
        try:
            urllib.request.urlopen(uri.rstrip("/") + "/health", timeout=left_s).close()
        except urllib.error.HTTPError as error:
            reason: Exception = error
            if error.code < 500:
                return
        except OSError as error:
            reason = error
            if isinstance(getattr(error, "reason", None), ssl.SSLError):
                return  # it is there; MLflow's client has its own settings for certificates
        else:
            return
        if time.monotonic() + POLL_S > deadline:
            raise TrackingError(f"no answer within {timeout_s:g} s: {one_line(reason)}")
        time.sleep(POLL_S)


@contextmanager
def _sqlite_lock(uri: str) -> Iterator[None]:
    """Let one process at a time open a sqlite store: several that create its tables at once fail."""
    if not uri.startswith("sqlite:///"):
        yield
        return
    path = Path(uri.removeprefix("sqlite:///"))
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(path.name + ".lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _silence_libraries() -> None:
    """What MLflow and urllib3 say about their retries and tables is said once, in our words."""
    if "MLFLOW_LOGGING_LEVEL" not in os.environ:
        for name in ("mlflow", "alembic", "sqlalchemy.engine"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
