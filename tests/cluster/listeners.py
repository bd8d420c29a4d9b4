"""Who listens where on a host, and who may: the table of ports in docs/security.md.

The first column of a row says where it is seen: `head`, `node`, `rank` (a node with a rank on it)
or a service of docker/compose.yaml.
"""

import json
import re
import sys
from dataclasses import dataclass

from tests.cluster.hosts import Host
from tests.cluster.ray_on_hosts import REPOSITORY

DOCUMENT = REPOSITORY / "docs" / "security.md"
HEADER = "| where | port | process | listens on |"
EPHEMERAL = range(32768, 61000)  # /proc/sys/net/ipv4/ip_local_port_range
LIST = """
import json, psutil
found = []
for c in psutil.net_connections("inet"):
    if c.status == "LISTEN" or (c.type.name == "SOCK_DGRAM" and not c.raddr):
        try:
            command = " ".join(psutil.Process(c.pid).cmdline()) if c.pid else ""
        except psutil.NoSuchProcess:
            continue  # nor does it listen any more
        found.append([c.laddr.ip.removeprefix("::ffff:"), c.laddr.port, command])
print(json.dumps(found))
"""


@dataclass(frozen=True)
class Listener:
    """A socket that waits for others."""

    address: str
    """loopback, node, all, or what else it is."""
    port: int
    command: str


@dataclass(frozen=True)
class Row:
    """What the table says of one kind of listener."""

    where: str
    port: str
    process: str
    address: str
    text: str
    """The whole row."""

    @property
    def may_be_missing(self) -> bool:
        """Whether it listens at times only."""
        return "only while" in self.text

    @property
    def wants_token(self) -> bool:
        """Whether it turns those away who have no token."""
        return self.text.split("|")[6].strip().startswith("yes")

    def allows(self, listener: Listener) -> bool:
        """Whether it is this row's."""
        return (
            listener.port in _ports(self.port)
            and listener.address in self.address.split(", ")
            and any(name in listener.command for name in re.findall(r"`(.+?)`", self.process))
        )


def rows(*, in_containers: bool = False) -> list[Row]:
    """The table; the words behind `containers:` in a cell are what holds in containers."""
    lines = iter(DOCUMENT.read_text().splitlines())
    found = []
    assert any(line.startswith(HEADER) for line in lines), f"{DOCUMENT} has no {HEADER}"
    for line in lines:
        if not line.startswith("|"):
            break
        where, port, process, address = (cell.strip() for cell in line.split("|")[1:5])
        if not where.startswith("---"):
            port, address = (_choose(cell, in_containers) for cell in (port, address))
            found.append(Row(where, port, process, address, line))
    return found


def listeners(host: Host) -> list[Listener]:
    """All sockets of a host, of whichever process."""
    done = host.run([sys.executable, "-I", "-c", LIST])
    assert done.returncode == 0, done.stdout
    return [Listener(_kind(ip, host), *rest) for ip, *rest in json.loads(done.stdout)]


def missing(expected: list[Row], found: list[Listener]) -> list[str]:
    """Rows, or addresses of rows, on which nobody listens."""
    return [
        f"{row.text}: nobody on {address}"
        for row in expected
        if not row.may_be_missing
        for address in row.address.split(", ")
        if not any(row.allows(one) and one.address == address for one in found)
    ]


def unknown(expected: list[Row], found: list[Listener]) -> list[Listener]:
    """Those that the table does not know."""
    return [one for one in found if not any(row.allows(one) for row in expected)]


def _choose(cell: str, in_containers: bool) -> str:
    usual, _, contained = cell.rstrip(")").partition(" (containers: ")
    return contained if in_containers and contained else usual


def _ports(cell: str) -> range:
    if cell == "ephemeral":
        return EPHEMERAL
    first, _, last = cell.partition(" to ")
    return range(int(first), int(last or first) + 1)


def _kind(ip: str, host: Host) -> str:
    kinds = {"0.0.0.0": "all", "::": "all", host.ip: "node", "127.0.0.1": "loopback"}
    return kinds.get(ip, ip)
