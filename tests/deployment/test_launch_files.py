"""The launch files name what Kubernetes, Ray and our own commands know, and keep their secrets.

Nothing is started here; test_sbatch_script.py and tests/cluster run the rest.
"""

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import ray
import yaml
from ray.autoscaler._private.kuberay.autoscaling_config import (
    _derive_autoscaling_config_from_ray_cr,
)
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.dashboard.modules.job.cli import submit

from cluster.resources import NodeInfo, plan
from tests.launch_files import (
    CLOUD_FILES,
    FILES,
    KUBERNETES_FILES,
    SLURM_SCRIPT,
    UNITS,
    YAML_FILES,
    cluster_spec,
    commands,
    documents,
    groups,
    pods,
    ray_documents,
    ray_start,
    start_commands,
    unit_command,
)
from trainjobs import yolo
from trainjobs.command_line import parse as parse_yolo
from tuning import sweep
from tuning.command_line import parse as parse_sweep

KUBERNETES = "1.37"
GOLDEN = Path(__file__).parents[1] / "golden"
DOCKERFILE = Path(__file__).parents[2] / "docker" / "Dockerfile"
RAY_DOCUMENTS = ray_documents()
UNIT_VALUES = {"NODE_IP": "10.0.0.11", "HEAD_ADDRESS": "10.0.0.10:6379", "NODE_RESOURCES": "{}"}

each_ray_document = pytest.mark.parametrize("document", RAY_DOCUMENTS, ids=lambda d: d["kind"])
each_file = pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
each_cloud = pytest.mark.parametrize("cloud", CLOUD_FILES, ids=lambda file: file.name)
each_unit = pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)


def test_the_files_are_found() -> None:
    assert [file.name for file in YAML_FILES] == [
        "aws.yaml", "gcp.yaml", "networkpolicy.yaml", "raycluster.yaml", "rayjob.yaml",
    ]  # fmt: skip
    assert [document["kind"] for document in RAY_DOCUMENTS] == ["RayCluster", "RayJob"]
    assert [unit.name for unit in UNITS] == ["ray-head.service", "ray-worker.service"]


@each_ray_document
def test_kuberay_knows_every_field(document: dict[str, Any]) -> None:
    jsonschema.validate(document, yaml.safe_load((GOLDEN / "kuberay_1_6.yaml").read_text()))


@pytest.mark.parametrize("file", KUBERNETES_FILES, ids=lambda file: file.name)
def test_kubernetes_knows_every_field(file: Path) -> None:
    own = [d for d in documents(file) if not d["apiVersion"].startswith("ray.io/")]
    for resource in own + [as_pod(spec) for d in documents(file) for spec in pods_of(d)]:
        kubernetes_validate.validate(resource, KUBERNETES, strict=True)


def test_a_misspelled_field_is_found_at_every_depth() -> None:
    spec = pods(RAY_DOCUMENTS[0])[0]
    spec["containers"][0]["volumeMounts"][0]["mountPth"] = "/gcs"
    with pytest.raises(kubernetes_validate.ValidationError, match="mountPth"):
        kubernetes_validate.validate(as_pod(spec), KUBERNETES, strict=True)
    document = ray_documents()[1]
    document["spec"]["rayClusterSpec"]["autoscalerOptions"]["idleTimeout"] = 60
    with pytest.raises(jsonschema.ValidationError, match="idleTimeout"):
        test_kuberay_knows_every_field(document)


@each_ray_document
def test_the_cluster_runs_the_version_of_ray_that_we_test_with(document: dict[str, Any]) -> None:
    assert cluster_spec(document)["rayVersion"] == ray.__version__


@each_ray_document
def test_ray_asks_for_a_token_from_a_secret(document: dict[str, Any]) -> None:
    spec = cluster_spec(document)
    assert spec["authOptions"] == {"mode": "token", "secretName": "trainjobs-token"}
    for container in containers(document):
        assert {"name": "RAY_AUTH_MODE", "value": "token"} in container["env"], container["name"]


@each_ray_document
def test_credentials_come_from_secrets_and_stand_in_no_runtime_environment(
    document: dict[str, Any],
) -> None:
    variables = [variable for container in containers(document) for variable in container["env"]]
    secret = [v for v in variables if re.search("KEY|TOKEN|PASSWORD|URI|URL", v["name"])]
    assert {v["name"] for v in secret} == {
        "MLFLOW_TRACKING_URI", "AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY",
    }  # fmt: skip
    assert all(set(v["valueFrom"]) == {"secretKeyRef"} for v in secret)
    assert {v["valueFrom"]["secretKeyRef"]["name"] for v in secret} == {"trainjobs-credentials"}
    assert "runtimeEnvYAML" not in document["spec"]


@each_ray_document
def test_pods_run_without_root_and_without_privileges(document: dict[str, Any]) -> None:
    contexts = [container["securityContext"] for container in containers(document)]
    contexts.append(cluster_spec(document)["autoscalerOptions"]["securityContext"])
    for context in contexts:
        assert context == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    for pod in pods(document):
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert groups(document)[0]["serviceType"] == "ClusterIP"


@each_ray_document
def test_ray_has_shared_memory_and_every_mount_a_volume(document: dict[str, Any]) -> None:
    for group in groups(document):
        pod = group["template"]["spec"]
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        [container] = pod["containers"]
        mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in container["volumeMounts"]}
        assert mounts["/dev/shm"]["emptyDir"]["medium"] == "Memory"
        assert pod["restartPolicy"] == "Never"  # autoscaler v2


@each_ray_document
def test_the_parameters_of_ray_start_are_ones(document: dict[str, Any]) -> None:
    for group in groups(document):
        ray_start([f"--{name}={value}" for name, value in group["rayStartParams"].items()])


def test_the_state_of_a_lasting_cluster_is_on_a_claimed_volume() -> None:
    [claim, document] = documents(next(f for f in KUBERNETES_FILES if f.stem == "raycluster"))
    pod = groups(document)[0]["template"]["spec"]
    [container] = pod["containers"]
    variables = {variable["name"]: variable["value"] for variable in container["env"]}
    assert variables["RAY_gcs_storage"] == "rocksdb"
    assert variables["RAY_gcs_storage_path"].startswith("/gcs/")
    assert {"name": "gcs", "mountPath": "/gcs"} in container["volumeMounts"]
    claimed = {"name": "gcs", "persistentVolumeClaim": {"claimName": claim["metadata"]["name"]}}
    assert claimed in pod["volumes"]


@each_ray_document
def test_rays_autoscaler_sees_the_nodes_that_we_mean(document: dict[str, Any]) -> None:
    resources = {name: kind["resources"] for name, kind in node_types(document).items()}
    assert resources["headgroup"]["CPU"] == 0  # nothing runs there
    assert resources["gpu"]["GPU"] == 1
    assert [name for name, has in resources.items() if "driver" in has] == ["cpu"]


def test_a_job_finds_its_workers_a_place_for_its_driver_and_its_name() -> None:
    job = RAY_DOCUMENTS[1]
    run = parse_yolo(shlex.split(job["spec"]["entrypoint"])[3:], "yolo", yolo.DEMO).run
    kinds = node_types(job)
    nodes = [
        NodeInfo(host=name, cpus=kind["resources"]["CPU"], gpus=kind["resources"].get("GPU", 0))
        for name, kind in kinds.items()
        for _ in range(kind["min_workers"])
    ]
    made = plan(run.resources, nodes)
    assert (made.num_workers, made.backend) == ((2, 2), "nccl")
    assert run.run_name == job["metadata"]["name"]
    assert set(json.loads(job["spec"]["entrypointResources"])) <= set(kinds["cpu"]["resources"])


def test_ray_is_reached_from_its_own_namespace_only_but_for_the_operator() -> None:
    [policy] = documents(next(f for f in KUBERNETES_FILES if f.stem == "networkpolicy"))
    own, operator = policy["spec"]["ingress"]
    assert policy["spec"]["podSelector"]["matchLabels"] == {"ray.io/is-ray-node": "yes"}
    assert own == {"from": [{"podSelector": {}}]}
    assert operator["ports"] == [{"protocol": "TCP", "port": 8265}]


@each_cloud
def test_rays_launcher_takes_the_file(cloud: Path) -> None:
    [config] = documents(cloud)
    validate_config(prepare_config(config))


@each_cloud
def test_only_workers_may_be_taken_away(cloud: Path) -> None:
    [config] = documents(cloud)
    spot = {
        name: "spot" in json.dumps(kind["node_config"]).lower()
        for name, kind in config["available_node_types"].items()
    }
    assert spot == {"head": False, "gpu": True}


@each_cloud
def test_every_node_of_a_cloud_asks_for_the_token_that_it_is_given(cloud: Path) -> None:
    [config] = documents(cloud)
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    for command in start_commands(cloud):
        before, _, arguments = command.partition("ray start ")
        assert "RAY_AUTH_MODE=token" in before.split()
        ray_start(shlex.split(arguments.replace("$RAY_HEAD_IP", "10.0.0.10")))
    assert len(start_commands(cloud)) == 2


@each_unit
def test_rays_command_line_takes_that_of_a_unit(unit: Path) -> None:
    command = re.sub(r"\$\{(\w+)\}", lambda match: UNIT_VALUES[match[1]], unit_command(unit))
    program, subcommand, *arguments = shlex.split(command)
    assert (program, subcommand) == ("/opt/trainjobs/bin/ray", "start")
    assert ray_start(arguments)["block"]


@each_unit
def test_a_unit_starts_again_whatever_ended_it(unit: Path) -> None:
    text = unit.read_text()
    for line in (
        "Restart=always", "StartLimitIntervalSec=0", "EnvironmentFile=/etc/trainjobs/ray.env",
        "LimitNOFILE=1048576",
    ):  # fmt: skip
        assert line in text.splitlines()
    assert "RAY_AUTH_MODE=token" in text


@each_unit
def test_systemd_takes_a_unit(unit: Path, tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze (systemd)")
    copy = tmp_path / unit.name
    # It asks whether the program is there.
    copy.write_text(unit.read_text().replace("/opt/trainjobs/bin/ray", "/bin/true"))
    done = run("systemd-analyze", "verify", "--man=no", copy)
    assert (done.returncode, done.stdout) == (0, "")


def test_bash_and_shellcheck_take_the_batch_script() -> None:
    for command in (["bash", "-n"], [Path(sys.executable).parent / "shellcheck"]):
        done = run(*command, SLURM_SCRIPT)
        assert (done.returncode, done.stdout) == (0, "")


@each_file
def test_our_own_commands_take_their_options(file: Path, tmp_path: Path) -> None:
    for arguments in commands(file, "python -m trainjobs.yolo"):
        parse_yolo([word for word in arguments if word != "..."], "yolo", yolo.DEMO)
    for arguments in commands(file, "python -m tuning.sweep"):
        words = [word for word in arguments if word != "..."]
        parse_sweep([*words, "--storage", str(tmp_path)], sweep.DEMO, "new-name")


@each_file
def test_ray_takes_the_way_that_jobs_are_submitted(file: Path) -> None:
    for arguments in commands(file, "ray job submit"):
        submit.make_context("ray job submit", arguments)


def test_there_are_commands_of_ours_in_the_files() -> None:
    names = {file.name for file in FILES if commands(file, "python -m trainjobs.yolo")}
    assert names == {"raycluster.yaml", "rayjob.yaml", "train.sbatch", "README.md"}


@each_file
def test_ray_knows_every_variable_of_its_name(file: Path) -> None:
    assert set(re.findall(r"\bRAY_\w+", file.read_text())) <= variables_of_ray()


@each_file
def test_no_file_names_a_registry_or_a_place_of_one_machine(file: Path) -> None:
    text = file.read_text()
    images = re.findall(r"^\s*(?:- )?(?:\w+_)?image: (.*)$", text, flags=re.MULTILINE)
    assert set(images) <= built_images()
    assert not re.search(r"/(root|work|home/\w+)/", text)
    assert text.isascii()


def node_types(document: dict[str, Any]) -> dict[str, Any]:
    """What Ray's autoscaler makes of a cluster's groups."""
    resource = {
        "metadata": {**document["metadata"], "namespace": "any"},
        "spec": cluster_spec(document),
    }
    config = _derive_autoscaling_config_from_ray_cr(resource)
    found: dict[str, Any] = config["available_node_types"]
    return found


def built_images() -> set[str]:
    """As the commands at the top of docker/Dockerfile name them."""
    return set(re.findall(r"^# .*--tag (\S+) ", DOCKERFILE.read_text(), flags=re.MULTILINE))


def containers(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for pod in pods(document):
        yield from pod["containers"]


def pods_of(document: dict[str, Any]) -> list[dict[str, Any]]:
    """The pods of a resource, the autoscaler's container as one, too."""
    if not document["apiVersion"].startswith("ray.io/"):
        return []
    options = cluster_spec(document)["autoscalerOptions"]
    fields = {key: options[key] for key in ("resources", "securityContext")}
    return [*pods(document), {"containers": [{"name": "autoscaler", "image": "any", **fields}]}]


def as_pod(spec: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "any"}, "spec": spec}


@cache
def variables_of_ray() -> frozenset[str]:
    """Names that Ray's Python code and its programs have in them."""
    folder = Path(ray.__file__).parent
    programs = [folder / "_raylet.so", folder / "core/src/ray/raylet/raylet",
                folder / "core/src/ray/gcs/gcs_server"]  # fmt: skip
    found: set[bytes] = set()
    for file in [*programs, *folder.rglob("*.py")]:
        found.update(re.findall(rb"RAY_\w+", file.read_bytes()))
    return frozenset(name.decode() for name in found)


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
