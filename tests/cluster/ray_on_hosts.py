"""A Ray cluster whose nodes are hosts of `tests/cluster/hosts.py`, and jobs submitted to it.

Wait on what the cluster says of itself (`nodes`), not on log lines: a host that was rebooted adds
to its old ones.
"""

import json
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.cluster.hosts import Host, hosts

REPOSITORY = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
GCS_PORT, DASHBOARD_PORT = 6379, 8265
OBJECT_STORE_BYTES = 80_000_000  # Ray's least is 75 MB
START_TIMEOUT_S = 120.0
POLL_S = 0.5

QUICK = {
    # A host that vanished is noticed after about 6 s instead of 62.
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "60",
    "TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S": "3",
}
"""Settings that notice a lost host soon; the environment of every node."""
SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    # At Ray's niceness of 15 the kernel leaves two busy threads on one core.
    "RAY_worker_niceness": "0",
}
GET = """
import os, sys, urllib.request
headers = {"Authorization": "Bearer " + os.environ["RAY_AUTH_TOKEN"]}
with urllib.request.urlopen(urllib.request.Request(sys.argv[1], headers=headers), timeout=20) as answer:
    print(answer.read().decode())
"""


@dataclass
class Cluster:
    """Ray on hosts: the first one is the head."""

    hosts: list[Host]
    folder: Path
    """Shared by all hosts."""
    cpus: list[float]
    """Of each host's node."""
    head_options: Sequence[str]
    nodes_started: dict[str, subprocess.Popen[str]] = field(default_factory=dict)

    @property
    def head(self) -> Host:
        """Runs the GCS, the dashboard and the commands of submitted jobs."""
        return self.hosts[0]

    @property
    def address(self) -> str:
        """Of the GCS, host:port."""
        return f"{self.head.ip}:{GCS_PORT}"

    @property
    def dashboard(self) -> str:
        """Where jobs are submitted."""
        return f"http://{self.head.ip}:{DASHBOARD_PORT}"

    def host(self, name: str) -> Host:
        """A host by its name."""
        return next(host for host in self.hosts if host.name == name)

    def start_ray(self, host: Host) -> None:
        """`ray start` on a host, as the head or as a worker of the head."""
        role = (
            ["--head", "--port", str(GCS_PORT), "--dashboard-host", host.ip, *self.head_options]
            if host is self.head
            else ["--address", self.address]
        )
        number = self.hosts.index(host)
        self.nodes_started[host.name] = host.popen(
            [
                BIN / "ray", "start", "--block", *role, "--node-ip-address", host.ip,
                "--num-cpus", f"{self.cpus[number]:g}",
                "--object-store-memory", str(OBJECT_STORE_BYTES),
            ],
            log=self.folder / f"{host.name}-ray.log",
        )  # fmt: skip

    def nodes(self) -> dict[str, str]:
        """State of each host's newest node, ALIVE or DEAD, by host name."""
        found = sorted(self.state("nodes"), key=lambda node: node["start_time_ms"])
        names = {host.ip: host.name for host in self.hosts}
        return {names[node["node_ip"]]: node["state"] for node in found}

    def wait_for_nodes(self, names: Sequence[str], timeout_s: float = START_TIMEOUT_S) -> None:
        """Wait until exactly these hosts are nodes of the cluster."""

        def there() -> bool:
            for name, process in self.nodes_started.items():
                if name in names and process.poll() is not None:
                    raise AssertionError(f"`ray start` ended on {name}:\n{self.log_of(name)}")
            try:
                states = self.nodes()
            except (AssertionError, subprocess.TimeoutExpired):  # the dashboard is not up yet
                return False
            return {name for name, state in states.items() if state == "ALIVE"} == set(names)

        wait_until(there, timeout_s, lambda: f"nodes {names}: {self.logs()}")

    def placement_groups(self) -> list[dict[str, Any]]:
        """Placement groups that hold or want resources."""
        return [g for g in self.state("placement_groups") if g["state"] != "REMOVED"]

    def state(self, kind: str) -> list[dict[str, Any]]:
        """What Ray's state API lists: nodes, actors, placement_groups, jobs ..."""
        url = f"{self.dashboard}/api/v0/{kind}?limit=10000&detail=true"
        done = self.head.run([sys.executable, "-I", "-c", GET, url], timeout_s=60)
        assert done.returncode == 0, done.stdout
        answer = json.loads(done.stdout)
        assert answer["result"], answer
        rows: list[dict[str, Any]] = answer["data"]["result"]["result"]
        return rows

    def log_of(self, name: str) -> str:
        """What `ray start` printed on a host."""
        path = self.folder / f"{name}-ray.log"
        return path.read_text() if path.exists() else ""

    def logs(self) -> str:
        """What `ray start` printed, on all hosts."""
        return "\n".join(f"--- {host.name}\n{self.log_of(host.name)}" for host in self.hosts)

    def submit(self, *command: str, log: Path) -> "Job":
        """`ray job submit` of this repository from the head; returns at once."""
        submit = [str(BIN / "ray"), "job", "submit", "--working-dir", ".", "--"]
        process = self.head.popen(
            [*submit, *command],
            log=log,
            cwd=REPOSITORY,
            variables={"RAY_API_SERVER_ADDRESS": self.dashboard},
        )
        return Job(process, log)


@dataclass(frozen=True)
class Job:
    """A submitted job."""

    process: subprocess.Popen[str]
    log: Path

    @property
    def output(self) -> str:
        """What it has printed so far."""
        return self.log.read_text()

    def wait_for(self, condition: Callable[[], bool], timeout_s: float) -> None:
        """Wait until something is true while the job runs. (Its output comes late and in lumps.)"""

        def there() -> bool:
            assert self.process.poll() is None, f"the job has ended: {self.output}"
            return condition()

        wait_until(there, timeout_s, lambda: self.output)

    def finish(self, timeout_s: float) -> int:
        """Wait for the end; the exit code of `ray job submit`."""
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"no end after {timeout_s:g} s: {self.output}") from None


@contextmanager
def cluster(
    folder: Path,
    *,
    cpus: Sequence[float],
    head_options: Sequence[str] = (),
    settings: Mapping[str, str] = QUICK,
) -> Iterator[Cluster]:
    """Ray on as many hosts as CPU counts are given, the head first; up and complete.

    Args:
        folder: Shared by the hosts; holds their disks and logs.
        cpus: What each node offers, whatever the machine has.
        head_options: More of `ray start` on the head.
        settings: Environment of every node.
    """
    token = secrets.token_hex(32)
    with hosts(len(cpus), folder, has_loopback_names=True) as made:
        running = Cluster(made, folder, list(cpus), head_options)
        for host in made:
            host.variables = {
                # Explicit, or what it is would depend on the token files that a host has.
                "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token, **SETTINGS, **settings,
            }  # fmt: skip
            running.start_ray(host)
        running.wait_for_nodes([host.name for host in made])
        yield running


def wait_until(
    condition: Callable[[], bool], timeout_s: float, message: Callable[[], str] = str
) -> None:
    """Ask again and again; AssertionError with the message when the time is over."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"after {timeout_s:g} s: {message()}"
        time.sleep(POLL_S)
