"""How `doctor` judges what probes have measured. Pure; each check is one line of its table."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

from cluster.gpus import Gpu
from cluster.node_facts import NodeFacts, Space
from cluster.probes import NONE, NodeReport

Verdict = Literal["ok", "warn", "fail", "skip"]
CLUSTER = "cluster"
"""Host of a check that is not about one node."""

GIB = 2**30
MIN_MEMORY_FREE = 2 * GIB
"""What a rank with its loader takes before the first image: 1 GB seen on a CPU, 2 with CUDA."""
MIN_SHARED_MEMORY = GIB // 4
"""Ray's object store and loading processes live there; Ray itself wants at least 75 MB."""
MIN_OPEN_FILES = 4096
"""Ray's raylet and GCS keep a descriptor per worker and connection; its documentation asks for 65536."""
GOOD_OPEN_FILES = 65536
MIN_DISK_FREE_FRACTION, GOOD_DISK_FREE_FRACTION = 0.05, 0.10
"""Ray takes no more objects on a disk that is 95 % full (RAY_local_fs_capacity_threshold)."""
MIN_DISK_FREE = 256 * 2**20
MAX_VALUES = 3
"""That one line of the table shows of several hosts."""
SLOW_GPU_FRACTION = 0.85
"""Of the median GPU of the same name."""


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the report."""

    name: str
    host: str
    verdict: Verdict
    value: str
    remedy: str = ""
    """What to do; "" where nothing is."""


def judge_versions(reports: Mapping[str, NodeReport]) -> list[Check]:
    """Each version, compared with what most nodes have; nodes without GPUs have no driver and NCCL."""
    checks = []
    for name in next(iter(reports.values())).versions:
        found = {host: report.versions[name] for host, report in reports.items()}
        if name in ("driver", "nccl"):
            found = {host: value for host, value in found.items() if value != NONE} or found
        usual, count = Counter(found.values()).most_common(1)[0]
        checks += [
            Check(
                name, host, "fail", f"{value}; {count} of {len(found)} nodes have {usual}",
                f"install {name} {usual} there and start Ray again",
            )
            for host, value in found.items() if value != usual
        ]  # fmt: skip
        if count == len(found):
            checks.append(Check(name, CLUSTER, "ok", usual))
    return checks


def judge_node(host: str, report: NodeReport, *, num_nodes: int) -> list[Check]:
    """What one node has."""
    facts = report.facts
    return [
        Check("cpus", host, "ok", str(facts.cpus)),
        _at_least("memory", host, facts.memory, MIN_MEMORY_FREE, "end what else runs there"),
        _at_least(
            "/dev/shm", host, facts.shared_memory, MIN_SHARED_MEMORY,
            "give the container a larger one (docker: --shm-size, Kubernetes: an emptyDir of medium Memory)",
        ),
        _judge_open_files(host, facts.open_files),
        *(_judge_disk(host, folder, space) for folder, space in facts.disks.items()),
        _judge_interface(host, facts, num_nodes=num_nodes),
        *judge_gpus(host, report),
    ]  # fmt: skip


def judge_gpus(host: str, report: NodeReport) -> list[Check]:
    """The GPUs of one node."""
    if report.gpu_problem:
        remedy = "look at the driver (`nvidia-smi`, `dmesg`)"
        return [Check("gpu", host, "fail", report.gpu_problem, remedy)]
    return [Check(f"gpu {gpu.index}", host, *_judge_gpu(gpu)) for gpu in report.gpus]


def judge_gpu_speeds(reports: Mapping[str, NodeReport]) -> list[Check]:
    """Each GPU's matrix product against the median of all of the same name."""
    speeds = [
        (host, gpu.index, gpu.name, speed)
        for host, report in reports.items()
        for gpu, speed in zip(report.gpus, report.matmul_tflops, strict=False)
    ]
    checks = []
    for host, index, name, speed in speeds:
        usual = median(other for _, _, its_name, other in speeds if its_name == name)
        slow = speed < SLOW_GPU_FRACTION * usual
        value = f"{speed:.0f} TFLOP/s (bfloat16), median of {name} {usual:.0f}"
        remedy = "look at its clocks, power limit and cooling" if slow else ""
        checks.append(Check(f"matmul {index}", host, "warn" if slow else "ok", value, remedy))
    return checks


def table(checks: Sequence[Check]) -> list[str]:
    """The report as lines: what is fine on several hosts in one, each problem with its remedy."""
    rows: list[tuple[str, str, str, str]] = []
    for check in checks:
        alike = [c for c in checks if (c.name, c.verdict) == (check.name, check.verdict)]
        if check.verdict != "ok" or len(alike) == 1:
            rows.append((check.verdict, check.name, check.host, check.value))
            if check.remedy:
                rows.append(("", "", "", f"-> {check.remedy}"))
        elif check is alike[0]:
            values = list(dict.fromkeys(c.value for c in alike))
            told = "; ".join(values[:MAX_VALUES]) + ("; ..." if len(values) > MAX_VALUES else "")
            rows.append(("ok", check.name, f"{len(alike)} hosts", told))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = [
        "  ".join([*(text.ljust(w) for text, w in zip(row, widths, strict=False)), row[3]])
        for row in rows
    ]
    failed, warned = (sum(c.verdict == v for c in checks) for v in ("fail", "warn"))
    return [*lines, f"{len(checks)} checks: {failed} failed, {warned} warnings"]


def _judge_gpu(gpu: Gpu) -> tuple[Verdict, str, str]:
    if gpu.ecc_errors > 0:
        value = f"{gpu.name}: {gpu.ecc_errors:.0f} uncorrected ECC errors"
        return "fail", value, "reset the GPU, or take it out of service"
    if gpu.throttled:
        value = f"{gpu.name}: held down by {', '.join(gpu.throttled)}"
        return "warn", value, "look at cooling and power"
    if not gpu.is_idle:
        used = f"{gpu.utilization_percent:.0f} % busy, {gpu.memory_used_mib:.0f} MiB used"
        return "warn", f"{gpu.name}: {used}", "see who uses it (`nvidia-smi`); its speed is unknown"
    return "ok", gpu.name, ""


def is_ok(checks: Iterable[Check]) -> bool:
    """Whether nothing failed."""
    return all(check.verdict != "fail" for check in checks)


def _at_least(name: str, host: str, space: Space, least: float, remedy: str) -> Check:
    value = f"{_gib(space.free_bytes)} free of {_gib(space.total_bytes)}"
    if space.free_bytes >= least:
        return Check(name, host, "ok", value)
    return Check(name, host, "fail", value, f"needs {_gib(least)} free: {remedy}")


def _judge_open_files(host: str, limit: int) -> Check:
    if limit >= GOOD_OPEN_FILES:
        return Check("open files", host, "ok", str(limit))
    verdict: Verdict = "fail" if limit < MIN_OPEN_FILES else "warn"
    return Check(
        "open files", host, verdict, str(limit),
        f"`ulimit -n {GOOD_OPEN_FILES}` before `ray start` (systemd: LimitNOFILE)",
    )  # fmt: skip


def _judge_disk(host: str, folder: str, space: Space) -> Check:
    share = space.free_bytes / max(space.total_bytes, 1)
    value = f"{_gib(space.free_bytes)} free of {_gib(space.total_bytes)} ({share:.0%})"
    verdict: Verdict = "ok"
    if share < MIN_DISK_FREE_FRACTION or space.free_bytes < MIN_DISK_FREE:
        verdict = "fail"
    elif share < GOOD_DISK_FREE_FRACTION:
        verdict = "warn"
    remedy = (
        "" if verdict == "ok" else "make room; Ray stores nothing more on a disk that is 95 % full"
    )
    return Check(f"disk {folder}", host, verdict, value, remedy)


def _judge_interface(host: str, facts: NodeFacts, *, num_nodes: int) -> Check:
    name = facts.interface or "NAME"
    chosen = " ".join(f"{variable}={value}" for variable, value in facts.variables.items())
    told = f"{name}, {chosen or 'left to gloo and NCCL'}"
    remedy = f"start Ray there with GLOO_SOCKET_IFNAME={name} NCCL_SOCKET_IFNAME={name}"
    if num_nodes == 1:
        return Check("interface", host, "ok", told)
    if any(not _chooses(value, name) for value in facts.variables.values()):
        return Check("interface", host, "warn", f"{told}: not the cluster's network", remedy)
    is_left_to_gloo = facts.interface is None and "GLOO_SOCKET_IFNAME" not in facts.variables
    if is_left_to_gloo and facts.has_loopback_name:
        told = "none has the node's address, and gloo takes that of the host's own name: loopback"
        return Check("interface", host, "fail", told, remedy)
    return Check("interface", host, "ok", told)


def _chooses(value: str, interface: str) -> bool:
    """Whether a value of NCCL_SOCKET_IFNAME allows an interface: prefixes, `=` exact, `^` all others."""
    names = value.lstrip("^=").split(",")
    is_exact = value.lstrip("^").startswith("=")
    named = any(interface == name if is_exact else interface.startswith(name) for name in names)
    return named != value.startswith("^")


def _gib(num_bytes: float) -> str:
    return f"{num_bytes / GIB:.1f} GiB"
