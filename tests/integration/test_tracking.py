"""The MLflow tracker against real stores: sqlite files, and an `mlflow server` on loopback."""

import logging
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from trainjobs.config import TrackingConfig
from trainjobs.tracking import background
from trainjobs.tracking.mlflow_tracker import open_tracker
from trainjobs.tracking.tracker import Tracker

pytestmark = [
    pytest.mark.integration,
    # MLflow 3.17 on sqlalchemy 2.1; the tracker itself ignores it in its own process.
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy"),
]

SERVER_START_S = 180  # 16 s alone, 70 s seen beside other tests
WRITER = """
import sys
from trainjobs.config import TrackingConfig
from trainjobs.tracking.mlflow_tracker import open_tracker

tracker = open_tracker(
    TrackingConfig(), run_name=sys.argv[2], storage=sys.argv[1], experiment="yolo"
)
tracker.log_metrics({"map50": 0.5}, step=1)
print(tracker.run_id)
tracker.close("finished")
"""


@pytest.fixture(autouse=True)
def no_server_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def make_tracker(storage: Path, uri: str | None = None, resume: str | None = None) -> Tracker:
    config = TrackingConfig(uri=uri, timeout_s=5)
    return open_tracker(
        config, run_name="run", storage=str(storage), experiment="yolo", resume_run_id=resume
    )


def read_run(uri: str, run_id: str | None) -> tuple[MlflowClient, Run]:
    assert run_id is not None
    client = MlflowClient(tracking_uri=uri)
    return client, client.get_run(run_id)


def sqlite_uri(storage: Path) -> str:
    return f"sqlite:///{storage / 'mlflow.db'}"


def steps_of(client: MlflowClient, run_id: str | None, name: str) -> list[int]:
    return sorted(one.step for one in client.get_metric_history(run_id, name))


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def running_server(folder: Path, port: int) -> Iterator[str]:
    """An `mlflow server` with its database and artifacts in `folder`; killed at the end."""
    uri = f"http://127.0.0.1:{port}"
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)),
        *("--backend-store-uri", sqlite_uri(folder), "--workers", "1"),
        *("--artifacts-destination", str(folder / "served")),
    ]
    environ = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (folder / "server.log").open("ab") as log:
        server = subprocess.Popen(
            command, cwd=folder, env=environ, stdout=log, stderr=log, start_new_session=True
        )
    try:
        deadline = time.monotonic() + SERVER_START_S
        while True:
            with suppress(OSError):
                urllib.request.urlopen(f"{uri}/health", timeout=2).close()
                break
            assert server.poll() is None, (folder / "server.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.2)
        yield uri
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, 9)  # its own session: the server and its workers
        server.wait()


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING]


def test_a_run_is_recorded_in_sqlite_with_everything_it_logged(tmp_path: Path) -> None:
    plot = tmp_path / "curve.png"
    plot.write_bytes(b"png")
    tracker = make_tracker(tmp_path)
    tracker.log_params({f"p{index}": index for index in range(150)})  # more than one batch
    tracker.set_tags({"host": "a"})
    for step in range(1, 4):
        tracker.log_metrics({"map50": step / 10, "train_loss": float("nan")}, step=step)
    tracker.log_artifact(plot, "plots")
    tracker.close("finished")

    client, run = read_run(sqlite_uri(tmp_path), tracker.run_id)
    assert run.info.run_name == "run"
    assert run.info.status == "FINISHED"
    assert client.get_experiment(run.info.experiment_id).name == "yolo"
    assert len(run.data.params) == 150
    assert run.data.tags["host"] == "a"
    assert run.data.metrics["map50"] == pytest.approx(0.3)
    assert steps_of(client, tracker.run_id, "train_loss") == [1, 2, 3]
    (copy,) = (tmp_path / "mlartifacts").rglob("curve.png")
    assert copy.parent.name == "plots"


def test_nothing_but_the_database_and_artifacts_is_left_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    working, storage = tmp_path / "working", tmp_path / "storage"
    working.mkdir()
    monkeypatch.chdir(working)

    make_tracker(storage).close("finished")

    assert list(working.iterdir()) == []
    assert (storage / "mlflow.db").is_file()


def test_a_resumed_run_continues_under_its_id(tmp_path: Path) -> None:
    first = make_tracker(tmp_path)
    first.log_params({"epochs": 3, "seed": 0})
    first.log_metrics({"map50": 0.1}, step=1)
    first.close("interrupted")
    client, run = read_run(sqlite_uri(tmp_path), first.run_id)
    assert run.info.status == "KILLED"

    second = make_tracker(tmp_path, resume=first.run_id)
    assert second.run_id == first.run_id
    assert client.get_run(second.run_id).info.status == "RUNNING"
    second.log_params({"epochs": 5, "seed": 0})
    second.log_metrics({"map50": 0.2}, step=2)
    second.close("finished")

    run = client.get_run(second.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params == {"epochs": "3", "seed": "0"}
    assert run.data.tags["resumed.epochs"] == "5"
    assert "resumed.seed" not in run.data.tags
    assert steps_of(client, second.run_id, "map50") == [1, 2]


@pytest.mark.parametrize("gone", ["deleted", "unknown"])
def test_a_run_that_is_gone_is_replaced_with_a_warning(
    tmp_path: Path, gone: str, caplog: pytest.LogCaptureFixture
) -> None:
    old_id = "0" * 32
    if gone == "deleted":
        old = make_tracker(tmp_path)
        old.close("finished")
        client, run = read_run(sqlite_uri(tmp_path), old.run_id)
        old_id = run.info.run_id
        client.delete_run(old_id)

    tracker = make_tracker(tmp_path, resume=old_id)
    tracker.close("finished")

    assert tracker.run_id not in (None, old_id)
    (warning,) = warnings_of(caplog)
    assert f"no longer has run {old_id}" in warning


def test_several_processes_open_a_new_store_at_once(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    writers = [
        subprocess.Popen([*command, f"run-{index}"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for index in range(4)
    ]
    outputs = [writer.communicate(timeout=300) for writer in writers]

    assert [errors for _, errors in outputs] == [b""] * 4
    client = MlflowClient(tracking_uri=sqlite_uri(tmp_path))
    names = {client.get_run(run_id.decode().strip()).info.run_name for run_id, _ in outputs}
    assert names == {f"run-{index}" for index in range(4)}


def test_a_dead_server_costs_one_warning_and_no_waiting(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    begin = time.monotonic()
    tracker = make_tracker(tmp_path, uri=f"http://127.0.0.1:{free_port()}")
    tracker.log_metrics({"map50": 0.5}, step=1)
    assert time.monotonic() - begin < 1
    tracker.close("finished")

    assert tracker.run_id is None
    assert time.monotonic() - begin < 10
    (warning,) = warnings_of(caplog)
    assert "cannot be used (no answer within 5 s" in warning


def test_a_server_that_accepts_but_never_answers_costs_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        begin = time.monotonic()
        tracker = make_tracker(tmp_path, uri=f"http://127.0.0.1:{silent.getsockname()[1]}")
        tracker.close("finished")

    assert tracker.run_id is None
    assert time.monotonic() - begin < 10
    assert len(warnings_of(caplog)) == 1


def test_a_server_that_dies_and_returns_gets_everything(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "MAX_PAUSE_S", 1.0)
    port = free_port()
    plot = tmp_path / "curve.png"
    plot.write_bytes(b"png")
    with running_server(tmp_path, port) as uri:
        tracker = make_tracker(tmp_path, uri=uri)
        tracker.log_metrics({"map50": 0.1}, step=1)
        run_id = tracker.run_id
        client, _ = read_run(uri, run_id)
        deadline = time.monotonic() + 30
        while not client.get_run(run_id).data.metrics:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    begin = time.monotonic()
    tracker.log_metrics({"map50": 0.2}, step=2)
    tracker.log_artifact(plot, "plots")
    assert time.monotonic() - begin < 0.1
    while not warnings_of(caplog):
        assert time.monotonic() - begin < 60
        time.sleep(0.1)
    with running_server(tmp_path, port) as uri:
        tracker.log_metrics({"map50": 0.3}, step=3)
        tracker.close("finished")
        client, run = read_run(uri, run_id)
        assert run.info.status == "FINISHED"
        assert steps_of(client, run_id, "map50") == [1, 2, 3]
        assert [one.path for one in client.list_artifacts(run_id, "plots")] == ["plots/curve.png"]

    (warning,) = warnings_of(caplog)
    assert "does not answer" in warning


def test_closing_after_the_server_died_takes_seconds(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with running_server(tmp_path, free_port()) as uri:
        tracker = make_tracker(tmp_path, uri=uri)
        assert tracker.run_id is not None
    begin = time.monotonic()
    tracker.log_metrics({"map50": 0.2}, step=2)
    tracker.close("finished")

    assert time.monotonic() - begin < 15
    assert len(warnings_of(caplog)) == 1
