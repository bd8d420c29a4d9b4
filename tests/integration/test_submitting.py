"""`ray job submit`: what is shipped, what a job that cannot run says, and what a stopped one leaves."""

import json
import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from zipfile import ZipFile

import pytest
from ray._private.ray_constants import get_runtime_env_default_excludes
from ray._private.runtime_env.packaging import _zip_files

from tests.ray_head import REPOSITORY, Head, ray_head, wait_until, without

pytestmark = pytest.mark.integration

PACKAGES = ("cluster", "trainjobs", "tuning")
COMMANDS = (("trainjobs.yolo",), ("tuning.sweep",), ("cluster", "doctor"))
MAX_SHIPPED_BYTES = 2_000_000
SMALL = ("--image-size", "64", "--data.generated-images", "48", "--batch-size-per-worker", "8")
RUN = ("trainjobs.yolo", *SMALL, "--epochs", "500", "--num-workers", "2")
SWEEP = (
    "tuning.sweep", "--scheduler", "none", "--num-trials", "2", "--epochs", "500",
    *(option.replace("--", "--train.", 1) for option in SMALL),
)  # fmt: skip
OF_RAY = {"ray::DashboardAgent", "ray::RuntimeEnvAgent", "ray::_AutoscalingCoordinatorActor"}
"""Processes that Ray starts once and keeps."""
TIMEOUT_S = 300.0


@pytest.mark.parametrize("reads_gitignore", [True, False])
def test_only_the_three_packages_and_the_top_level_files_are_shipped(
    tmp_path: Path, reads_gitignore: bool
) -> None:
    archive = tmp_path / "shipped.zip"
    _zip_files(
        str(REPOSITORY), get_runtime_env_default_excludes(), str(archive),
        include_gitignore=reads_gitignore,
    )  # fmt: skip
    sizes = {info.filename: info.file_size for info in ZipFile(archive).infolist()}
    files = {
        file.relative_to(REPOSITORY).as_posix()
        for package in PACKAGES
        for file in (REPOSITORY / package).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    others = sizes.keys() - files
    assert files <= sizes.keys()
    assert {name for name in others if "/" in name or name.startswith(".")} == set()
    assert sum(sizes.values()) < MAX_SHIPPED_BYTES


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_names_the_packages_that_its_python_lacks(
    tmp_path: Path, command: tuple[str, ...]
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *command],
        env={**os.environ, **without(tmp_path, "tyro", "cv2")}, cwd=REPOSITORY,
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert done.stderr.startswith(f"error: {socket.gethostname()}: {sys.executable} lacks tyro, ")
    assert "opencv-python-headless; install" in done.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("submitting")


@pytest.fixture(scope="module")
def head(folder: Path) -> Iterator[Head]:
    with ray_head(folder) as started:
        yield started


def last_line(output: str) -> str:
    return [line for line in output.splitlines() if line.strip()][-1]


@pytest.mark.slow
def test_a_submitted_job_trains_two_workers_and_streams_its_progress(
    head: Head, folder: Path
) -> None:
    job = ("trainjobs.yolo", *SMALL, "--epochs", "2", "--num-workers", "2", "--run-name", "job")
    output = head.submit(*job, "--storage", str(folder / "runs"))
    result = json.loads((folder / "runs" / "job" / "result.json").read_text())
    assert (result["status"], result["world_size"]) == ("finished", 2)
    assert "epoch 2/2" in output
    assert "run job: finished after 2 epochs" in output


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "message"),
    [
        (("trainjobs.yolo", "--model", "yolov9"), "error: model.name must be one of"),
        (("tuning.sweep", "--metric", "speed"), "error: --metric: yolo reports no 'speed'"),
    ],
)
def test_a_failing_job_ends_with_its_cause(
    head: Head, folder: Path, command: tuple[str, ...], message: str
) -> None:
    output = head.submit(*command, "--storage", str(folder / "runs"))
    assert last_line(output).startswith(message), output
    assert "Traceback" not in output
    assert "failed with exit code 2" in output


@pytest.mark.slow
@pytest.mark.parametrize(
    ("lacks", "names"), [("torchvision", "torchvision"), ("cluster", "'cluster'")]
)
def test_a_node_that_lacks_a_package_is_named_before_training(
    head: Head, folder: Path, lacks: str, names: str
) -> None:
    job = ("trainjobs.yolo", *SMALL, "--storage", str(folder / "runs"), "--run-name", lacks)
    with head.node(**without(folder / "lacking", lacks)):
        output = head.submit(*job)
    cause = output[output.rindex("\nerror: ") :]
    assert names in cause and "install" in cause and socket.gethostname() in cause
    assert "Traceback" not in output
    assert "failed with exit code 2" in output
    assert not (folder / "runs" / lacks / "checkpoints").exists()


@pytest.mark.slow
@pytest.mark.parametrize("wait_s", ["3", "60"])
@pytest.mark.parametrize("command", [RUN, SWEEP])
def test_a_stopped_job_leaves_a_checkpoint_and_no_process(
    head: Head, folder: Path, command: tuple[str, ...], wait_s: str
) -> None:
    job, is_run, is_patient = f"job-{secrets.token_hex(3)}", command is RUN, wait_s == "60"
    runs, before = folder / "runs" / job, head.processes()
    environment = json.dumps({"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": wait_s}})
    head.submit(
        *command, "--storage", str(folder / "runs"), "--run-name" if is_run else "--name", job,
        options=("--no-wait", "--submission-id", job, "--runtime-env-json", environment),
    )  # fmt: skip
    wait_until(lambda: any(runs.rglob("metrics.csv")), TIMEOUT_S, job)
    assert any("RayTrainWorker" in name for name in head.processes().values())

    head.job("stop", job)

    def left() -> set[str]:
        return {name for pid, name in head.processes().items() if pid not in before} - OF_RAY

    def held() -> bool:
        return any(group["state"] != "REMOVED" for group in head.state("placement_groups"))

    wait_until(lambda: not left() and not held(), 30, f"{left()} and placement groups are left")
    assert any(runs.rglob("epoch-*-*"))
    log = head.job("logs", job).stdout
    assert "Traceback" not in log
    if is_run or is_patient:
        result = json.loads((runs / "result.json").read_text())
        assert (result["status"], result["signal"]) == ("interrupted", 15)
    if is_patient:
        assert last_line(log).startswith("go on with")
