"""How fast nodes reach each other: an actor on each, and plain TCP between any two of them."""

import socket
import threading
import time
from contextlib import suppress
from statistics import median
from typing import Any

import ray.util

from cluster.environment import choose_gloo_interface
from cluster.probes import time_all_reduce

PINGS = 11
CONNECT_TIMEOUT_S = 5.0
CHUNK_BYTES = 1 << 20
_PING, _STREAM = b"p", b"s"


class Peer:
    """One node's end of the connections. Methods that measure block; run it with threads."""

    def __init__(self) -> None:
        self.ip: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]  # Ray

    def clock(self) -> float:
        """Seconds since 1970, here."""
        return time.time()

    def listen(self) -> tuple[str, int]:
        """Answer the others from now on. Returns address and port."""
        server = socket.create_server((self.ip, 0))
        threading.Thread(target=_serve, args=(server,), daemon=True).start()
        return self.ip, server.getsockname()[1]

    def free_port(self) -> tuple[str, int]:
        """Address, and a port on which something else may listen."""
        with socket.create_server((self.ip, 0)) as server:
            return self.ip, server.getsockname()[1]

    def round_trip(self, ip: str, port: int) -> float:
        """Seconds to another node and back: median of a few.

        Raises:
            OSError: it cannot be reached.
        """
        with _connected(ip, port) as connection:
            connection.sendall(_PING)
            seconds = []
            for _ in range(PINGS):
                started = time.perf_counter()
                connection.sendall(_PING)
                _receive(connection, 1)
                seconds.append(time.perf_counter() - started)
        return median(seconds)

    def throughput(self, ip: str, port: int, num_bytes: int) -> float:
        """Bytes per second to another node, over one connection.

        Raises:
            OSError: it cannot be reached.
        """
        with _connected(ip, port) as connection:
            started = time.perf_counter()
            connection.sendall(_STREAM + num_bytes.to_bytes(8, "big"))
            chunk = bytes(CHUNK_BYTES)
            for start in range(0, num_bytes, CHUNK_BYTES):
                connection.sendall(chunk[: num_bytes - start])
            _receive(connection, 1)
            return num_bytes / (time.perf_counter() - started)

    def all_reduce(self, *arguments: Any, **options: Any) -> float:
        """See `cluster.probes.time_all_reduce`; on the interface that ranks would use."""
        choose_gloo_interface(self.ip)
        return time_all_reduce(*arguments, **options)


def pairings(count: int) -> list[list[tuple[int, int]]]:
    """Rounds in which every two of `count` meet once and nobody is in two pairs (circle method)."""
    players = list(range(count + count % 2))  # an odd one pauses
    rounds = []
    for _ in range(len(players) - 1):
        half = len(players) // 2
        pairs = list(zip(players[:half], reversed(players[half:]), strict=True))
        rounds.append([(min(pair), max(pair)) for pair in pairs if max(pair) < count])
        players = [players[0], players[-1], *players[1:-1]]
    return rounds


def _serve(server: socket.socket) -> None:
    while True:
        connection, _ = server.accept()
        threading.Thread(target=_answer, args=(connection,), daemon=True).start()


def _answer(connection: socket.socket) -> None:
    with connection, suppress(OSError):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.settimeout(60.0)
        if _receive(connection, 1) == _PING:
            while connection.recv(1):
                connection.sendall(_PING)
            return
        left = int.from_bytes(_receive(connection, 8), "big")
        buffer = bytearray(CHUNK_BYTES)
        while left > 0 and (received := connection.recv_into(buffer, min(left, CHUNK_BYTES))):
            left -= received
        connection.sendall(_STREAM)


def _connected(ip: str, port: int) -> socket.socket:
    connection = socket.create_connection((ip, port), CONNECT_TIMEOUT_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.settimeout(60.0)
    return connection


def _receive(connection: socket.socket, num_bytes: int) -> bytes:
    received = b""
    while len(received) < num_bytes:
        more = connection.recv(num_bytes - len(received))
        if not more:
            raise ConnectionResetError("the other node closed the connection")
        received += more
    return received
