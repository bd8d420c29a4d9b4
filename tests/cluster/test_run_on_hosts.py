"""One training run on several hosts, submitted as a job: ranks apart, and a host that dies."""

import csv
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.ray_on_hosts import Cluster, Job, cluster

pytestmark = [pytest.mark.integration, pytest.mark.slow]

EPOCHS = 8
SMALL = (
    "--epochs", str(EPOCHS), "--image-size", "64", "--data.generated-images", "64",
    "--batch-size-per-worker", "8", "--num-workers", "2", "--resources.placement", "SPREAD",
)  # fmt: skip
JOB_TIMEOUT_S = 300.0
EXACT = ("optimizer_steps", "images_seen", "lr", "train_loss", "map50_95")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shared by the hosts."""
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def running(folder: Path) -> Iterator[Cluster]:
    """A head that only drives, two hosts for a rank each, and a spare one."""
    with cluster(folder, cpus=[0, 1, 1, 1]) as started:
        yield started


def submit(running: Cluster, name: str) -> Job:
    return running.submit(
        "python", "-m", "trainjobs.yolo", *SMALL,
        "--storage", str(running.folder / "runs"), "--run-name", name,
        log=running.folder / f"{name}-job.log",
    )  # fmt: skip


def result_of(running: Cluster, name: str) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(
        (running.folder / "runs" / name / "result.json").read_text()
    )
    return result


def curve_of(running: Cluster, name: str) -> list[dict[str, str]]:
    with (running.folder / "runs" / name / "metrics.csv").open() as file:
        return [{key: row[key] for key in EXACT} for row in csv.DictReader(file)]


def log_of(running: Cluster, name: str) -> str:
    log = running.folder / "runs" / name / "train.log"
    return log.read_text() if log.exists() else ""


def hosts_by_rank(running: Cluster, name: str) -> dict[int, str]:
    """Where each rank has logged last."""
    found = re.findall(r" (host\d) rank (\d)/2 \| ", log_of(running, name))
    return {int(rank): host for host, rank in found}


@pytest.fixture(scope="module")
def uninterrupted(running: Cluster) -> str:
    """Name of a run that nothing happened to."""
    job = submit(running, "whole")
    assert job.finish(JOB_TIMEOUT_S) == 0, job.output
    return "whole"


def test_a_submitted_run_trains_with_ranks_on_different_hosts(
    running: Cluster, uninterrupted: str
) -> None:
    result = result_of(running, uninterrupted)
    assert (result["status"], result["epochs"], result["attempts"]) == ("finished", EPOCHS, 1)
    assert result["world_size"] == 2
    places = hosts_by_rank(running, uninterrupted)
    assert set(places) == {0, 1}
    assert len(set(places.values())) == 2
    assert running.head.name not in places.values()
    assert running.placement_groups() == []


def test_ranks_find_each_other_where_hosts_names_mean_loopback(
    running: Cluster, uninterrupted: str
) -> None:
    resolve = "import socket; print(socket.gethostbyname(socket.gethostname()))"
    for host in running.hosts:
        assert host.run([sys.executable, "-c", resolve]).stdout.strip() == "127.0.1.1"
        assert "GLOO_SOCKET_IFNAME" not in host.variables
    assert len(set(hosts_by_rank(running, uninterrupted).values())) == 2


def test_a_run_that_loses_the_host_of_rank_0_goes_on_with_a_spare_and_draws_the_same_curve(
    running: Cluster, uninterrupted: str
) -> None:
    job = submit(running, "bereft")
    job.wait_for(lambda: "epoch 3/8  box" in log_of(running, "bereft"), JOB_TIMEOUT_S)
    lost = hosts_by_rank(running, "bereft")[0]
    running.host(lost).power_off()

    assert job.finish(JOB_TIMEOUT_S) == 0, job.output
    result = result_of(running, "bereft")
    assert (result["status"], result["epochs"], result["attempts"]) == ("finished", EPOCHS, 2)
    places = hosts_by_rank(running, "bereft")
    assert len(set(places.values())) == 2
    assert lost not in places.values()
    assert curve_of(running, "bereft") == curve_of(running, uninterrupted)
    assert running.nodes()[lost] == "DEAD"
    assert running.placement_groups() == []
