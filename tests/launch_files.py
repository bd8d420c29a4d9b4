"""What the launch files in `cluster/` say: their documents, their pods, the commands in them."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from ray._private.parameter import RayParams
from ray.scripts.scripts import start

import cluster

FOLDER = Path(cluster.__file__).parent
YAML_FILES = sorted(FOLDER.glob("*/*.yaml"))
KUBERNETES_FILES = sorted(FOLDER.glob("kuberay/*.yaml"))
CLOUD_FILES = sorted(FOLDER.glob("clouds/*.yaml"))
UNITS = sorted(FOLDER.glob("bare_metal/*.service"))
SLURM_SCRIPT = FOLDER / "slurm" / "train.sbatch"
FILES = [*YAML_FILES, *UNITS, SLURM_SCRIPT, FOLDER / "bare_metal" / "README.md"]


def documents(file: Path) -> list[dict[str, Any]]:
    """The YAML documents of a file."""
    return list(yaml.safe_load_all(file.read_text()))


def ray_documents() -> list[dict[str, Any]]:
    """KubeRay's resources, of all files."""
    found = [document for file in KUBERNETES_FILES for document in documents(file)]
    return [document for document in found if document["apiVersion"].startswith("ray.io/")]


def cluster_spec(document: dict[str, Any]) -> dict[str, Any]:
    """The RayClusterSpec of a RayCluster or RayJob."""
    spec: dict[str, Any] = document["spec"]
    return spec["rayClusterSpec"] if document["kind"] == "RayJob" else spec


def groups(document: dict[str, Any]) -> list[dict[str, Any]]:
    """The group specs of a RayCluster or RayJob, the head's first."""
    spec = cluster_spec(document)
    return [spec["headGroupSpec"], *spec["workerGroupSpecs"]]


def pods(document: dict[str, Any]) -> list[dict[str, Any]]:
    """The pod specs of a RayCluster or RayJob, with that of a job's submitter."""
    templates = [group["template"] for group in groups(document)]
    if document["kind"] == "RayJob":
        templates.append(document["spec"]["submitterPodTemplate"])
    return [template["spec"] for template in templates]


def commands(file: Path, start: str) -> list[list[str]]:
    """The arguments of each command in a file, comments included, that begins with some words."""
    found = [line.partition(f"{start} ")[2] for line in _lines(file) if f"{start} " in line]
    return [shlex.split(line) for line in found]


def start_commands(cloud: Path) -> list[str]:
    """The shell commands of a Ray cluster launcher file that start Ray."""
    [config] = documents(cloud)
    lines = config["head_start_ray_commands"] + config["worker_start_ray_commands"]
    return [line for line in lines if "ray start" in line]


def ray_start(arguments: list[str]) -> dict[str, Any]:
    """`ray start`, read and not run: its parameters.

    Raises:
        click.UsageError: It has no such option, or a value is of another type.
        ValueError: Two parts of a node would have one port.
    """
    params: dict[str, Any] = start.make_context("ray start", arguments).params
    RayParams(
        gcs_server_port=params["port"] or 6379,
        metrics_agent_port=params["dashboard_agent_grpc_port"],
        ray_client_server_port=params["ray_client_server_port"] or 10001,
        **{
            name: params[name]
            for name in (
                "min_worker_port", "max_worker_port", "object_manager_port", "node_manager_port",
                "dashboard_port", "dashboard_agent_listen_port", "runtime_env_agent_port",
                "metrics_export_port",
            )
        },
    ).update_pre_selected_port()  # fmt: skip
    return params


def unit_command(unit: Path) -> str:
    """What a systemd unit runs."""
    [line] = [line for line in _joined(unit.read_text()) if line.startswith("ExecStart=")]
    return line.removeprefix("ExecStart=")


def _lines(file: Path) -> Iterator[str]:
    text = file.read_text()
    if file.suffix == ".yaml":
        yield from (s for document in documents(file) for s in _strings(document))
        text = "\n".join(line for line in text.splitlines() if line.startswith("#"))
    yield from _joined(re.sub(r"^# ?", "", text, flags=re.MULTILINE))


def _joined(text: str) -> list[str]:
    """Lines, with those that a backslash continues made one."""
    return re.sub(r"\\\n\s*", "", text).splitlines()


def _strings(node: object) -> Iterator[str]:
    if isinstance(node, str):
        yield node
    elif isinstance(node, dict | list):
        for child in node.values() if isinstance(node, dict) else node:
            yield from _strings(child)
