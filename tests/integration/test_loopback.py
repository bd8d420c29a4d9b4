"""Who reaches a cluster that a command starts inside itself: this host."""

import time
from contextlib import suppress

import psutil
import pytest

from cluster.session import Session

pytestmark = pytest.mark.integration

PARTS = ("gcs_server", "raylet/raylet", "monitor.py", "dashboard.py", "ray::DashboardAgent")
START_S = 90.0


def listening() -> dict[tuple[str, int], str]:
    """Addresses on which this process and its descendants listen, and the command of each."""
    commands = {}
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            commands[process.pid] = " ".join(process.cmdline())
    return {
        (one.laddr.ip.removeprefix("::ffff:"), one.laddr.port): commands[one.pid]
        for one in psutil.net_connections("inet")
        if one.status == "LISTEN" and one.pid in commands
    }


def test_an_embedded_cluster_listens_on_loopback_alone(ray_session: Session) -> None:
    deadline = time.monotonic() + START_S
    while not all(any(part in command for command in listening().values()) for part in PARTS):
        assert time.monotonic() < deadline, listening()
        time.sleep(0.5)
    assert {ip for ip, _ in listening()} == {"127.0.0.1"}
    assert ray_session.address.startswith("127.0.0.1:")
