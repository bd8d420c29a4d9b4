"""The commands of the systemd units on hosts, started again whenever they end, as systemd does."""

import re
import secrets
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.cluster.hosts import Host, hosts
from tests.cluster.ray_on_hosts import (
    BIN,
    DASHBOARD_PORT,
    OBJECT_STORE_BYTES,
    SETTINGS,
    Cluster,
)
from tests.launch_files import UNITS, unit_command

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


@contextmanager
def units(folder: Path, settings: Mapping[str, str]) -> Iterator[Machines]:
    """A head, a machine for drivers and a rank, and one for another rank; up and complete.

    Args:
        folder: Shared by the machines.
        settings: More of each one's `ray.env`.
    """
    with hosts(3, folder) as made:
        running = Machines(made, folder, [0, 1, 1], ())
        running.environment_file = {
            **SETTINGS, **settings, "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "TRAINJOBS_STORAGE": str(folder / "runs"),
        }  # fmt: skip
        for host in made:
            running.start_ray(host)
        running.wait_for_nodes([host.name for host in made])
        yield running
