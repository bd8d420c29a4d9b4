"""The harness itself: hosts see each other, and lose each other when they should."""

import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cluster.hosts import Host, hosts

PORT = 4000
ECHO = f"""
import socket
server = socket.create_server(("", {PORT}))
while True:
    connection, _ = server.accept()
    connection.sendall(socket.gethostname().encode())
    connection.close()
"""
ASK = f"""
import socket, sys
with socket.create_connection((sys.argv[1], {PORT}), timeout=0.5) as connection:
    print(connection.recv(100).decode(), end="")
"""
# Connects, says so, and waits for what never comes.
HANG_ON = f"""
import socket, sys
with socket.create_connection((sys.argv[1], {PORT + 1})) as connection:
    print("connected", flush=True)
    print(connection.recv(1), flush=True)
"""
HOLD = f"""
import socket
connection, _ = socket.create_server(("", {PORT + 1})).accept()
connection.recv(1)
"""


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Host, Host]]:
    """Two hosts; the second one answers with its name."""
    with hosts(2, tmp_path) as (first, second):
        second.popen([sys.executable, "-c", ECHO])
        yield first, second


def ask(host: Host, address: str) -> str | None:
    """The name that a host gives at this address; None if nobody answers in half a second."""
    done = host.run([sys.executable, "-c", ASK, address])
    return done.stdout if done.returncode == 0 else None


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_host_has_its_own_name_address_home_and_processes(pair: tuple[Host, Host]) -> None:
    first, second = pair
    assert first.run(["hostname"]).stdout == "host0\n"
    assert first.run(["sh", "-c", "cd; pwd"]).stdout == f"{first.home}\n" != f"{second.home}\n"
    assert first.run(["hostname"], cwd=Path("/")).stdout != f"{socket.gethostname()}\n"
    assert "python" not in first.run(["ps", "-e"]).stdout
    assert "python" in second.run(["ps", "-e"]).stdout


def test_hosts_reach_each_other_by_name_and_address_and_nobody_else(
    pair: tuple[Host, Host],
) -> None:
    first, second = pair
    wait_until(lambda: ask(first, second.ip) == "host1")
    assert ask(first, "host1") == "host1"
    assert ask(first, "localhost") is None
    assert first.run(["ip", "-brief", "route", "show", "default"]).stdout == ""
    assert ask(first, "198.51.100.1") is None


def test_a_folder_of_this_machine_is_shared(pair: tuple[Host, Host], tmp_path: Path) -> None:
    first, second = pair
    file = tmp_path / "shared"
    assert first.run(["sh", "-c", f"echo hello > {file}"]).returncode == 0
    assert second.run(["cat", file]).stdout == "hello\n"
    assert first.run(["touch", "/tmp/ray/mine", "/dev/shm/mine"]).returncode == 0
    assert second.run(["ls", "/tmp/ray", "/dev/shm"]).stdout.count("mine") == 0


def test_a_cut_cable_heals(pair: tuple[Host, Host]) -> None:
    first, second = pair
    wait_until(lambda: ask(first, second.ip) == "host1")
    second.unplug()
    assert ask(first, second.ip) is None
    second.plug()
    wait_until(lambda: ask(first, second.ip) == "host1")


def test_a_host_without_power_vanishes_silently_and_boots_again_on_its_disk(
    pair: tuple[Host, Host], tmp_path: Path
) -> None:
    first, second = pair
    wait_until(lambda: ask(first, second.ip) == "host1")
    second.run(["touch", "kept", "/tmp/ray/kept", "/dev/shm/lost"])
    second.popen([sys.executable, "-c", HOLD])
    log = tmp_path / "log"
    hanging = first.popen(
        ["sh", "-c", f"until {sys.executable} -c '{HANG_ON}' {second.ip} 2>/dev/null; do :; done"],
        log=log,
    )
    wait_until(lambda: "connected" in log.read_text())

    second.power_off()
    assert not second.is_on
    assert ask(first, second.ip) is None
    assert hanging.poll() is None, "a host without power closes no connection"

    second.power_on()
    assert second.run(["ls", second.home, "/tmp/ray"]).stdout.count("kept") == 2
    assert second.run(["ls", "/dev/shm"]).stdout == ""
    assert "python" not in second.run(["ps", "-e"]).stdout
    second.popen([sys.executable, "-c", ECHO])
    wait_until(lambda: ask(first, second.ip) == "host1")


def test_nothing_outlives_a_harness_that_was_killed(tmp_path: Path) -> None:
    script = (
        "import sys, pathlib, time; from tests.cluster.hosts import hosts\n"
        "with hosts(1, pathlib.Path(sys.argv[1])) as (host,):\n"
        "    host.popen(['sh', '-c', 'while :; do date +%N > heartbeat; sleep 0.05; done'])\n"
        "    time.sleep(100)\n"
    )
    heartbeat = tmp_path / "host0" / "home" / "heartbeat"
    harness = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)])
    try:
        wait_until(heartbeat.exists)
    finally:
        harness.kill()
        harness.wait()
    time.sleep(0.5)
    last = heartbeat.read_text()
    time.sleep(0.5)
    assert heartbeat.read_text() == last
