"""What a node without its GPUs has: memory, disks, limits, its network interface. Measured, not judged."""

import fcntl
import os
import resource
import shutil
import socket
import struct
import tempfile
from dataclasses import dataclass
from pathlib import Path

SHARED_MEMORY = "/dev/shm"
INTERFACE_VARIABLES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
_SIOCGIFADDR = 0x8915  # Linux: address of an interface (netdevice(7))


@dataclass(frozen=True, kw_only=True, slots=True)
class Space:
    """Room in memory or on a file system."""

    free_bytes: int
    total_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeFacts:
    """What one node has."""

    cpus: int
    """That this process may use."""
    memory: Space
    shared_memory: Space
    disks: dict[str, Space]
    """By folder."""
    open_files: int
    """Soft limit of this process."""
    interface: str | None
    """Network interface that has the node's address."""
    link_mbit: int | None
    """Speed that it has negotiated; None if unknown or virtual."""
    has_loopback_name: bool
    """Whether the host's own name means a loopback address here, as on Debian."""
    variables: dict[str, str]
    """Which interface collectives are told to use."""


def probe_facts(node_ip: str, folders: tuple[str, ...]) -> NodeFacts:
    """Look at the node that this runs on.

    Args:
        node_ip: its address in the cluster.
        folders: whose file systems are looked at; `~` is the node's own home.
    """
    interface = interface_of(node_ip)
    return NodeFacts(
        cpus=len(os.sched_getaffinity(0)),
        memory=_memory(),
        shared_memory=space_of(SHARED_MEMORY),
        disks={folder: space_of(folder) for folder in (*folders, tempfile.gettempdir())},
        open_files=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        interface=interface,
        link_mbit=link_speed(interface) if interface else None,
        has_loopback_name=_has_loopback_name(),
        variables={name: os.environ[name] for name in INTERFACE_VARIABLES if name in os.environ},
    )


def space_of(folder: str) -> Space:
    """Room on the file system that a folder is on, or would be on."""
    path = Path(folder).expanduser()
    while not path.exists():
        path = path.parent
    usage = shutil.disk_usage(path)
    return Space(free_bytes=usage.free, total_bytes=usage.total)


def interface_of(ip: str) -> str | None:
    """Name of the network interface that has an IPv4 address; None if there is none here."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        for _, name in socket.if_nameindex():
            request = struct.pack("256s", name.encode()[:15])
            try:
                answer = fcntl.ioctl(any_socket.fileno(), _SIOCGIFADDR, request)
            except OSError:  # it has no address
                continue
            if socket.inet_ntoa(answer[20:24]) == ip:
                return name
    return None


def link_speed(interface: str) -> int | None:
    """Megabits per second that a physical interface has negotiated; None if unknown or virtual."""
    folder = Path("/sys/class/net", interface)
    if not (folder / "device").exists():
        return None
    try:
        speed = int((folder / "speed").read_text())
    except (OSError, ValueError):
        return None
    return speed if speed > 0 else None


def _memory() -> Space:
    rows = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    free, total = (int(rows[name].split()[0]) * 1024 for name in ("MemAvailable", "MemTotal"))
    return Space(free_bytes=free, total_bytes=total)


def _has_loopback_name() -> bool:
    try:
        return socket.gethostbyname(socket.gethostname()).startswith("127.")
    except OSError:
        return False
