"""`ray start --head` and jobs submitted to it, on ports and in folders of its own."""

import json
import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

REPOSITORY = Path(__file__).parents[1]
RAY = str(Path(sys.executable).parent / "ray")
TIMEOUT_S = 500.0
LACKING = """
import os, sys

class Lacking:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in os.environ["LACKING"].split(","):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Lacking())
"""


@dataclass(frozen=True)
class Head:
    """A head node that takes jobs."""

    gcs: str
    """Address of the cluster, host:port."""
    variables: Mapping[str, str]
    """Environment of its processes, and of the commands that use it."""
    pid: int

    def job(self, command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`ray job submit`, `stop` or `logs`, in the repository."""
        return subprocess.run(
            [RAY, "job", command, *arguments], cwd=REPOSITORY, env=self.variables,
            capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
        )  # fmt: skip

    def submit(self, *command: str, options: tuple[str, ...] = ()) -> str:
        """Run `python -m` one of this repository's commands as a job to its end; its output."""
        entry = ("--", sys.executable, "-m", *command)
        return self.job("submit", "--working-dir", ".", *options, *entry).stdout

    def state(self, kind: str) -> list[dict[str, Any]]:
        """What Ray's state API lists: nodes, placement_groups ..."""
        request = urllib.request.Request(
            f"{self.variables['RAY_API_SERVER_ADDRESS']}/api/v0/{kind}?detail=true",
            headers={"Authorization": f"Bearer {self.variables['RAY_AUTH_TOKEN']}"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            rows: list[dict[str, Any]] = json.load(answer)["data"]["result"]["result"]
        return rows

    def num_alive(self) -> int:
        """Nodes that are up; 0 as long as the dashboard is not."""
        with suppress(OSError):
            return sum(node["state"] == "ALIVE" for node in self.state("nodes"))
        return 0

    def processes(self) -> dict[int, str]:
        """The node's processes and the names that Ray gives them; shells and such have none."""
        found = {}
        for process in psutil.Process(self.pid).children(recursive=True):
            try:
                found[process.pid] = process.name().partition(".")[0]
            except psutil.NoSuchProcess:
                continue
        return found

    @contextmanager
    def node(self, **variables: str) -> Iterator[None]:
        """One more node, with one CPU and more variables; up."""
        before = self.num_alive()
        options = ["--address", self.gcs, "--num-cpus", "1"]
        with _started(options, {**self.variables, **variables}):
            wait_until(lambda: self.num_alive() > before, 120)
            yield
        wait_until(lambda: self.num_alive() == before, 120)


@contextmanager
def ray_head(folder: Path) -> Iterator[Head]:
    """A head with two CPUs, up."""
    gcs, dashboard, client = _free_port(), _free_port(), _free_port()
    (folder / "home").mkdir()
    variables = {
        **os.environ,
        "TRAINJOBS_CACHE": str(folder / "cache"),
        "HOME": str(folder / "home"),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        "RAY_worker_niceness": "0",
        "RAY_TMPDIR": f"/tmp/rt{gcs}",  # Ray's sockets need a short path
        "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard}",
        "GLOO_SOCKET_IFNAME": "lo",
        "NO_COLOR": "1",
    }
    variables.pop("RAY_ADDRESS", None)
    options = [
        "--head", "--num-cpus", "2", "--port", str(gcs), "--dashboard-port", str(dashboard),
        "--ray-client-server-port", str(client),
    ]  # fmt: skip
    with _started(options, variables) as pid:
        head = Head(f"127.0.0.1:{gcs}", variables, pid)
        wait_until(lambda: head.num_alive() == 1, 120)
        yield head


def without(folder: Path, *modules: str) -> dict[str, str]:
    """Variables with which Python does not find these modules."""
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(LACKING)
    return {"PYTHONPATH": str(folder), "LACKING": ",".join(modules)}


def wait_until(condition: Callable[[], bool], timeout_s: float, message: str = "") -> None:
    """Ask again and again; AssertionError with the message when the time is over."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"after {timeout_s:g} s: {message}"
        time.sleep(0.5)


@contextmanager
def _started(options: list[str], variables: Mapping[str, str]) -> Iterator[int]:
    common = ["--block", "--node-ip-address", "127.0.0.1"]
    common += ["--dashboard-agent-listen-port", str(_free_port())]
    process = subprocess.Popen(
        [RAY, "start", *common, *options],
        env=variables, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield process.pid
    finally:
        process.terminate()
        process.wait(60)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
