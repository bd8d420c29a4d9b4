"""`python -m cluster doctor` on three hosts: all is well, then one fault after the other."""

import json
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.cluster.hosts import Host
from tests.cluster.ray_on_hosts import REPOSITORY, Cluster, cluster

pytestmark = [pytest.mark.integration, pytest.mark.slow]

HARMLESS = ("open files",)
"""The limit of this machine, which all hosts share."""
LIMIT_S = 60.0
DELAY_S = 0.05


@dataclass(frozen=True)
class Diagnosis:
    """What doctor said."""

    code: int
    checks: list[dict[str, Any]]
    seconds: float

    def problems(self) -> set[tuple[str, str]]:
        """Name and host of what failed or is to be looked at."""
        return {
            (check["name"], check["host"])
            for check in self.checks
            if check["verdict"] in ("warn", "fail") and check["name"] not in HARMLESS
        }

    def remedies(self) -> list[str]:
        return [check["remedy"] for check in self.checks if check["verdict"] == "fail"]


def examine(running: Cluster, *options: str, **variables: str) -> Diagnosis:
    started = time.monotonic()
    shared = ("--storage", str(running.folder / "runs"))
    done = running.head.run(
        [sys.executable, "-m", "cluster", "doctor", "--json", *shared, *options],
        variables={"RAY_ADDRESS": running.address, **variables},
        timeout_s=240,
    )
    answer = json.loads(done.stdout)
    assert answer["ok"] is (done.returncode == 0)
    return Diagnosis(done.returncode, answer["checks"], time.monotonic() - started)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster(tmp_path_factory.mktemp("doctor"), cpus=[1, 1, 1]) as started:
        yield started


@pytest.fixture(scope="module")
def other(running: Cluster) -> Host:
    """A host that is not the head."""
    return running.hosts[2]


def test_a_healthy_cluster_is_green_in_time(running: Cluster) -> None:
    (running.folder / "data").mkdir()
    (running.folder / "data" / "image.jpg").write_bytes(bytes(10_000))
    found = examine(running, "--data", str(running.folder / "data"), "--num-workers", "3")
    assert (found.code, found.problems()) == (0, set())
    names = {check["name"] for check in found.checks if check["verdict"] == "ok"}
    assert names >= {
        *("connection", "authentication", "workers", "ray", "torch", "trainjobs", "memory"),
        *("interface", "clock", "links", "all-reduce", "storage", "data"),
    }
    assert found.seconds < LIMIT_S


def test_a_slow_link_is_named(running: Cluster, other: Host) -> None:
    with other.slow_cable(DELAY_S):
        found = examine(running)
    assert found.code == 1
    links = {host for name, host in found.problems() if name == "link"}
    assert links == {f"{host.name} - {other.name}" for host in running.hosts[:2]}


def test_a_storage_that_is_not_shared_is_named_with_the_hosts(running: Cluster) -> None:
    found = examine(running, "--storage", "/tmp/ray/runs")  # each host has its own
    assert found.code == 1
    assert found.problems() == {("storage", host.name) for host in running.hosts[1:]}
    assert all("share" in remedy for remedy in found.remedies())


def test_a_tracking_server_that_is_down_is_named(running: Cluster) -> None:
    found = examine(running, "--tracking-uri", f"http://{running.head.ip}:5999")
    assert found.code == 1
    assert found.problems() == {("tracking", host.name) for host in running.hosts}


def test_a_missing_token_is_named(running: Cluster) -> None:
    found = examine(running, RAY_AUTH_TOKEN="")
    assert (found.code, found.problems()) == (1, {("connection", "cluster")})
    assert "token" in found.checks[0]["value"]


def test_more_workers_than_there_is_room_for_are_named(running: Cluster) -> None:
    found = examine(running, "--num-workers", "99")
    assert (found.code, found.problems()) == (1, {("workers", "cluster")})


def test_a_full_disk_is_named(running: Cluster, other: Host) -> None:
    cache = other.home / ".cache" / "trainjobs"
    cache.mkdir(parents=True, exist_ok=True)
    fill = f"mount -t tmpfs -o size=8m tmpfs {cache} && head -c 8000000 /dev/zero > {cache}/full"
    assert other.run(["sh", "-c", fill]).returncode == 0
    try:
        found = examine(running)
    finally:
        other.run(["umount", cache])
    assert found.problems() == {("disk ~/.cache/trainjobs", other.name)}


def test_another_version_of_our_package_is_named(running: Cluster, other: Host) -> None:
    copy = running.folder / "second-environment"
    for package in ("cluster", "trainjobs", "tuning"):
        shutil.copytree(REPOSITORY / package, copy / package)
    (copy / "trainjobs" / "__init__.py").write_text('"""Changed."""\n')
    other.power_off()
    running.wait_for_nodes([host.name for host in running.hosts[:2]])
    other.power_on()
    before = dict(other.variables)
    other.variables["PYTHONPATH"] = str(copy)
    try:
        running.start_ray(other)
        running.wait_for_nodes([host.name for host in running.hosts])
        found = examine(running)
    finally:
        other.variables = before
    assert found.code == 1
    failed = [check for check in found.checks if check["verdict"] == "fail"]
    assert found.problems() == {("trainjobs", other.name)}, failed
