"""How `doctor` judges what lies between nodes: clocks, links, collectives, storage. Pure."""

from collections.abc import Mapping
from statistics import median

from cluster.service_probes import StorageSpeed
from cluster.verdicts import CLUSTER, Check, Verdict

CLOCK_WARN_S, CLOCK_FAIL_S = 1.0, 15.0
"""A run's lease is stale after 45 s (cluster/lease.py); S3 refuses requests that are 15 minutes off."""
RTT_WARN_S, RTT_FAIL_S = 0.002, 0.020
"""Collectives wait for a round trip many times a step: one of 100 ms cut 3.2 steps/s to 0.25."""
SLOW_LINK_FRACTION = 0.4
"""Of what a link could carry: one TCP connection seldom reaches more than half of a fast one."""
SLOW_PAIR_FRACTION = 0.5
"""Of the median pair."""
SLOW_STORAGE = 20e6
"""Bytes per second; a checkpoint of yolov5x with optimizer and EMA has a gigabyte."""


def judge_clock(host: str, offset_s: float, uncertainty_s: float) -> Check:
    """A node's clock against the driver's."""
    off = max(0.0, abs(offset_s) - uncertainty_s)
    verdict: Verdict = "fail" if off > CLOCK_FAIL_S else "warn" if off > CLOCK_WARN_S else "ok"
    remedy = "" if verdict == "ok" else "run a time service there (chrony, systemd-timesyncd)"
    return Check(
        "clock",
        host,
        verdict,
        f"{offset_s:+.3f} s against the driver, +- {uncertainty_s:.3f}",
        remedy,
    )


def judge_round_trips(pairs: Mapping[tuple[str, str], float | str]) -> list[Check]:
    """Seconds between any two nodes, or why they do not reach each other."""
    checks = []
    for (first, second), found in pairs.items():
        hosts = f"{first} - {second}"
        if isinstance(found, str):
            remedy = "open all TCP ports between the nodes; Ray, gloo and NCCL choose theirs"
            checks.append(Check("link", hosts, "fail", found, remedy))
        elif found > RTT_WARN_S:
            verdict: Verdict = "fail" if found > RTT_FAIL_S else "warn"
            remedy = "look at this link: nodes that train together belong into one network"
            checks.append(Check("link", hosts, verdict, f"round trip {_ms(found)}", remedy))
    if not checks and pairs:
        slowest = max(value for value in pairs.values() if not isinstance(value, str))
        value = f"{len(pairs)} pairs, slowest round trip {_ms(slowest)}"
        checks = [Check("links", CLUSTER, "ok", value)]
    return checks


def judge_all_reduce(
    seconds: float, num_bytes: int, num_nodes: int, backend: str, link_mbit: int | None
) -> Check:
    """Speed of a collective against that of the slowest link.

    Bus bandwidth is 2 (n - 1) / n x bytes / seconds, what each link carries in a ring (NCCL tests'
    PERFORMANCE.md).
    """
    bandwidth = 2 * (num_nodes - 1) / num_nodes * num_bytes / seconds
    value = f"{backend}, {bandwidth / 1e9:.2f} GB/s over {num_nodes} nodes"
    if link_mbit is None:
        return Check("all-reduce", CLUSTER, "ok", f"{value} (links of unknown speed)")
    link = link_mbit / 8 * 1e6
    slow = bandwidth < SLOW_LINK_FRACTION * link
    return Check(
        "all-reduce", CLUSTER, "warn" if slow else "ok", f"{value}, links {link / 1e9:.2f} GB/s",
        "look at the pairs below; NCCL_SOCKET_IFNAME chooses the interface" if slow else "",
    )  # fmt: skip


def judge_throughputs(found: Mapping[tuple[str, str], float | str]) -> list[Check]:
    """Bytes per second between any two nodes: the slow ones are named."""
    pairs = {pair: speed for pair, speed in found.items() if not isinstance(speed, str)}
    if not pairs:
        return []  # that none is reached was said before
    usual = median(pairs.values())
    slow = {pair: speed for pair, speed in pairs.items() if speed < SLOW_PAIR_FRACTION * usual}
    checks = [
        Check(
            "link", f"{first} - {second}", "warn",
            f"{speed / 1e6:.0f} MB/s over one connection, the median pair {usual / 1e6:.0f}",
            "look at this link: cable, switch port, other traffic",
        )
        for (first, second), speed in slow.items()
    ]  # fmt: skip
    value = f"{len(pairs)} pairs, {usual / 1e6:.0f} MB/s over one connection (median)"
    return checks or [Check("throughput", CLUSTER, "ok", value)]


def judge_storage(
    host: str,
    used: StorageSpeed | Exception,
    unseen: tuple[str, ...] | Exception,
    num_bytes: int,
    remedy: str,
) -> Check:
    """What one node made of the storage.

    Args:
        host: the node.
        used: how fast it wrote and read, or why it could not.
        unseen: files of others that it does not see.
        num_bytes: size of each file.
        remedy: for one that cannot use it.
    """
    for failed in (used, unseen):
        if isinstance(failed, Exception):
            return Check("storage", host, "fail", str(failed), remedy)
    assert isinstance(used, StorageSpeed) and isinstance(unseen, tuple)  # the rest of it
    if unseen:
        writers = ", ".join(sorted({file.split(".")[1] for file in unseen}))
        return Check("storage", host, "fail", f"does not show what {writers} wrote", remedy)
    write, read = (num_bytes / max(s, 1e-9) for s in (used.write_s, used.read_s))
    told = f"written at {write / 1e6:.0f} MB/s, read at {read / 1e6:.0f} MB/s"
    if min(write, read) < SLOW_STORAGE:
        return Check("storage", host, "warn", told, "checkpoints will be waited for")
    return Check("storage", host, "ok", told)


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.2f} ms"
