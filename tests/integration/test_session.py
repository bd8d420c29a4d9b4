"""`connect` against real clusters. Each command is a process of its own, as a user's is."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

pytestmark = pytest.mark.integration

SERVE = """
import sys
from cluster.config import ClusterConfig
from cluster.session import connect

with connect(ClusterConfig(address="local")) as session:
    print(session.address, session.embedded, flush=True)
    sys.stdin.read()
"""

USE = """
import os, sys, time
import ray
from cluster.channel import open_channel
from cluster.config import ClusterConfig
from cluster.errors import ServiceError
from cluster.logs import configure_logging
from cluster.session import connect

def rank(sender):
    import logging
    from cluster.logs import configure_rank_logging
    sender.start()
    configure_rank_logging(sender.handler(), rank=1, world_size=2)
    logging.getLogger("trainjobs.test").info("at work")
    sender.send("event")
    while not sender.stop_requested:
        time.sleep(0.05)
    sender.close()

configure_logging()
started, events = time.monotonic(), []
try:
    with connect(ClusterConfig(address=sys.argv[1], start_timeout_s=3.0)) as session:
        print(session.embedded, len(session.nodes()), list(session.run_everywhere(os.cpu_count)))
        with open_channel(events.append) as channel:
            call = ray.remote(rank).options(num_cpus=0).remote(channel.sender())
            while not events:
                time.sleep(0.05)
            channel.request_stop()
            ray.get(call)
        print(events)
    print(ray.is_initialized(), [name for name in os.environ if name.startswith("RAY_TRAIN")])
except ServiceError as error:
    print(type(error).__name__, f"{time.monotonic() - started:.0f}", error)
"""


def use(address: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", USE, address],
        env=os.environ | environ,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """Address of a cluster that another process has started, and that wants the token `a...`."""
    environ = os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "a" * 64}
    with subprocess.Popen(
        [sys.executable, "-c", SERVE],
        env=environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin and process.stdout
        address, embedded = process.stdout.readline().split()
        assert embedded == "True"
        yield address
        process.stdin.close()
        assert process.wait(60) == 0


def test_a_command_attaches_uses_the_channel_and_leaves_the_cluster_running(server: str) -> None:
    for _ in range(2):
        done = use(server, RAY_AUTH_TOKEN="a" * 64)
        assert done.returncode == 0, done.stderr
        host = socket.gethostname()
        expected = ["False 1 ['" + host + "']", "['event']", "False []"]
        assert done.stdout.splitlines() == expected, done.stderr
        assert f"{host} rank 1/2 | at work" in done.stderr


def test_a_cluster_that_wants_a_token_is_named_as_such(server: str) -> None:
    done = use(server, RAY_AUTH_MODE="disabled")
    kind, seconds, message = done.stdout.split(" ", 2)
    assert (kind, "RAY_AUTH_TOKEN" in message) == ("ResourceError", True), done.stderr
    assert float(seconds) < 30
    assert "Traceback" not in done.stderr


def test_an_address_where_nobody_answers_is_given_up_in_time() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        done = use(f"127.0.0.1:{free.getsockname()[1]}")
    kind, seconds, message = done.stdout.split(" ", 2)
    assert kind == "ResourceError"
    assert "no Ray cluster answers at 127.0.0.1:" in message
    assert float(seconds) <= 10


def test_a_port_behind_which_no_ray_is_is_given_up_in_time() -> None:
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        done = use(f"127.0.0.1:{mute.getsockname()[1]}")
    kind, seconds, _ = done.stdout.split(" ", 2)
    assert kind == "ResourceError", done.stderr
    assert float(seconds) <= 10
