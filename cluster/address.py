"""Where the cluster is that a command is to use, and whether it answers."""

import logging
import os
import socket
import time
from contextlib import suppress

from ray._private.utils import read_ray_address

from cluster.config import ClusterConfig
from cluster.errors import ConfigError, ResourceError

logger = logging.getLogger(__name__)

ADDRESS_VARIABLE = "RAY_ADDRESS"
ANNOUNCE_AFTER_S = 2.0
"""A wait longer than this is announced."""

# RFC 9113, section 3.4 "HTTP/2 Connection Preface": each side begins with a SETTINGS frame, whose
# fourth byte is its type.
_HTTP2_SETTINGS = b"\x04"
_HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0" + _HTTP2_SETTINGS + b"\0" * 5


def find_cluster(config: ClusterConfig) -> str | None:
    """Address of the cluster to attach to, once it answers; None to start one.

    Raises:
        ConfigError: The address is not one that a driver can use.
        ResourceError: Nothing answers there in time.
    """
    asked = config.address or os.environ.get(ADDRESS_VARIABLE) or None
    if asked == "local":
        return None
    if asked in (None, "auto"):
        # Left by `ray start`, not by embedded clusters: those belong to their commands.
        found: str | None = read_ray_address()
        if found and _answers(found):
            return found
        if asked == "auto":
            raise ResourceError("no Ray runs on this machine; start one with `ray start --head`")
        return None
    host, _, port = asked.rpartition(":")
    if "://" in asked or not host or not port.isdigit():
        raise ConfigError(
            f"the cluster's address (--address, {ADDRESS_VARIABLE}) must be host:port, auto or "
            f"local, got {asked!r}. To run on a cluster from outside, use "
            "`ray job submit --address http://host:8265 -- python -m ...`"
        )
    _wait_for(asked, config.start_timeout_s)
    return asked


def is_on_loopback_alone(address: str) -> bool:
    """Whether the cluster there is one that another command has started inside itself.

    Ray takes 127.0.0.1 for the host's own address, where such a cluster does not listen.
    """
    host, _, port = address.rpartition(":")
    return host in ("127.0.0.1", "localhost") and not _answers(f"{_own_address()}:{port}")


def _own_address() -> str:
    """The host's address in its network. Ray's own function writes a warning to stdout without one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # nothing is sent: it chooses the interface
        except OSError:
            return socket.gethostbyname(socket.gethostname())
        address: str = probe.getsockname()[0]
        return address


def _wait_for(address: str, timeout_s: float) -> None:
    started, announced = time.monotonic(), False
    while not _answers(address):
        waited = time.monotonic() - started
        if waited >= timeout_s:
            raise ResourceError(
                f"no Ray cluster answers at {address} (waited {timeout_s:g} s). Check the address, "
                "and `ray status` on the head node"
            )
        if waited >= ANNOUNCE_AFTER_S and not announced:
            logger.info("waiting for the Ray cluster at %s, up to %g s", address, timeout_s)
            announced = True
        time.sleep(min(1.0, timeout_s - waited))


def _answers(address: str) -> bool:
    """Whether a gRPC server greets there. (`ray.init` tries other ports for minutes.)"""
    host, _, port = address.rpartition(":")
    with suppress(OSError), socket.create_connection((host.strip("[]"), int(port)), 2.0) as probe:
        if os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"):
            return True
        probe.sendall(_HTTP2_PREFACE)
        return probe.recv(4)[3:] == _HTTP2_SETTINGS
    return False
