"""The commands of the systemd units on hosts, started again whenever they end, as systemd does."""

import json
import re
import secrets
import shlex
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.cluster.hosts import Host, hosts
from tests.cluster.ray_on_hosts import (
    BIN,
    DASHBOARD_PORT,
    OBJECT_STORE_BYTES,
    QUICK,
    REPOSITORY,
    SETTINGS,
    Cluster,
    wait_until,
)
from tests.launch_files import UNITS, unit_command

pytestmark = [pytest.mark.integration, pytest.mark.slow]

TIMEOUT_S = 400.0
EPOCHS = 8
# Restart=always, RestartSec= shorter, and KillMode=: what the command has left is killed. (On a
# host whose only service this is, that is every process but pid 1 and this one.)
SUPERVISOR = 'while true; do echo start; "$@"; kill -KILL -1; sleep 1; done'


class Machines(Cluster):
    """Hosts on which units run; the first one has the head's."""

    environment_file: dict[str, str]
    """What `ray.env` says on all of them."""

    @property
    def dashboard(self) -> str:
        """Only the head itself reaches it."""
        return f"http://127.0.0.1:{DASHBOARD_PORT}"

    def start_ray(self, host: Host) -> None:
        """Start the unit of a host."""
        number = self.hosts.index(host)
        unit = next(u for u in UNITS if u.stem == ("ray-head" if number == 0 else "ray-worker"))
        state = host.disk / "state"
        state.mkdir()
        text = unit.read_text().replace("%S", str(state))
        settings = re.findall(r"^Environment=(.*)$", text, flags=re.MULTILINE)
        values = dict(word.split("=", 1) for line in settings for word in line.split())
        values |= {**self.environment_file, "NODE_IP": host.ip, "HEAD_ADDRESS": self.address}
        if number == 1:
            values["NODE_RESOURCES"] = '{"driver": 1}'
        words = [
            re.sub(r"\$\{(\w+)\}", lambda match: values[match[1]], word)
            for word in shlex.split(unit_command(unit).replace("/opt/trainjobs/bin", str(BIN)))
        ]
        # Three nodes share this machine.
        words += ["--object-store-memory", str(OBJECT_STORE_BYTES)]
        words += ["--num-cpus", f"{self.cpus[number]:g}"] if number else []
        host.variables = values
        self.nodes_started[host.name] = host.popen(
            ["bash", "-c", SUPERVISOR, "supervisor", *words],
            log=self.folder / f"{host.name}-ray.log",
        )

    def node_ids(self) -> dict[str, str]:
        """Ray's id of each host's newest node."""
        found = sorted(self.state("nodes"), key=lambda node: node["start_time_ms"])
        names = {host.ip: host.name for host in self.hosts}
        return {names[node["node_ip"]]: node["node_id"] for node in found}


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    """A head, a machine for drivers and a rank, and one for another rank."""
    folder = tmp_path_factory.mktemp("machines")
    with hosts(3, folder) as made:
        running = Machines(made, folder, [0, 1, 1], ())
        running.environment_file = {
            **SETTINGS, **QUICK, "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "TRAINJOBS_STORAGE": str(folder / "runs"),
        }  # fmt: skip
        for host in made:
            running.start_ray(host)
        running.wait_for_nodes([host.name for host in made])
        yield running


def starts(machines: Machines, host: Host) -> int:
    """How often the unit of a host was started."""
    return machines.log_of(host.name).splitlines().count("start")


def kill_gcs(head: Host) -> None:
    listing = head.run(["ps", "-eo", "pid=,comm="]).stdout.split("\n")
    [pid] = [line.split()[0] for line in listing if "gcs_server" in line]
    assert head.run(["kill", "-KILL", pid]).returncode == 0


def submit(machines: Machines, name: str) -> subprocess.CompletedProcess[str]:
    return machines.head.run(
        [
            BIN / "ray", "job", "submit", "--no-wait", "--address", machines.dashboard,
            "--working-dir", ".", "--entrypoint-resources", '{"driver": 0.01}', "--",
            "python", "-m", "trainjobs.yolo", "--epochs", str(EPOCHS), "--image-size", "64",
            "--data.generated-images", "64", "--batch-size-per-worker", "8", "--num-workers", "2",
            "--resources.placement", "SPREAD", "--run-name", name,
        ],
        cwd=REPOSITORY,
        timeout_s=120,
    )  # fmt: skip


def read(machines: Machines, name: str, file: str) -> str:
    path = machines.folder / "runs" / name / file
    return path.read_text() if path.exists() else ""


def test_a_run_does_not_notice_that_the_head_was_started_again(machines: Machines) -> None:
    done = submit(machines, "calm")
    assert done.returncode == 0, done.stdout
    wait_until(
        lambda: f"epoch 2/{EPOCHS}  box" in read(machines, "calm", "train.log"),
        TIMEOUT_S,
        lambda: read(machines, "calm", "train.log") + machines.logs(),
    )
    before = machines.node_ids()
    kill_gcs(machines.head)
    wait_until(
        lambda: bool(read(machines, "calm", "result.json")),
        TIMEOUT_S,
        lambda: read(machines, "calm", "train.log") + machines.logs(),
    )
    result = json.loads(read(machines, "calm", "result.json"))
    assert (result["status"], result["epochs"], result["attempts"]) == ("finished", EPOCHS, 1)
    assert [starts(machines, host) for host in machines.hosts] == [2, 1, 1]
    machines.wait_for_nodes([host.name for host in machines.hosts])
    after = machines.node_ids()
    workers = [host.name for host in machines.hosts[1:]]
    assert [after[name] for name in workers] == [before[name] for name in workers]
    assert after["host0"] != before["host0"]


def test_a_worker_that_was_cut_off_joins_again(machines: Machines) -> None:
    cut = machines.hosts[2]
    before, started = machines.node_ids(), starts(machines, cut)
    cut.unplug()
    wait_until(lambda: machines.nodes()[cut.name] == "DEAD", 60, machines.logs)
    cut.plug()
    machines.wait_for_nodes([host.name for host in machines.hosts])
    assert machines.node_ids()[cut.name] != before[cut.name]
    assert starts(machines, cut) == started + 1


def test_the_head_listens_to_other_machines_only_with_a_token(machines: Machines) -> None:
    ask = "import sys, urllib.request; urllib.request.urlopen(sys.argv[1], timeout=5)"
    worker, head = machines.hosts[1], machines.head
    outside = worker.run([sys.executable, "-c", ask, f"http://{head.ip}:{DASHBOARD_PORT}/"])
    assert "Connection refused" in outside.stdout  # it is the head's alone
    inside = head.run([sys.executable, "-c", ask, f"{machines.dashboard}/api/jobs/"])
    assert "401" in inside.stdout
