"""docker/: what can be said of its files without an engine to run them."""

import re
import shutil
import stat
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.compose import COMPOSE, DOCKERFILE, REPOSITORY, image_environment, in_order, read_compose

BIN = Path(sys.executable).parent
SERVICES: dict[str, Any] = read_compose({})["services"]
# A name of Docker's own registry: at most one slash, no dot or port before it.
IMAGE = re.compile(r"([a-z0-9-]+/)?[a-z0-9-]+:v?\d[\w.-]*")
SECRET_WORDS = re.compile(r"PASSWORD|SECRET|TOKEN|KEY|CREDENTIAL", re.IGNORECASE)


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False
    )


def project() -> dict[str, Any]:
    read: dict[str, Any] = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    return read


@pytest.mark.parametrize("file", ["compose.yaml", "compose.gpu.yaml"])
def test_a_compose_file_matches_the_schema_of_the_compose_specification(file: str) -> None:
    # check-jsonschema brings the specification's own schema.
    schema = ("--builtin-schema", "vendor.compose-spec")
    done = run(BIN / "check-jsonschema", *schema, COMPOSE.with_name(file))
    assert done.returncode == 0, done.stdout


def test_the_services_are_there_and_start_after_what_they_need() -> None:
    order = ["s3", "postgres", "mlflow", "head", "worker", "prometheus", "grafana"]
    assert in_order(SERVICES) == order
    optional = {name for name, service in SERVICES.items() if "profiles" in service}
    assert optional == {"prometheus", "grafana"}
    assert SERVICES["worker"]["deploy"]["replicas"] == 2
    for service in SERVICES.values():
        for wait in service.get("depends_on", {}).values():
            assert wait == {"condition": "service_healthy"}


def test_every_published_port_is_bound_to_loopback() -> None:
    ports = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert set(ports) == {"head", "mlflow", "prometheus", "grafana"}
    for published in ports.values():
        assert all(re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port) for port in published)


def test_who_can_reach_whom() -> None:
    assert read_compose({})["networks"] == {"cluster": {}, "database": {"internal": True}}
    networks = {name: service["networks"] for name, service in SERVICES.items()}
    assert networks == {
        "head": ["cluster"],
        "worker": ["cluster"],
        "s3": ["cluster"],
        "mlflow": ["cluster", "database"],
        "postgres": ["database"],
        "prometheus": ["cluster"],
        "grafana": ["cluster"],
    }


def test_no_service_shares_a_namespace_of_the_host() -> None:
    for service in SERVICES.values():
        assert not {"network_mode", "pid", "ipc", "privileged", "cap_add", "devices"} & set(service)
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_has_a_health_check_and_a_pinned_image(name: str) -> None:
    assert SERVICES[name]["healthcheck"]["test"][0] == "CMD"
    assert IMAGE.fullmatch(SERVICES[name]["image"]), SERVICES[name]["image"]


@pytest.mark.parametrize("name", SERVICES)
def test_secrets_come_from_files(name: str) -> None:
    secrets = read_compose({})["secrets"]
    for secret in SERVICES[name].get("secrets", []):
        assert secrets[secret] == {"file": f"./secrets/{secret}"}
    for variable, value in SERVICES[name].get("environment", {}).items():
        if SECRET_WORDS.search(variable):
            assert str(value).startswith("/run/secrets/"), variable
            assert value.removeprefix("/run/secrets/") in SERVICES[name]["secrets"]
        assert not re.search(r"://[^/@]*:[^/@]*@", str(value)), variable
    assert not re.search(r"://[^/@ ]*:[^/@ ]*@", " ".join(SERVICES[name].get("command", [])))


def test_ray_asks_for_a_token_and_reads_it_from_a_file() -> None:
    assert image_environment("gpu")["RAY_AUTH_MODE"] == "token"
    for name in ("head", "worker"):
        assert SERVICES[name]["environment"]["RAY_AUTH_MODE"] == "token"
        assert SERVICES[name]["environment"]["RAY_AUTH_TOKEN_PATH"] == "/run/secrets/ray-token"


def test_the_made_secrets_are_those_that_are_asked_for_and_nobody_elses(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    assert run(COMPOSE.with_name("make-secrets"), folder).returncode == 0
    names = {path.name for path in folder.iterdir()}
    assert names == set(read_compose({})["secrets"])
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    token, password = (folder / "ray-token").read_text(), (folder / "postgres-password").read_text()
    assert re.fullmatch("[0-9a-f]{64}", token) and re.fullmatch("[0-9a-f]{64}", password)
    assert password in (folder / "pg-service.conf").read_text()

    again = run(COMPOSE.with_name("make-secrets"), folder)
    assert again.returncode != 0
    assert (folder / "ray-token").read_text() == token


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_secrets_are_not_committed() -> None:
    done = run("git", "-C", REPOSITORY, "check-ignore", "docker/secrets/ray-token")
    if "not a git repository" in done.stderr:
        pytest.skip("not a clone")
    assert done.returncode == 0, done.stderr


def test_the_image_is_made_from_named_files_alone() -> None:
    lines = DOCKERFILE.with_name("Dockerfile.dockerignore").read_text().splitlines()
    rules = [line for line in lines if not line.startswith("#")]
    assert rules[0] == "*"
    assert not any("secrets" in rule for rule in rules)
    for source in re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE.read_text(), flags=re.M):
        for path in source.split():
            assert f"!{path}" in rules
            assert (REPOSITORY / path).exists()


def test_the_dockerfile_has_no_findings() -> None:
    done = run(BIN / "hadolint", "--no-color", DOCKERFILE)
    assert done.returncode == 0, done.stdout


def test_the_image_ends_as_a_user_without_rights_and_without_build_tools() -> None:
    text = DOCKERFILE.read_text()
    for target in ("gpu", "cpu", "s3"):
        stage = re.search(rf"^FROM (\S+) AS {target}$(.*?)(?=^FROM|\Z)", text, flags=re.M | re.S)
        assert stage is not None
        users = re.findall(r"^USER (\S+)$", stage[2], flags=re.M) or ["1000"]
        assert users[-1] == "1000"
    assert "USER 1000" in text.partition(" AS base")[2].partition("FROM")[0]
    installed = re.findall(r"apt-get install (.*)", text)
    assert installed == ["--yes --no-install-recommends libibverbs1=44.* ibverbs-providers=44.* \\"]


def test_the_images_tags_are_the_projects_version() -> None:
    version = project()["project"]["version"]
    assert SERVICES["head"]["image"] == f"trainjobs:{version}-cpu"
    assert f"trainjobs:{version}-gpu\n" in COMPOSE.with_name("compose.gpu.yaml").read_text()
    assert f'image.version="{version}"' in DOCKERFILE.read_text()
    store = SERVICES["s3"]["image"].partition(":")[2]
    assert f"s3rver@{store} " in DOCKERFILE.read_text()


def test_the_constraints_fit_the_project_and_name_no_host() -> None:
    lines = DOCKERFILE.with_name("constraints.txt").read_text().splitlines()
    assert not any("://" in line for line in lines)
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    for text in (*project()["project"]["dependencies"], *project()["dependency-groups"]["server"]):
        requirement = Requirement(text)
        assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)]), text
