"""cluster/monitoring as tests read it: what its expressions ask for."""

import json
import re
from pathlib import Path
from typing import Any

import yaml

MONITORING = Path(__file__).parents[1] / "cluster" / "monitoring"
GRAFANA = MONITORING / "grafana"


def board() -> dict[str, Any]:
    """The board."""
    read: dict[str, Any] = json.loads((GRAFANA / "dashboards" / "trainjobs.json").read_text())
    return read


def rules() -> list[dict[str, Any]]:
    """The alerts."""
    (group,) = yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found


def board_expressions() -> list[str]:
    """What the board's panels ask for, with nothing left out by its variables."""
    targets = [target for panel in board()["panels"] for target in panel.get("targets", [])]
    return [re.sub(r"\$\w+", ".*", target["expr"]) for target in targets]


def metrics_in(expression: str) -> set[str]:
    """Names of the metrics in an expression."""
    return set(re.findall(r"\bray_\w+", expression))
