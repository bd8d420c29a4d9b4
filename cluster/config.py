"""What a run asks of a cluster. Plain data, checked here and nowhere else."""

import math
from dataclasses import dataclass
from typing import Literal

from cluster.errors import ConfigError

Backend = Literal["auto", "nccl", "gloo"]
Placement = Literal["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ResourceRequest:
    """Workers, what each gets, where they are placed and where the run is kept."""

    num_workers: int | str = "auto"
    """Ray Train workers (ranks): a number, MIN:MAX for an elastic run, or `auto`: one per GPU;
    without GPUs one per node."""
    cpus_per_worker: float | None = None
    """CPUs per worker, fractions allowed. Default: node CPUs / workers on the node."""
    gpus_per_worker: float | None = None
    """GPUs per worker. Default: 1 where the cluster has GPUs, else 0."""
    backend: Backend = "auto"
    """Collective library. `auto`: nccl when workers have GPUs, else gloo."""
    placement: Placement = "PACK"
    """Placement of workers on nodes, in Ray's terms: PACK fills a node first, SPREAD distributes."""
    accelerator_type: str | None = None
    """Accelerator that workers need, as Ray names it, for example `H100`. Default: any."""
    storage: str | None = None
    """Folder or URI that holds the runs; all nodes must reach it. Default: ./runs; inside a
    submitted job $TRAINJOBS_STORAGE, else ~/runs."""
    max_failures: int = 3
    """Restarts after a worker or node is lost before the run fails; -1 is without limit."""
    collective_timeout_s: float = 600.0
    """Seconds a rank may wait for the others before the group is restarted."""

    def __post_init__(self) -> None:
        if self.num_workers != "auto":
            self.worker_range()
        for name in ("cpus_per_worker", "gpus_per_worker"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise ConfigError(f"resources.{name} must be a number >= 0, got {value}")
        if self.cpus_per_worker == 0 and not self.gpus_per_worker:
            raise ConfigError(
                "resources.cpus_per_worker is 0 and there is no GPU: give one of both"
            )
        if self.max_failures < -1:
            raise ConfigError(f"resources.max_failures must be >= -1, got {self.max_failures}")
        if not self.collective_timeout_s > 0:
            raise ConfigError(
                f"resources.collective_timeout_s must be > 0, got {self.collective_timeout_s}"
            )

    def worker_range(self) -> tuple[int, int]:
        """Fewest and most workers of a numeric request.

        Raises:
            ConfigError: `num_workers` is neither N nor MIN:MAX with 1 <= MIN <= MAX.
        """
        fewest, _, most = str(self.num_workers).partition(":")
        try:
            bounds = int(fewest), int(most or fewest)
        except ValueError:
            bounds = 0, 0
        if not 1 <= bounds[0] <= bounds[1]:
            raise ConfigError(
                f"resources.num_workers must be auto, a number >= 1 or MIN:MAX, "
                f"got {self.num_workers!r}"
            )
        return bounds


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusterConfig:
    """How to reach a cluster. Built by the entry modules from the environment."""

    address: str | None = None
    """Address of a running cluster (RAY_ADDRESS). None: attach to one on this machine if there
    is one, else start an embedded one and stop it after the run."""
    start_timeout_s: float = 60.0
    """Seconds to wait for the cluster to answer."""
