"""Does a request for workers fit a cluster, and what does each worker get? Pure arithmetic.

Only whole nodes are counted, not what other runs hold at the moment: a busy cluster is waited for,
a cluster that can never hold the run is an error at once. The driver and Ray Train's controller
take no CPU.
"""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

from cluster.config import Backend, Placement, ResourceRequest
from cluster.errors import ConfigError, ResourceError

# Ray counts resources in steps of 1/10000 (FixedPoint in its scheduler).
_STEPS = 10_000
_UNLIMITED = 10**9
MIN_DEFAULT_CPUS = 0.25
"""Least share of a CPU that a worker without GPU gets unasked; smaller ones only as
resources.cpus_per_worker says."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeInfo:
    """What one live node of a cluster has in total."""

    host: str
    cpus: float
    gpus: float = 0.0
    memory_bytes: int = 0
    accelerator_type: str | None = None
    """Type of its GPUs, as Ray names it, for example `H100`."""
    node_id: str = ""
    """Ray's hexadecimal id."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerPlan:
    """The workers of a run, as Ray Train is asked for them."""

    num_workers: tuple[int, int]
    """Fewest and most; equal unless the run is elastic."""
    cpus_per_worker: float
    gpus_per_worker: float
    backend: Backend
    """nccl or gloo."""
    placement: Placement
    accelerator_type: str | None
    num_nodes: int
    """Nodes that can hold a worker."""

    @property
    def is_elastic(self) -> bool:
        """Whether the number of workers may change in mid-run."""
        return self.num_workers[0] < self.num_workers[1]

    def resources_per_worker(self) -> dict[str, float]:
        """In Ray's terms, without what is zero."""
        wanted = {"CPU": self.cpus_per_worker, "GPU": self.gpus_per_worker}
        return {name: value for name, value in wanted.items() if value}


def plan(request: ResourceRequest, nodes: Sequence[NodeInfo]) -> WorkerPlan:
    """Decide how many workers run and what each gets.

    Args:
        request: What the run asks for.
        nodes: The live nodes of the cluster.

    Raises:
        ResourceError: It can never fit; says what was asked for and what each node has.
        ConfigError: More than one GPU per worker, but not a whole number of them.
    """
    usable = [node for node in nodes if request.accelerator_type in (None, node.accelerator_type)]
    gpus = _gpus_per_worker(request, usable)
    room = _room(request, usable, gpus)
    fewest, most = _worker_range(request, room)
    if not 1 <= fewest <= sum(room):
        raise ResourceError(_does_not_fit(request, gpus, nodes, room))
    placement: Placement = request.placement
    if request.num_workers == "auto" and not gpus and placement == "PACK":
        placement = "SPREAD"  # one per node, also where one node could hold them all
    cpus = request.cpus_per_worker
    if cpus is None:
        cpus = _default_cpus(
            usable, room, min(most, sum(room)), packed=gpus > 0 and "PACK" in placement
        )
    backend: Backend = request.backend
    if backend == "auto":
        backend = "nccl" if gpus > 0.5 else "gloo"  # NCCL refuses two ranks on one GPU
    if backend == "nccl" and not gpus:
        raise ResourceError(
            "resources.backend is nccl, which needs GPUs, but the workers have none; use gloo or "
            f"auto. The cluster has:\n{_listing(nodes)}"
        )
    return WorkerPlan(
        num_workers=(fewest, most),
        cpus_per_worker=cpus,
        gpus_per_worker=gpus,
        backend=backend,
        placement=placement,
        accelerator_type=request.accelerator_type,
        num_nodes=sum(count > 0 for count in room),
    )


def share(request: ResourceRequest, nodes: Sequence[NodeInfo]) -> ResourceRequest:
    """The request of one of several runs: a GPU's worker leaves the CPUs of the other GPUs alone.

    (A run by itself gives its workers all CPUs of their nodes.)
    """
    usable = [node for node in nodes if request.accelerator_type in (None, node.accelerator_type)]
    gpus = _gpus_per_worker(request, usable)
    room = [(node, _room_on(node, None, gpus)) for node in usable]
    shares = [node.cpus / count for node, count in room if count]
    if request.cpus_per_worker is not None or not gpus or not shares:
        return request
    return dataclasses.replace(request, cpus_per_worker=math.floor(min(shares) * _STEPS) / _STEPS)


def concurrent_runs(plan: WorkerPlan, nodes: Sequence[NodeInfo]) -> int:
    """How many runs of this plan the cluster's nodes hold at a time; at least 1, as `plan` fits."""
    usable = [node for node in nodes if plan.accelerator_type in (None, node.accelerator_type)]
    room = [_room_on(node, plan.cpus_per_worker, plan.gpus_per_worker) for node in usable]
    workers = plan.num_workers[1]
    if plan.placement == "STRICT_PACK":
        return max(1, sum(count // workers for count in room))
    if plan.placement == "STRICT_SPREAD":
        most = sum(room) // workers
        fits = [k for k in range(1, most + 1) if sum(min(c, k) for c in room) >= k * workers]
        return max(fits, default=1)
    return max(1, sum(room) // workers)


def describe(plan: WorkerPlan) -> str:
    """Number, devices and backend of a run's workers, in one line."""
    fewest, most = plan.num_workers
    count = f"{fewest} to {most}" if plan.is_elastic else f"{most}"
    each = ", ".join(f"{amount:g} {name}" for name, amount in plan.resources_per_worker().items())
    return f"{count} worker(s) with {each} each on {plan.num_nodes} node(s), {plan.backend}"


def _gpus_per_worker(request: ResourceRequest, nodes: Sequence[NodeInfo]) -> float:
    gpus = request.gpus_per_worker
    if gpus is None:
        return 1.0 if any(node.gpus >= 1 for node in nodes) else 0.0
    if gpus > 1 and gpus != int(gpus):
        raise ConfigError(f"resources.gpus_per_worker above 1 must be a whole number, got {gpus}")
    return gpus


def _room(request: ResourceRequest, nodes: Sequence[NodeInfo], gpus: float) -> list[int]:
    """Workers that each node can hold."""
    room = [_room_on(node, request.cpus_per_worker, gpus) for node in nodes]
    one_each = request.num_workers == "auto" and not gpus
    if one_each or request.placement == "STRICT_SPREAD":
        room = [min(count, 1) for count in room]
    if request.placement == "STRICT_PACK" and room:
        best = max(range(len(room)), key=lambda i: (room[i], nodes[i].cpus))
        room = [count if i == best else 0 for i, count in enumerate(room)]
    return room


def _room_on(node: NodeInfo, cpus: float | None, gpus: float) -> int:
    room = _UNLIMITED
    if gpus:
        # A fraction comes from one GPU: 0.6 fits once on each.
        room = int(node.gpus / gpus) if gpus >= 1 else int(node.gpus) * (_STEPS // _steps(gpus))
    if cpus:
        room = min(room, _steps(node.cpus) // _steps(cpus))
    elif not gpus:
        room = int(node.cpus / MIN_DEFAULT_CPUS)
    return room


def _worker_range(request: ResourceRequest, room: list[int]) -> tuple[int, int]:
    return (sum(room), sum(room)) if request.num_workers == "auto" else request.worker_range()


def _default_cpus(
    nodes: Sequence[NodeInfo], room: list[int], num_workers: int, *, packed: bool
) -> float:
    """Node CPUs / workers on the node, for the node where that is least."""
    if packed:  # Ray may fill any of the nodes first
        counts = [min(count, num_workers) for count in room]
    else:  # each worker goes where it gets the most
        counts = [0] * len(nodes)
        for _ in range(num_workers):
            free = [i for i in range(len(nodes)) if counts[i] < room[i]]
            counts[max(free, key=lambda i: nodes[i].cpus / (counts[i] + 1))] += 1
    shares = [node.cpus / count for node, count in zip(nodes, counts, strict=True) if count]
    return math.floor(min(shares) * _STEPS) / _STEPS


def _steps(amount: float) -> int:
    return round(amount * _STEPS)


def _does_not_fit(
    request: ResourceRequest, gpus: float, nodes: Sequence[NodeInfo], room: list[int]
) -> str:
    each = [f"{gpus:g} GPU"] if gpus else []
    if request.cpus_per_worker is not None:
        each.append(f"{request.cpus_per_worker:g} CPU")
    parts = [
        f"resources.num_workers is {request.num_workers}",
        f", with {' and '.join(each)} each" if each else "",
        f", on {request.accelerator_type}" if request.accelerator_type else "",
        f", placed {request.placement}" if request.placement.startswith("STRICT") else "",
    ]
    return (
        f"{''.join(parts)}; the cluster has room for {sum(room)}. Ask for fewer or smaller workers, "
        f"or add nodes. The cluster has:\n{_listing(nodes)}"
    )


def _listing(nodes: Sequence[NodeInfo]) -> str:
    lines = [
        f"  {node.host}: {node.cpus:g} CPUs, {node.gpus:g} GPUs"
        + (f" ({node.accelerator_type})" if node.accelerator_type else "")
        for node in nodes
    ]
    return "\n".join(lines) or "  no live node"
