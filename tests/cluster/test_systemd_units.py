"""The systemd units on hosts: what a run notices of a head that dies and of a cable that is cut."""

import json
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.cluster.hosts import Host
from tests.cluster.ray_on_hosts import BIN, DASHBOARD_PORT, QUICK, REPOSITORY, wait_until
from tests.cluster.units_on_hosts import Machines, units

pytestmark = [pytest.mark.integration, pytest.mark.slow]

TIMEOUT_S = 400.0
EPOCHS = 8


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    with units(tmp_path_factory.mktemp("machines"), QUICK) as running:
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
