"""Measures what lies between nodes: clocks, round trips, a collective, and the slow pair."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from cluster.link_verdicts import (
    judge_all_reduce,
    judge_clock,
    judge_round_trips,
    judge_throughputs,
)
from cluster.peers import Peer, pairings
from cluster.resources import NodeInfo
from cluster.session import Session, on_node
from cluster.verdicts import CLUSTER, Check

CALL_TIMEOUT_S = 60.0
CLOCK_READINGS = 3
GLOO_BYTES, NCCL_BYTES = 16 << 20, 256 << 20
STREAM_BYTES = 64 << 20
Address = tuple[str, int]


def check_links(session: Session, link_mbit: int | None) -> list[Check]:
    """Clocks, and how fast any two nodes and all of them together exchange bytes.

    Args:
        session: of the cluster.
        link_mbit: speed of the slowest node's interface, if known.
    """
    nodes = session.worker_nodes()
    if len(nodes) < 2:
        return [Check("links", CLUSTER, "skip", "one node")]
    try:
        with _peers(nodes) as peers:
            addresses = dict(
                zip(peers, _get([p.listen.remote() for p in peers.values()]), strict=True)
            )
            clocks = [_clock(host, peer) for host, peer in peers.items()]
            checks = judge_round_trips(_pairs(peers, addresses, "round_trip"))
            checks.append(_all_reduce(nodes, peers, link_mbit))
            if any(check.verdict != "ok" for check in checks):
                speeds = _pairs(peers, addresses, "throughput", STREAM_BYTES)
                checks += judge_throughputs(speeds)
            return clocks + checks
    except RayError as error:
        told = str(error).splitlines()[0]
        return [Check("links", CLUSTER, "fail", told, "see which nodes are alive: `ray status`")]


@contextmanager
def _peers(nodes: Mapping[str, NodeInfo], *, gpus: int = 0) -> Iterator[dict[str, Any]]:
    peers: dict[str, Any] = {
        host: ray.remote(Peer).options(
            num_cpus=0, num_gpus=gpus, max_concurrency=4, scheduling_strategy=on_node(node)
        ).remote()
        for host, node in nodes.items()
    }  # fmt: skip
    try:
        yield peers
    finally:
        for peer in peers.values():
            ray.kill(peer)


def _clock(host: str, peer: Any) -> Check:
    readings = []
    for _ in range(CLOCK_READINGS):
        before = time.time()
        there = _get(peer.clock.remote())
        after = time.time()
        readings.append(((after - before) / 2, there - (before + after) / 2))
    uncertainty, offset = min(readings)
    return judge_clock(host, offset, uncertainty)


def _pairs(
    peers: Mapping[str, Any], addresses: Mapping[str, Address], method: str, *arguments: Any
) -> dict[tuple[str, str], float | str]:
    """What a method of the first one measures towards the second one, or why it could not."""
    found: dict[tuple[str, str], float | str] = {}
    hosts = list(peers)
    for pairs in pairings(len(hosts)):  # those of a round do not disturb each other
        calls = {
            (hosts[a], hosts[b]): getattr(peers[hosts[a]], method).remote(
                *addresses[hosts[b]], *arguments
            )
            for a, b in pairs
        }
        for pair, call in calls.items():
            try:
                found[pair] = _get(call)
            except RayTaskError as error:
                found[pair] = f"cannot be reached: {error.cause}"
    return found


def _all_reduce(
    nodes: Mapping[str, NodeInfo], peers: Mapping[str, Any], link_mbit: int | None
) -> Check:
    """NCCL where two nodes or more have GPUs and all are free, else gloo."""
    gpu_nodes = {host: node for host, node in nodes.items() if node.gpus >= 1}
    free: float = ray.available_resources().get("GPU", 0.0)  # type: ignore[no-untyped-call]  # Ray
    if len(gpu_nodes) > 1 and free >= sum(node.gpus for node in gpu_nodes.values()):
        with _peers(gpu_nodes, gpus=1) as with_gpus:
            return _reduce(with_gpus, "nccl", NCCL_BYTES, link_mbit)
    return _reduce(peers, "gloo", GLOO_BYTES, link_mbit)


def _reduce(peers: Mapping[str, Any], backend: str, num_bytes: int, link_mbit: int | None) -> Check:
    first = next(iter(peers.values()))
    ip, port = _get(first.free_port.remote())
    calls = [
        peer.all_reduce.remote(rank, len(peers), f"{ip}:{port}", num_bytes, backend=backend)
        for rank, peer in enumerate(peers.values())
    ]
    try:
        seconds = max(_get(calls))
    except RayTaskError as error:
        *_, told = str(error.cause).strip().splitlines() or [""]
        remedy = "see the lines about interfaces and links"
        return Check("all-reduce", CLUSTER, "fail", f"{backend}: {told}", remedy)
    return judge_all_reduce(seconds, num_bytes, len(peers), backend, link_mbit)


def _get(calls: Any) -> Any:
    return ray.get(calls, timeout=CALL_TIMEOUT_S)
