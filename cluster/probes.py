"""What `doctor` runs on every node: its facts, its versions, its speed. The only torch in `cluster/`.

Probes measure and do not judge (`cluster/verdicts.py` does). Nothing here imports a job.
"""

import hashlib
import importlib.util
import json
import os
import platform
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import timedelta
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import ray.util

from cluster.gpus import Gpu, probe_gpus
from cluster.node_facts import NodeFacts, probe_facts

PACKAGES = ("ray", "torch", "torchvision", "mlflow", "pyarrow")
OWN_PACKAGES = ("cluster", "trainjobs", "tuning")
NONE = "none"
MATMUL_SIZE, MATMUL_WARMUP, MATMUL_REPEATS = 8192, 3, 20
"""A product of that size takes milliseconds on a GPU: enough for its clocks to settle in 20 of them."""
COLLECTIVE_TIMEOUT_S = 20.0
REDUCE_REPEATS = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeReport:
    """All that one node says of itself."""

    facts: NodeFacts
    versions: dict[str, str]
    """What has to be alike on all nodes; "none" for what is not there."""
    gpus: tuple[Gpu, ...]
    gpu_problem: str
    """What went wrong with looking at them; "" if nothing."""
    matmul_tflops: tuple[float, ...]
    """Of a bfloat16 product on each GPU; empty if they are in use, or there are none."""


def probe_node(folders: tuple[str, ...]) -> NodeReport:
    """Look at the node that this runs on.

    Args:
        folders: whose file systems are looked at; `~` is the node's own home.
    """
    gpus, problem = probe_gpus()
    speeds: tuple[float, ...] = ()
    if gpus and all(gpu.is_idle for gpu in gpus):
        speeds, problem = _matmul_elsewhere()
    return NodeReport(
        facts=probe_facts(ray.util.get_node_ip_address(), folders),  # type: ignore[no-untyped-call]  # Ray
        versions=versions(gpus[0].driver if gpus else NONE),
        gpus=gpus,
        gpu_problem=problem,
        matmul_tflops=speeds,
    )


def versions(driver: str) -> dict[str, str]:
    """What has to be alike: Python, packages, CUDA libraries, the GPUs' driver and our own sources."""
    import torch  # noqa: PLC0415  seconds, and only nodes need it

    cuda: Any = torch.cuda
    nccl = cuda.nccl.version() if cuda.is_available() else ()
    cudnn: Any = torch.backends.cudnn
    return {
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
        "cuda": str(torch.version.cuda or NONE),
        "cudnn": str(cudnn.version() or NONE),
        "nccl": ".".join(map(str, nccl)) or NONE,
        "driver": driver,
        "trainjobs": f"{_version('trainjobs')} ({source_fingerprint()})",
    }


def source_fingerprint() -> str:
    """Short hash over the Python files of our packages as this process would import them.

    A commit would not do: a submitted job's copy has none, and a checkout may hold changes.
    """
    digest = hashlib.sha256()
    for package in OWN_PACKAGES:
        spec = importlib.util.find_spec(package)
        for root in (spec.submodule_search_locations or []) if spec else []:
            for file in sorted(Path(root).rglob("*.py")):
                digest.update(file.relative_to(root).as_posix().encode() + b"\0")
                digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def matmul_tflops() -> list[float]:
    """Speed of a bfloat16 product on each GPU that torch sees, one after the other."""
    import torch  # noqa: PLC0415  as above

    found = []
    for index in range(torch.cuda.device_count()):
        with torch.cuda.device(index):
            factor = torch.randn(MATMUL_SIZE, MATMUL_SIZE, dtype=torch.bfloat16, device="cuda")
            event: Any = torch.cuda.Event
            start, end = event(enable_timing=True), event(enable_timing=True)
            for _ in range(MATMUL_WARMUP):
                factor @ factor
            start.record()
            for _ in range(MATMUL_REPEATS):
                factor @ factor
            end.record()
            end.synchronize()
        seconds = start.elapsed_time(end) / 1000 / MATMUL_REPEATS
        found.append(2 * MATMUL_SIZE**3 / seconds / 1e12)
    return found


def time_all_reduce(
    rank: int, world_size: int, address: str, num_bytes: int, *, backend: str
) -> float:
    """Take part in all-reduces of float32 numbers with the other nodes.

    Args:
        rank: of this node.
        world_size: nodes that take part.
        address: host:port where rank 0 listens.
        num_bytes: size of what is reduced.
        backend: gloo or nccl.

    Returns:
        Seconds of one, the quickest of a few, after one that warms up.

    Raises:
        RuntimeError: they did not find each other in time, or one broke off.
    """
    import torch  # noqa: PLC0415  as above
    import torch.distributed as dist  # noqa: PLC0415, TID251  jobs are not imported here

    dist.init_process_group(
        backend, init_method=f"tcp://{address}", rank=rank, world_size=world_size,
        timeout=timedelta(seconds=COLLECTIVE_TIMEOUT_S),
    )  # fmt: skip
    try:
        numbers = torch.zeros(num_bytes // 4, device="cuda" if backend == "nccl" else "cpu")
        seconds = []
        for _ in range(REDUCE_REPEATS + 1):
            dist.barrier()
            started = time.perf_counter()
            dist.all_reduce(numbers)
            numbers[0].item()  # waits for a GPU
            seconds.append(time.perf_counter() - started)
    finally:
        dist.destroy_process_group()
    return min(seconds[1:])


def _matmul_elsewhere() -> tuple[tuple[float, ...], str]:
    """In a process of its own, which sees all GPUs and gives their memory back."""
    environ = {name: v for name, v in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    try:
        done = subprocess.run(
            [sys.executable, "-m", "cluster.probes"],
            env=environ, capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip
        return tuple(json.loads(done.stdout)), ""
    except subprocess.CalledProcessError as error:
        return (), f"a matrix product failed: {error.stderr.strip().rpartition(chr(10))[2]}"
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        return (), f"a matrix product failed: {error}"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return NONE


if __name__ == "__main__":
    print(json.dumps(matmul_tflops()))  # noqa: T201  read by the process that started this one
