"""One MLflow run as a sink of records. Importing this imports mlflow, which takes 4 s or more."""

import logging
from collections.abc import Mapping

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking.context.registry import resolve_tags
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from cluster.redact import redact
from trainjobs.tracking.records import Artifact, End, Facts, Metrics, Record
from trainjobs.tracking.tracker import Status

logger = logging.getLogger(__name__)

MLFLOW_STATUS: dict[Status, str] = {
    "finished": "FINISHED",
    "stopped": "FINISHED",
    "failed": "FAILED",
    "interrupted": "KILLED",
}
STATUS_TAG = "trainjobs.status"
CHANGED_PREFIX = "resumed."  # MLflow's params cannot change: a new value becomes such a tag
RETRIED_STATUSES = frozenset({408, 429})  # "try again" among HTTP's refusals


class MlflowRun:
    """A `Sink`. Build it with `open_run`."""

    def __init__(self, client: MlflowClient, run_id: str, params: Mapping[str, str]) -> None:
        self._client, self._run_id = client, run_id
        self._params = dict(params)

    @property
    def run_id(self) -> str:
        """MLflow's id of the run."""
        return self._run_id

    def send(self, record: Record) -> None:
        """Write a record; a param that a resumed run changed becomes a tag `resumed.<path>`.

        Raises:
            Exception: MLflow refused or failed, or the artifact store did, in its own type.
        """
        match record:
            case Metrics(values):
                batch = [Metric(one.name, one.value, one.logged_ms, one.step) for one in values]
                self._client.log_batch(self._run_id, metrics=batch)
            case Facts(params, tags):
                self._send_facts(params, tags)
            case Artifact(path, folder):
                copy = self._client.log_artifacts if path.is_dir() else self._client.log_artifact
                copy(self._run_id, str(path), folder)
            case End(status):
                self._client.set_tag(self._run_id, STATUS_TAG, status)
                self._client.set_terminated(self._run_id, MLFLOW_STATUS[status])

    def _send_facts(self, params: Mapping[str, str], tags: Mapping[str, str]) -> None:
        new = {key: text for key, text in params.items() if key not in self._params}
        changed = {
            CHANGED_PREFIX + key: text
            for key, text in params.items()
            if self._params.get(key, text) != text
        }
        self._client.log_batch(
            self._run_id,
            params=[Param(key, text) for key, text in new.items()],
            tags=[RunTag(key, text) for key, text in {**changed, **tags}.items()],
        )
        self._params |= new

    def answers(self) -> bool:
        """Whether the server or database can be read."""
        try:
            self._client.get_run(self._run_id)
        except Exception as error:  # noqa: BLE001  # stores raise their own types
            return self.is_refusal(error)
        return True

    def is_refusal(self, error: Exception) -> bool:
        """Whether MLflow said no, rather than nothing."""
        if isinstance(error, MlflowException):
            return _is_refusal(error)
        return isinstance(error, FileNotFoundError)


def open_run(
    uri: str,
    *,
    place: str,
    experiment: str,
    artifacts: str | None,
    run_name: str,
    run_id: str | None,
    parent_run_id: str | None = None,
) -> MlflowRun:
    """Start a run, or continue `run_id` where it still exists.

    Args:
        uri: of the MLflow server or database.
        place: what it is called in messages.
        experiment: made where it does not exist, restored where it was deleted.
        artifacts: where a new experiment keeps files; None leaves it to the server.
        run_name: of a new run.
        run_id: the run to continue.
        parent_run_id: run below which a new one is shown.

    Raises:
        MlflowException: MLflow or its store failed.
    """
    client = MlflowClient(tracking_uri=uri)
    if run_id is not None:
        run = _active_run(client, run_id)
        if run is not None:
            client.update_run(run_id, status="RUNNING")
            return MlflowRun(client, run_id, run.data.params)
        logger.warning("%s no longer has run %s: this run goes on as a new one", place, run_id)
    experiment_id = _experiment_id(client, experiment, artifacts)
    tags = resolve_tags({MLFLOW_PARENT_RUN_ID: parent_run_id} if parent_run_id else None)
    # The URL of a git remote, which MLflow takes down, may hold a token.
    tags = {key: redact(text) for key, text in tags.items()}
    run = client.create_run(experiment_id, run_name=run_name, tags=tags)
    return MlflowRun(client, run.info.run_id, {})


def _active_run(client: MlflowClient, run_id: str) -> Run | None:
    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if not _is_refusal(error):
            raise
        return None
    return run if run.info.lifecycle_stage == "active" else None


def _experiment_id(client: MlflowClient, name: str, artifacts: str | None) -> str:
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name, artifact_location=artifacts))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another process was faster
                raise
            found = client.get_experiment_by_name(name)
            assert found is not None
    elif found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return str(found.experiment_id)


def _is_refusal(error: MlflowException) -> bool:
    status = error.get_http_status_code()  # type: ignore[no-untyped-call]  # mlflow's own
    return status < 500 and status not in RETRIED_STATUSES
