"""No password and no token in what a run or a sweep leaves: its files, MLflow, and both outputs.

MLflow is a real server behind a door that wants the password, so that leaving it out is not enough.
"""

import base64
import http.client
import os
import random
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import ray

from cluster.credentials import Credentials, call_with
from cluster.session import Session

pytestmark = pytest.mark.integration

USER, PASSWORD = "someone", "p4ss-in/uri"
IN_URI = f"{USER}:p4ss-in%2Furi"
TOKENS = {
    "RAY_AUTH_TOKEN": "r4y-auth-token",
    "AWS_ACCESS_KEY_ID": "4ws-key-id",
    "AWS_SECRET_ACCESS_KEY": "4ws-secret-key",
    "AWS_SESSION_TOKEN": "4ws-session-token",
    "MLFLOW_TRACKING_PASSWORD": "mlfl0w-password",
    "MLFLOW_TRACKING_TOKEN": "mlfl0w-token",
}
SECRETS = (PASSWORD, "p4ss-in%2Furi", *TOKENS.values())
SMALL = (
    "--image-size", "64", "--data.generated-images", "24", "--batch-size-per-worker", "8",
    "--resources.cpus-per-worker", "0.5",
)  # fmt: skip
START_S = 180.0


class Door(ThreadingHTTPServer):
    """Hands requests on to a port, if they bring the user and the password."""

    daemon_threads = True

    def __init__(self, behind: int) -> None:
        super().__init__(("127.0.0.1", 0), _Visitor)
        self.behind, self.refused, self.passed = behind, 0, 0
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Visitor(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, Door)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        key = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        if self.path != "/health" and self.headers.get("Authorization") != f"Basic {key}":
            self.server.refused += 1
            self.send_error(401)
            return
        self.server.passed += self.path != "/health"
        inner = http.client.HTTPConnection("127.0.0.1", self.server.behind, timeout=60)
        with suppress(ConnectionError), closing(inner):
            inner.request(self.command, self.path, body, dict(self.headers))
            answer = inner.getresponse()
            content = answer.read()
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.headers.get("Content-Type", ""))
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    do_POST = do_PUT = do_PATCH = do_DELETE = do_GET  # noqa: N815  http.server's names

    def log_message(self, *args: object) -> None:
        """Quiet."""


def free_port() -> int:
    """Below the ephemeral ones, which Ray's processes take meanwhile."""
    while True:
        port = random.randrange(20_000, 30_000)
        with socket.socket() as listener, suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("secrets")


@pytest.fixture(scope="module")
def door(folder: Path) -> Iterator[Door]:
    """An MLflow server that keeps everything in `folder`, behind a door."""
    port = free_port()
    server = subprocess.Popen(
        [
            sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port),
            "--workers", "1", "--backend-store-uri", f"sqlite:///{folder / 'server.db'}",
            "--artifacts-destination", str(folder / "artifacts"),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + START_S
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
            break
        except OSError:
            assert time.monotonic() < deadline and server.poll() is None
            time.sleep(0.5)
    guard = Door(port)
    yield guard
    guard.shutdown()
    guard.server_close()
    os.killpg(server.pid, 15)
    server.wait(60)


def run_command(folder: Path, *command: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *command],
        cwd=folder,
        env={
            **os.environ,
            **TOKENS,
            "RAY_AUTH_MODE": "token",
            "RAY_ADDRESS": "local",
            "TRAINJOBS_CACHE": str(folder / "cache"),
            **environ,
        },
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )


def assert_no_secret_in(folder: Path, *outputs: subprocess.CompletedProcess[str]) -> None:
    leaks = [
        f"{file.relative_to(folder)}: {secret}"
        for file in folder.rglob("*")
        if file.is_file()
        for secret in SECRETS
        if secret.encode() in file.read_bytes() or secret in file.name
    ]
    leaks += [f"output: {s}" for done in outputs for s in SECRETS if s in done.stdout + done.stderr]
    assert leaks == []


def test_a_run_leaves_no_secret_and_resumes_with_the_password_in_the_environment(
    folder: Path, door: Door
) -> None:
    uri = door.uri.replace("://", f"://{IN_URI}@")
    options = (*SMALL, "--num-workers", "2", "--run-name", "run", "--storage", str(folder / "runs"))
    first = run_command(folder, "trainjobs.yolo", *options, "--epochs", "1", "--tracking-uri", uri)
    assert first.returncode == 0, first.stderr
    assert (door.refused, door.passed > 0) == (0, True)
    second = run_command(
        folder, "trainjobs.yolo", *options, "--epochs", "2", "--tracking-uri", door.uri,
        MLFLOW_TRACKING_USERNAME=USER, MLFLOW_TRACKING_PASSWORD=PASSWORD,
    )  # fmt: skip
    assert second.returncode == 0, second.stderr
    ids = [
        line for done in (first, second) for line in done.stdout.splitlines() if "MLflow" in line
    ]
    assert len(ids) == 2 and ids[0] == ids[1]
    assert f"uri: {door.uri}\n" in (folder / "runs" / "run" / "config.yaml").read_text()
    assert list((folder / "artifacts").rglob("config.yaml"))
    assert door.refused == 0
    assert_no_secret_in(folder, first, second)


@pytest.mark.slow
def test_a_sweep_leaves_no_secret(folder: Path, door: Door) -> None:
    done = run_command(
        folder, "tuning.sweep", "--num-trials", "2", "--scheduler", "none", "--name", "sweep",
        "--storage", str(folder / "runs"), "--train.epochs", "1", "--train.num-workers", "2",
        *(option.replace("--", "--train.", 1) for option in SMALL),
        MLFLOW_TRACKING_URI=door.uri.replace("://", f"://{IN_URI}@"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    names = {path.name for path in (folder / "runs" / "sweep").iterdir()}
    assert {"sweep.yaml", "trials.json", "report.html", "best.yaml", "sweep.log"} <= names
    assert door.refused == 0
    assert done.stdout.count("MLflow") == 1
    assert_no_secret_in(folder, done)


@pytest.mark.slow
def test_messages_about_what_does_not_work_hold_no_secret(folder: Path) -> None:
    dead = f"http://{IN_URI}@127.0.0.1:{free_port()}"
    storage = ("--storage", str(folder / "runs"))
    outputs = [
        run_command(
            folder, "trainjobs.yolo", *SMALL, *storage, "--epochs", "1", "--num-workers", "1",
            "--run-name", "dead", "--tracking-uri", dead, "--tracking.timeout-s", "1",
        ),
        run_command(folder, "trainjobs.yolo", "--tracking-urii", dead),
        run_command(folder, "trainjobs.yolo", "--epochs", dead),
        run_command(folder, "trainjobs.yolo", "--config", dead),
        run_command(folder, "trainjobs.yolo", "--data", dead, *storage),
        run_command(folder, "trainjobs.yolo", "--storage", f"s3://{USER}:{PASSWORD}@bucket/runs"),
        run_command(folder, "trainjobs.yolo", "--storage", f"ftp://{IN_URI}@bucket/runs"),
        run_command(folder, "tuning.sweep", "--train.tracking-urii", dead),
    ]  # fmt: skip
    assert [done.returncode for done in outputs] == [0, 2, 2, 2, 2, 2, 2, 2]
    assert "cannot be used" in outputs[0].stderr
    assert_no_secret_in(folder, *outputs)


@pytest.mark.slow
def test_credentials_reach_the_processes_of_a_cluster_that_began_without_them(
    ray_session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in TOKENS.items():
        monkeypatch.setenv(name, value)
    name = "AWS_SECRET_ACCESS_KEY"
    before = ray.remote(call_with).remote(None, os.getenv, (name,))
    assert ray.get(before) is None
    call = ray.remote(call_with).remote(Credentials.of_this_process(), os.getenv, (name,))
    assert ray.get(call) == TOKENS[name]
