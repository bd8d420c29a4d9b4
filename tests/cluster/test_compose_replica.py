"""docker/compose.yaml without an engine: each service's own command on a host of its own.

A service is started as it would be: the same arguments, environment, order and health checks, its
secrets and volumes at the same paths, its name in place of an address. What is not seen here is the
packaging: the images, their users (but PostgreSQL's) and the split into two networks.
"""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.hosts import Host, hosts
from tests.cluster.listeners import listeners, missing, rows, unknown
from tests.cluster.ray_on_hosts import BIN, REPOSITORY, Job, wait_until
from tests.compose import COMPOSE, DOCKERFILE, image_environment, in_order, read_compose

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(1200)]

RUN, EPOCHS = "replica", 2
SMALL = (
    "--epochs", str(EPOCHS), "--image-size", "64", "--data.generated-images", "64",
    "--batch-size-per-worker", "8", "--num-workers", "2", "--run-name", RUN,
)  # fmt: skip
HEALTHY_TIMEOUT_S, JOB_TIMEOUT_S = 180.0, 480.0
SECRETS = Path("/run/secrets")
# As the image's entry point does before it starts the command.
PREPARE_POSTGRES = """
set -e
initdb --username="$POSTGRES_USER" --pwfile="$POSTGRES_PASSWORD_FILE" \
    --auth-local=trust --auth-host=scram-sha-256
echo 'host all all all scram-sha-256' >> "$PGDATA/pg_hba.conf"
echo "CREATE DATABASE $POSTGRES_DB" | postgres --single -j template1
"""
LIST_STORE = """
import boto3, json
store = boto3.client("s3")
pages = {bucket: store.get_paginator("list_objects_v2").paginate(Bucket=bucket)
         for bucket in ("runs", "mlflow")}
print(json.dumps({bucket: {item["Key"]: item["Size"] for page in found for item in page["Contents"]}
                  for bucket, found in pages.items()}))
"""
READ_OBJECT = """
import boto3, sys
print(boto3.client("s3").get_object(Bucket=sys.argv[1], Key=sys.argv[2])["Body"].read().decode())
"""
ASK_WITHOUT_TOKEN = """
import sys, urllib.error, urllib.request
try:
    print(urllib.request.urlopen(sys.argv[1], timeout=20).status)
except urllib.error.HTTPError as error:
    print(error.code)
"""


@dataclass
class Stack:
    """The services, each on its hosts."""

    services: dict[str, Any]
    folder: Path
    path: str
    """PATH of every host."""
    hosts: dict[str, list[Host]] = field(default_factory=dict)
    started: dict[str, subprocess.Popen[str]] = field(default_factory=dict)

    def start(self, name: str) -> None:
        """Start a service on its hosts, and wait until its health check passes there."""
        service = self.services[name]
        for host in self.hosts[name]:
            target = service.get("build", {}).get("target")
            host.variables = {
                "PATH": self.path,
                **(image_environment(target) if target else {}),
                **{key: str(value) for key, value in service.get("environment", {}).items()},
            }
            mount(host, self._mounts(name))
            if name == "postgres":
                host.run(["install", "--directory", "--owner=postgres", "/run/postgresql"])
                self.run(name, ["sh", "-c", PREPARE_POSTGRES])
            command = [*self._as_user(name), *service["command"]]
            log = self.folder / f"{name}-{host.name}.log"
            self.started[host.name] = host.popen(command, log=log, cwd=Path("/"))
        wait_until(lambda: self._is_healthy(name), HEALTHY_TIMEOUT_S, self.logs)

    def run(self, name: str, command: list[str]) -> str:
        """Run a command beside a service, as its user; what it printed."""
        done = self.hosts[name][0].run([*self._as_user(name), *command], cwd=Path("/"))
        assert done.returncode == 0, f"{command}: {done.stdout}"
        return done.stdout

    def sql(self, query: str) -> list[str]:
        """Rows of a query, columns apart by `|`."""
        options = ["--username=mlflow", "--dbname=mlflow", "--tuples-only", "--no-align"]
        return self.run("postgres", ["psql", *options, f"--command={query}"]).split()

    def logs(self) -> str:
        """What the services have printed."""
        return "\n".join(f"--- {log.stem}\n{log.read_text()}" for log in self.folder.glob("*.log"))

    def _is_healthy(self, name: str) -> bool:
        _, *check = self.services[name]["healthcheck"]["test"]
        for host in self.hosts[name]:
            assert self.started[host.name].poll() is None, f"{name} has ended: {self.logs()}"
            if host.run([*self._as_user(name), *check], cwd=Path("/")).returncode:
                return False
        return True

    def _as_user(self, name: str) -> list[str]:
        user = self.services[name].get("user")
        return ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"] if user else []

    def _mounts(self, name: str) -> dict[Path, Path]:
        service, mounts = self.services[name], {}
        for secret in service.get("secrets", []):
            mounts[SECRETS / secret] = self.folder / "secrets" / secret
        for volume in service.get("volumes", []):
            source, _, target = volume.partition(":")
            mounts[Path(target)] = self.folder / "volumes" / source
            (self.folder / "volumes" / source).mkdir(parents=True, exist_ok=True)
        if name == "postgres":
            shutil.chown(self.folder / "volumes" / "postgres-data", "postgres", "postgres")
        return mounts


def mount(host: Host, mounts: dict[Path, Path]) -> None:
    """Show files and folders of this machine on a host at paths that this machine need not have."""
    script = ["set -e"]
    covered: set[Path] = set()
    for target, source in mounts.items():
        above = next(path for path in target.parents if path.exists())
        assert above != Path("/"), target
        if above not in covered:
            covered.add(above)
            script.append(f"mount -t tmpfs -o mode=755 tmpfs {above}")
        make = f"mkdir -p {target}" if source.is_dir() else f"touch {target}"
        script.append(f"mkdir -p {target.parent}; {make}; mount --bind {source} {target}")
    done = host.run(["sh", "-c", "\n".join(script)])
    assert done.returncode == 0, done.stdout


@pytest.fixture(scope="module")
def postgres_bin() -> Path:
    """The folder of PostgreSQL's programs, which Debian keeps out of PATH."""
    tag = read_compose({})["services"]["postgres"]["image"].partition(":")[2]
    path = Path(f"/usr/lib/postgresql/{tag.partition('.')[0]}/bin")
    if not (path / "initdb").exists():
        pytest.skip(f"needs {path}: apt-get install postgresql")
    return path


@pytest.fixture(scope="module")
def store_bin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the S3 store's program, in the image's version."""
    package = re.search(r"s3rver@[\d.]+", DOCKERFILE.read_text())
    assert package is not None
    folder = tmp_path_factory.mktemp("npm")
    if shutil.which("npm") is None:
        pytest.skip("needs npm")
    command = ["npm", "install", "--no-audit", "--no-fund", "--prefix", str(folder), package[0]]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"npm cannot install {package[0]}: {done.stderr}")
    return folder / "node_modules" / ".bin"


@pytest.fixture(scope="module")
def stack(
    tmp_path_factory: pytest.TempPathFactory, postgres_bin: Path, store_bin: Path
) -> Iterator[Stack]:
    """All services, healthy."""
    folder = tmp_path_factory.mktemp("replica")
    subprocess.run([COMPOSE.with_name("make-secrets"), folder / "secrets"], check=True)
    services = {
        name: service
        for name, service in read_compose({"WORKER_CPUS": "1"})["services"].items()
        if "profiles" not in service  # tests/cluster/test_monitoring_stack.py has these
    }
    usual = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    stack = Stack(services, folder, f"{BIN}:{store_bin}:{postgres_bin}:{usual}")
    names = [
        name
        for name in in_order(services)
        for _ in range(services[name].get("deploy", {}).get("replicas", 1))
    ]
    with hosts(len(names), folder) as made:
        for name, host in zip(names, made, strict=True):
            stack.hosts.setdefault(name, []).append(host)
        with (folder / "hosts").open("a") as file:
            file.writelines(f"{many[0].ip} {name}\n" for name, many in stack.hosts.items())
        for name in stack.hosts:
            stack.start(name)
        yield stack


@pytest.fixture(scope="module")
def job(stack: Stack) -> Job:
    """A job submitted as README.md says, to its end."""
    log = stack.folder / "job.log"
    variables = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(stack.folder / "secrets" / "ray-token"),
        "RAY_API_SERVER_ADDRESS": "http://127.0.0.1:8265",
    }
    submit = ["ray", "job", "submit", "--working-dir", "."]
    command = [*submit, "--", "python", "-m", "trainjobs.yolo", *SMALL]
    process = stack.hosts["head"][0].popen(command, log=log, cwd=REPOSITORY, variables=variables)
    submitted = Job(process, log)
    assert submitted.finish(JOB_TIMEOUT_S) == 0, submitted.output
    return submitted


@pytest.fixture(scope="module")
def result(stack: Stack, job: Job) -> dict[str, Any]:
    """The run's result.json, from the store."""
    text = stack.run("mlflow", [sys.executable, "-c", READ_OBJECT, "runs", f"{RUN}/result.json"])
    read: dict[str, Any] = json.loads(text)
    return read


def test_a_job_trains_on_both_workers(job: Job, result: dict[str, Any]) -> None:
    assert (result["status"], result["epochs"], result["attempts"]) == ("finished", EPOCHS, 1)
    assert result["world_size"] == 2
    assert f"run {RUN}: finished" in job.output
    assert not re.search(r"WARNING host\d ", job.output), job.output


def test_the_runs_folder_and_mlflows_files_are_in_the_store(
    stack: Stack, result: dict[str, Any]
) -> None:
    store = json.loads(stack.run("mlflow", [sys.executable, "-c", LIST_STORE]))
    files = {"config.yaml", "metrics.csv", "weights/best.safetensors", "weights/last.safetensors"}
    assert {f"{RUN}/{file}" for file in files} <= set(store["runs"])
    assert result["weights"]["best"] == f"s3://runs/{RUN}/weights/best.safetensors"
    assert any(key.startswith(f"{RUN}/checkpoints/") for key in store["runs"])

    run_id = result["mlflow_run_id"]
    (uri,) = stack.sql(f"SELECT artifact_uri FROM runs WHERE run_uuid = '{run_id}'")
    kept = {key for key in store["mlflow"] if f"/{run_id}/artifacts/" in key}
    assert uri.startswith("mlflow-artifacts:/")
    assert any(key.endswith("config.yaml") for key in kept), store["mlflow"]
    assert all(store["mlflow"][key] for key in kept)


def test_the_runs_folder_can_be_fetched(stack: Stack, job: Job) -> None:
    target = stack.folder / "fetched"
    fetch = f"from pyarrow import fs; fs.copy_files('s3://runs/{RUN}', '{target}')"
    stack.run("head", ["python", "-c", fetch])
    assert {"config.yaml", "weights"} <= {path.name for path in target.iterdir()}
    assert (target / "weights" / "best.safetensors").stat().st_size > 1_000_000


def test_the_run_is_in_postgresql(stack: Stack, result: dict[str, Any]) -> None:
    where = f"WHERE run_uuid = '{result['mlflow_run_id']}'"
    assert stack.sql(f"SELECT name, status FROM runs {where}") == [f"{RUN}|FINISHED"]
    steps = stack.sql(f"SELECT step FROM metrics {where} AND key = 'train_loss' ORDER BY step")
    assert steps == ["1", "2"]
    scores = stack.sql(f"SELECT value FROM metrics {where} AND key = 'map50_95'")
    assert max(map(float, scores)) == pytest.approx(result["metrics"]["map50_95"])
    assert stack.sql(f"SELECT value FROM params {where} AND key = 'epochs'") == [str(EPOCHS)]


def test_ray_refuses_who_has_no_token(stack: Stack) -> None:
    for path in ("/api/jobs/", "/nodes?view=summary"):
        url = f"http://head:8265{path}"
        answer = stack.run("worker", [sys.executable, "-I", "-c", ASK_WITHOUT_TOKEN, url])
        assert answer.strip() == "401", path


def test_nobody_listens_where_the_table_of_ports_does_not_say(stack: Stack) -> None:
    roles = {"head": ("head", "node"), "worker": ("node", "rank")}
    for name, many in stack.hosts.items():
        expected = [r for r in rows(in_containers=True) if r.where in roles.get(name, (name,))]
        for host in many:
            found = listeners(host)
            assert unknown(expected, found) == [], name
            # Ray's nodes have no ranks now: tests/cluster/test_ports.py sees them while they train.
            assert name in roles or missing(expected, found) == [], name


def test_no_secret_is_in_a_log_an_argument_or_an_environment(stack: Stack, job: Job) -> None:
    secrets = [
        (stack.folder / "secrets" / name).read_text() for name in ("ray-token", "postgres-password")
    ]
    seen = {log.name: log.read_text() for log in stack.folder.glob("*.log")}
    for name, many in stack.hosts.items():
        for host in many:
            script = "cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null | tr '\\0' '\\n'"
            seen[f"{name} on {host.name}"] = host.run(["sh", "-c", script]).stdout
    for place, text in seen.items():
        assert not any(secret in text for secret in secrets), place
    assert "s3rver" in seen[f"s3 on {stack.hosts['s3'][0].name}"]
