"""docker/compose.yaml and docker/Dockerfile as tests read them: what a service would be started with."""

import re
from pathlib import Path
from typing import Any

import yaml

REPOSITORY = Path(__file__).parents[1]
COMPOSE = REPOSITORY / "docker" / "compose.yaml"
DOCKERFILE = REPOSITORY / "docker" / "Dockerfile"


def read_compose(variables: dict[str, str]) -> dict[str, Any]:
    """compose.yaml with `${NAME:-default}` and `$$` replaced, as `docker compose config` does."""

    def value(found: re.Match[str]) -> str:
        return variables.get(found[1], found[2]) if found[1] else "$"

    text = re.sub(r"\$\{(\w+):-([^}]*)\}|\$\$", value, COMPOSE.read_text())
    read: dict[str, Any] = yaml.safe_load(text)
    return read


def image_environment(target: str) -> dict[str, str]:
    """What `ENV` sets in a stage of the Dockerfile and in those it is built from, less PATH."""
    text = re.sub(r"^\s*#.*\n", "", DOCKERFILE.read_text(), flags=re.M).replace("\\\n", " ")
    stages = re.split(r"^FROM ", text, flags=re.M)[1:]
    bodies = {stage.split("\n", 1)[0].partition(" AS ")[2]: stage for stage in stages}
    parent, _, body = bodies[target].partition("\n")
    above = image_environment(parent.split()[0]) if parent.split()[0] in bodies else {}
    for line in re.findall(r"^ENV (.*)$", body, flags=re.M):
        above |= dict(pair.split("=", 1) for pair in line.split())
    above.pop("PATH", None)
    return above


def in_order(services: dict[str, Any]) -> list[str]:
    """The services, each behind those that it waits for."""
    order: list[str] = []

    def add(name: str) -> None:
        for needed in services[name].get("depends_on", {}):
            add(needed)
        if name not in order:
            order.append(name)

    for name in services:
        add(name)
    return order
