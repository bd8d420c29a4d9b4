"""cluster/slurm/train.sbatch for real, but for Slurm: a training run on the hosts of a job."""

import json
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.hosts import hosts
from tests.cluster.ray_on_hosts import REPOSITORY, wait_until
from tests.cluster.slurm_on_hosts import Allocation, allocation, describe, processes

pytestmark = [pytest.mark.integration, pytest.mark.slow]

TIMEOUT_S = 400.0
SMALL = (
    "--image-size", "64", "--data.generated-images", "64", "--batch-size-per-worker", "8",
    "--num-workers", "2", "--resources.placement", "SPREAD", "--run-name", "night",
)  # fmt: skip


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Allocation]:
    """Two hosts for a job of Slurm."""
    with hosts(2, tmp_path) as made, allocation(made, tmp_path) as allocated:
        yield allocated


def start(job: Allocation, epochs: int) -> subprocess.Popen[str]:
    return job.start(
        "env", "--chdir", str(REPOSITORY), "python", "-m", "trainjobs.yolo", *SMALL,
        "--epochs", str(epochs), "--storage", str(job.folder / "runs"),
        log=job.folder / "job.log",
    )  # fmt: skip


def finish(job: Allocation, process: subprocess.Popen[str]) -> int:
    try:
        return process.wait(TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise AssertionError(describe(job)) from None


def file(job: Allocation, name: str) -> str:
    path = job.folder / "runs" / "night" / name
    return path.read_text() if path.exists() else ""


def result(job: Allocation) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(file(job, "result.json"))
    return found


def test_a_run_trains_on_all_hosts_stops_at_the_time_limit_and_goes_on_when_requeued(
    job: Allocation,
) -> None:
    process = start(job, epochs=6)

    def trains() -> bool:
        assert process.poll() is None, describe(job)
        return "epoch 3/6  box" in file(job, "train.log")

    wait_until(trains, TIMEOUT_S, lambda: describe(job))
    job.signal("USR1")
    assert finish(job, process) == 143, describe(job)
    assert job.requeued() == [f"requeue {job.job_id}"]
    assert result(job)["status"] == "interrupted"
    assert_nothing_is_left(job)

    assert finish(job, start(job, epochs=6)) == 0, describe(job)
    ended = result(job)
    assert (ended["status"], ended["epochs"], ended["world_size"]) == ("finished", 6, 2)
    places = set(re.findall(r" (host\d) rank (\d)/2 \| ", file(job, "train.log")))
    assert {host for host, _ in places} == {"host0", "host1"}
    assert {rank for _, rank in places} == {"0", "1"}
    assert_nothing_is_left(job)


def assert_nothing_is_left(job: Allocation) -> None:
    """Neither processes nor a token nor Ray's files."""
    deadline = time.monotonic() + 30
    while any(processes(host) for host in job.hosts):
        assert time.monotonic() < deadline, [processes(host) for host in job.hosts]
        time.sleep(0.5)
    assert not list((job.folder / "home").glob(".trainjobs-*"))
    for host in job.hosts:
        assert not list((host.disk / "ray").iterdir())
