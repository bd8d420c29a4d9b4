"""A cable that delays what it carries: `python slow_cable.py END END SECONDS`, both ends in this network
namespace. For kernels without netem. Says `up` once it forwards; runs until its input closes.
"""

import heapq
import itertools
import select
import socket
import struct
import sys
import time

ETH_P_ALL = 0x0003
SOL_PACKET, PACKET_ADD_MEMBERSHIP, PACKET_MR_PROMISC = 263, 1, 1
PACKET_OUTGOING = 4
FRAME_BYTES = 65536
FRAMES_AT_A_TIME = 64


def open_end(interface: str) -> socket.socket:
    """A socket that gets every frame that comes in at an interface."""
    end = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    end.bind((interface, 0))
    end.setblocking(False)
    everything = struct.pack("iHH8s", socket.if_nametoindex(interface), PACKET_MR_PROMISC, 0, b"")
    end.setsockopt(SOL_PACKET, PACKET_ADD_MEMBERSHIP, everything)
    return end


def forward(ends: list[socket.socket], delay_s: float) -> None:
    """Hand each frame to the other end, later."""
    waiting: list[tuple[float, int, socket.socket, bytes]] = []
    order = itertools.count()
    while True:
        left = waiting[0][0] - time.monotonic() if waiting else 1.0
        ready, _, _ = select.select([*ends, sys.stdin], [], [], max(0.0, left))
        if sys.stdin in ready:
            return
        for end in ready:
            other = ends[1] if end is ends[0] else ends[0]
            for frame in incoming(end):
                due = time.monotonic() + delay_s
                heapq.heappush(waiting, (due, next(order), other, frame))
        while waiting and waiting[0][0] <= time.monotonic():
            _, _, other, frame = heapq.heappop(waiting)
            other.send(frame)


def incoming(end: socket.socket) -> list[bytes]:
    """Frames that have come in, some of them."""
    frames = []
    for _ in range(FRAMES_AT_A_TIME):
        try:
            frame, address = end.recvfrom(FRAME_BYTES)
        except BlockingIOError:
            break
        if address[2] != PACKET_OUTGOING:
            frames.append(frame)
    return frames


if __name__ == "__main__":
    both = [open_end(sys.argv[1]), open_end(sys.argv[2])]
    print("up", flush=True)  # noqa: T201  who started this waits for it
    forward(both, float(sys.argv[3]))
