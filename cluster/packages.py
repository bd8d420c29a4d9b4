"""The packages that the nodes of a cluster need. What one lacks is told before a run starts.

Looked for, not imported: that takes milliseconds. Stdlib only: it says what all else may lack.
"""

import importlib.util
import socket
import sys
from collections.abc import Callable, Mapping

from cluster.errors import ResourceError

NEEDED = {
    "torch": "torch",
    "torchvision": "torchvision",
    "ray": "ray[default,train,tune]",
    "mlflow": "mlflow",
    "pyarrow": "pyarrow",
    "pydantic": "pydantic",
    "yaml": "pyyaml",
    "tyro": "tyro",
    "safetensors": "safetensors",
    "cv2": "opencv-python-headless",
    "faster_coco_eval": "faster-coco-eval",
    "matplotlib": "matplotlib",
    "rich": "rich",
    "optuna": "optuna",
    "tensorboardX": "tensorboardX",
}
"""Module -> what brings it, as pyproject.toml names it. A command and a trial need them all."""
NEEDED_BY_RANKS = {
    module: package
    for module, package in NEEDED.items()
    if module not in ("mlflow", "tyro", "rich", "optuna")
}

# Calls a function with arguments on every node; gives host -> what it returned.
RunEverywhere = Callable[..., Mapping[str, str]]
REMEDY = "install trainjobs with its dependencies in the Python that runs Ray there, in the same versions"


def check_packages_here() -> None:
    """Raise `ResourceError` if this process lacks a package."""
    if problem := lacking(NEEDED):
        raise ResourceError(f"{socket.gethostname()}: {problem}; {REMEDY}")


def check_packages(run_everywhere: RunEverywhere, needed: Mapping[str, str]) -> None:
    """Check, before a run starts, that every node has the packages.

    Raises:
        ResourceError: Names the hosts and what they lack.
    """
    found = run_everywhere(lacking, needed)
    problems = [f"  {host}: {problem}" for host, problem in found.items() if problem]
    if problems:
        raise ResourceError(
            f"nodes lack packages; {REMEDY}, and start Ray again:\n" + "\n".join(problems)
        )


def lacking(needed: Mapping[str, str]) -> str:
    """What the Python of this process lacks; "" if nothing."""
    missing = [package for module, package in needed.items() if not _is_there(module)]
    return f"{sys.executable} lacks {', '.join(missing)}" if missing else ""


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:
        return False
