"""A run that is killed, interrupted or submitted as a job: the commands a user types, for real."""

import csv
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = [pytest.mark.integration, pytest.mark.slow]

SMALL = (
    "--epochs", "5", "--image-size", "64", "--data.generated-images", "48",
    "--batch-size-per-worker", "8",
)  # fmt: skip
START_TIMEOUT_S = 300.0
SAME_NUMBERS = ("optimizer_steps", "lr", "train_loss", "train_box", "train_obj", "train_cls")
REPOSITORY = Path(__file__).parents[2]


def environment(folder: Path, **extra: str) -> dict[str, str]:
    return {**os.environ, "TRAINJOBS_CACHE": str(folder / "cache"), **extra}


def start_yolo(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "trainjobs.yolo", *SMALL, *arguments],
        cwd=folder,
        env=environment(folder, RAY_ADDRESS="local"),
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def wait_for_line(process: subprocess.Popen[str], pattern: str) -> list[str]:
    """Read the log until a line matches; all lines so far."""
    assert process.stderr is not None
    lines: list[str] = []
    deadline = time.monotonic() + START_TIMEOUT_S
    for line in process.stderr:
        lines.append(line)
        if re.search(pattern, line):
            return lines
        if time.monotonic() > deadline:
            break
    raise AssertionError(f"no line like {pattern!r}:\n{''.join(lines)}")


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=START_TIMEOUT_S)
    return process.returncode, out, err


def read_metrics(folder: Path, run: str) -> list[dict[str, str]]:
    with (folder / "runs" / run / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def assert_same_curve(mine: list[dict[str, str]], theirs: list[dict[str, str]]) -> None:
    assert len(mine) == len(theirs)
    for row, other in zip(mine, theirs, strict=True):
        assert {key: row[key] for key in SAME_NUMBERS} == {key: other[key] for key in SAME_NUMBERS}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("survival")


@pytest.fixture(scope="module")
def uninterrupted(folder: Path) -> list[dict[str, str]]:
    code, _, err = finish(start_yolo(folder, "--run-name", "whole"))
    assert code == 0, err
    return read_metrics(folder, "whole")


def test_a_killed_driver_goes_on_in_the_same_mlflow_run_with_the_same_curve(
    folder: Path, uninterrupted: list[dict[str, str]]
) -> None:
    first = start_yolo(folder, "--run-name", "killed")
    wait_for_line(first, r"epoch 3/5  box")
    first.kill()
    first.communicate()
    before = json.loads((folder / "runs" / "killed" / "record.json").read_text())

    code, out, err = finish(start_yolo(folder, "--run-name", "killed"))
    assert code == 0, err
    assert "continuing after epoch" in err
    assert "finished after 5 epochs" in out
    result = json.loads((folder / "runs" / "killed" / "result.json").read_text())
    assert result["mlflow_run_id"] == before["mlflow_run_id"]
    assert result["attempts"] == 2
    assert_same_curve(read_metrics(folder, "killed"), uninterrupted)

    code, out, err = finish(start_yolo(folder, "--run-name", "killed"))
    assert code == 0
    assert "nothing to do" in err


def test_ctrl_c_leaves_a_checkpoint_and_the_run_goes_on_from_it(
    folder: Path, uninterrupted: list[dict[str, str]]
) -> None:
    first = start_yolo(folder, "--run-name", "interrupted")
    wait_for_line(first, r"epoch 2/5  box")
    first.send_signal(signal.SIGINT)
    code, out, err = finish(first)
    assert code == 130, err
    assert "go on with the same command and --run-name interrupted" in out
    assert "Traceback" not in err

    code, _, err = finish(start_yolo(folder, "--run-name", "interrupted"))
    assert code == 0, err
    assert_same_curve(read_metrics(folder, "interrupted"), uninterrupted)


def test_two_processes_cannot_train_under_one_name(folder: Path) -> None:
    first = start_yolo(folder, "--run-name", "taken")
    try:
        wait_for_line(first, r"starting Ray")
        code, _, err = finish(start_yolo(folder, "--run-name", "taken"))
        assert code == 2
        assert str(first.pid) in err
        assert "Traceback" not in err
    finally:
        first.kill()
        first.communicate()


@pytest.fixture(scope="module")
def head(folder: Path) -> Iterator[dict[str, str]]:
    """`ray start --head` on ports and in folders of its own; the environment that submits to it."""
    ports = [_free_port() for _ in range(4)]
    home = folder / "home"
    home.mkdir()
    token = "t" * 64
    variables = environment(
        folder,
        HOME=str(home),
        RAY_AUTH_MODE="token",
        RAY_AUTH_TOKEN=token,
        RAY_ENABLE_UV_RUN_RUNTIME_ENV="0",
        RAY_worker_niceness="0",
        RAY_TMPDIR=f"/tmp/rt{ports[0]}",  # Ray's sockets need a short path
        GLOO_SOCKET_IFNAME="lo",
    )
    variables.pop("RAY_ADDRESS", None)
    ray = [str(Path(sys.executable).parent / "ray")]
    started = subprocess.Popen(
        [
            *ray, "start", "--head", "--block", "--num-cpus", "2", "--node-ip-address", "127.0.0.1",
            "--port", str(ports[0]), "--dashboard-port", str(ports[1]),
            "--ray-client-server-port", str(ports[2]), "--dashboard-agent-listen-port", str(ports[3]),
        ],
        env=variables, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    variables["RAY_API_SERVER_ADDRESS"] = f"http://127.0.0.1:{ports[1]}"
    try:
        _wait_for_port(ports[1])
        yield variables
    finally:
        started.terminate()
        started.wait(60)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_for_port(port: int) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(1)
    raise AssertionError(f"nothing listens at port {port}")


def submit(head: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    ray = str(Path(sys.executable).parent / "ray")
    command = [ray, "job", "submit", "--working-dir", ".", "--", sys.executable, "-m"]
    return subprocess.run(
        [*command, "trainjobs.yolo", *arguments],
        cwd=REPOSITORY, env=head, capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip


def test_a_submitted_job_trains_two_workers_and_streams_its_progress(
    head: dict[str, str], folder: Path
) -> None:
    storage = str(folder / "job-runs")
    done = submit(head, *SMALL, "--num-workers", "2", "--storage", storage, "--run-name", "job")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "epoch 5/5" in done.stdout + done.stderr
    result = json.loads((folder / "job-runs" / "job" / "result.json").read_text())
    assert (result["status"], result["world_size"]) == ("finished", 2)


def test_a_failing_job_ends_with_its_cause(head: dict[str, str]) -> None:
    done = submit(head, "--model", "yolov9", "--storage", "/tmp")
    assert done.returncode != 0
    last = [line for line in done.stdout.splitlines() if line.strip()][-1]
    assert last.startswith("error: model.name must be one of"), done.stdout
