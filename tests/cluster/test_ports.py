"""Which doors a cluster has, and which of them want the token: docs/security.md against the units."""

import json
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster.hosts import Host
from tests.cluster.listeners import Listener, Row, listeners, missing, rows, unknown
from tests.cluster.ray_on_hosts import DASHBOARD_PORT
from tests.cluster.units_on_hosts import Machines, units

pytestmark = [pytest.mark.integration, pytest.mark.slow]

TIMEOUT_S = 300.0
RUN = (
    "python", "-m", "trainjobs.yolo", "--epochs", "1000", "--image-size", "64",
    "--data.generated-images", "32", "--batch-size-per-worker", "8", "--num-workers", "2",
    "--resources.placement", "SPREAD", "--run-name", "doors",
)  # fmt: skip
# Asked of each port: a path if it speaks HTTP, else a method of the service that answers there.
ASKED = {
    "6379": "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo",
    "8265": "/api/jobs/",
    "10001": "/ray.rpc.RayletDriver/ClusterInfo",
    "44217": "/metrics",
    "44227": "/metrics",
    "8076": "/ray.rpc.ObjectManagerService/Pull",
    "8077": "/ray.rpc.NodeManagerService/GetNodeStats",
    "8078": "/ray.rpc.LogService/ListLogs",
    "8079": "/",
    "8080": "/metrics",
    "52365": "/api/job_agent/jobs/",
    "20000 to 20999": "/ray.rpc.CoreWorkerService/GetCoreWorkerStats",
}
REFUSED = (["401", "403"], ["UNAUTHENTICATED", "UNAUTHENTICATED"])
# Past the door: what was asked of whom is not quite right everywhere.
WELCOME = ("200", "404", "405", "OK", "NOT_FOUND", "UNKNOWN")
NEEDS_TOKEN = (
    "/api/version", "/api/jobs/", "/nodes?view=summary", "/api/v0/nodes", "/api/v0/actors",
    "/api/v0/tasks", "/api/v0/logs?node_id={node}",
    "/api/v0/logs/file?node_id={node}&filename=raylet.out&lines=1",
    "/api/cluster_status", "/events",
)  # fmt: skip
NEEDS_NONE = ("/", "/api/authentication_mode", "/api/gcs_healthz")
KNOCK = """
import json, os, sys, urllib.error, urllib.request
import grpc

def over_http(address, path, headers):
    try:
        request = urllib.request.Request(f"http://{address}{path}", headers=headers)
        return str(urllib.request.urlopen(request, timeout=30).status)
    except urllib.error.HTTPError as error:
        return str(error.code)

def over_grpc(address, method, headers):
    metadata = [(name.lower(), value) for name, value in headers.items()]
    with grpc.insecure_channel(address) as channel:
        try:
            channel.unary_unary(method)(b"", timeout=30, metadata=metadata)
        except grpc.RpcError as error:
            return error.code().name
    return "OK"

answers = []
for address, what in json.loads(sys.argv[1]):
    knock = over_grpc if what.startswith("/ray.rpc.") else over_http
    tokens = (None, "w" * 64, os.environ["RAY_AUTH_TOKEN"])
    headers = [{"Authorization": f"Bearer {token}"} if token else {} for token in tokens]
    answers.append([knock(address, what, one) for one in headers])
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    """The head, and two machines with a rank each, which train until they are switched off."""
    folder = tmp_path_factory.mktemp("doors")
    with units(folder, {}) as running:
        job = running.submit(*RUN, log=folder / "job.log")
        log = folder / "runs" / "doors" / "train.log"
        job.wait_for(lambda: log.exists() and "epoch 1/" in log.read_text(), TIMEOUT_S)
        yield running


@pytest.fixture(scope="module")
def seen(machines: Machines) -> dict[str, list[Listener]]:
    """All listening sockets, by host."""
    return {host.name: listeners(host) for host in machines.hosts}


def rows_of(machines: Machines, host: Host) -> list[Row]:
    roles = ("head", "node") if host is machines.head else ("node", "rank")
    return [row for row in rows() if row.where in roles]


def knock(host: Host, doors: list[tuple[str, str]]) -> list[list[str]]:
    """Answers of each door to no token, a wrong one, and the right one."""
    done = host.run([sys.executable, "-I", "-c", KNOCK, json.dumps(doors)], timeout_s=120)
    assert done.returncode == 0, done.stdout
    answers: list[list[str]] = json.loads(done.stdout.splitlines()[-1])
    return answers


def test_nobody_listens_where_the_table_does_not_say(
    machines: Machines, seen: dict[str, list[Listener]]
) -> None:
    found = {
        host.name: unknown(rows_of(machines, host), seen[host.name]) for host in machines.hosts
    }
    assert found == {host.name: [] for host in machines.hosts}


def test_somebody_listens_wherever_the_table_says(
    machines: Machines, seen: dict[str, list[Listener]]
) -> None:
    for host in machines.hosts:
        expected = [row for row in rows_of(machines, host) if row.where != "rank"]
        assert missing(expected, seen[host.name]) == [], host.name
    of_ranks = [row for row in rows() if row.where == "rank"]
    assert missing(of_ranks, [one for found in seen.values() for one in found]) == []


@pytest.mark.parametrize("number", [0, 1])
def test_a_port_wants_the_token_where_the_table_says_so(
    machines: Machines, seen: dict[str, list[Listener]], number: int
) -> None:
    host = machines.hosts[number]
    asked = [row for row in rows_of(machines, host) if row.port in ASKED]
    doors = []
    for row in asked:
        one = next(one for one in seen[host.name] if row.allows(one))
        address = "127.0.0.1" if one.address == "loopback" else host.ip
        doors.append((f"{address}:{one.port}", ASKED[row.port]))
    wrong = [
        (row.text, answers)
        for row, answers in zip(asked, knock(host, doors), strict=True)
        if (answers[:2] in REFUSED) is not row.wants_token or answers[2] not in WELCOME
    ]
    assert wrong == []
    if host is machines.head:
        assert {row.port for row in asked} == set(ASKED)


def test_the_dashboard_tells_nothing_without_the_token(machines: Machines) -> None:
    node = machines.node_ids()["host1"]
    dashboard = f"127.0.0.1:{DASHBOARD_PORT}"
    paths = [path.format(node=node) for path in NEEDS_TOKEN]
    answers = knock(machines.head, [(dashboard, path) for path in paths])
    told: dict[str, Any] = dict(zip(paths, answers, strict=True))
    assert told == {path: ["401", "403", "200"] for path in paths}
    # Of Prometheus, which is not there.
    [health] = knock(machines.head, [(dashboard, "/api/prometheus_health")])
    assert health == ["401", "403", "500"]


def test_health_and_static_pages_want_no_token(machines: Machines) -> None:
    head = machines.head
    doors = [(f"127.0.0.1:{DASHBOARD_PORT}", path) for path in NEEDS_NONE]
    doors.append((f"{head.ip}:52365", "/api/local_raylet_healthz"))
    assert knock(head, doors) == [["200", "200", "200"]] * len(doors)


def test_the_head_hides_its_dashboard_from_other_machines(machines: Machines) -> None:
    ask = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 5)"
    target = [machines.head.ip, str(DASHBOARD_PORT)]
    done = machines.hosts[1].run([sys.executable, "-I", "-c", ask, *target])
    assert "ConnectionRefusedError" in done.stdout
