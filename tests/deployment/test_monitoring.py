"""cluster/monitoring: what can be said of its files without Prometheus and Grafana."""

import json
import re
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.boards import GRAFANA, MONITORING, board, board_expressions, metrics_in, rules
from tests.compose import read_compose
from trainjobs.gauges import FROM_ROW, RUN_GAUGES
from tuning.gauges import SWEEP_GAUGES

OURS = {f"ray_{name}" for name in (*RUN_GAUGES, *SWEEP_GAUGES)}
PANELS: list[dict[str, Any]] = board()["panels"]
PROVISIONING = GRAFANA / "provisioning"


def rays_own() -> set[str]:
    """Metrics of the installed Ray: those its agent defines, and those its own board asks for."""
    spec = find_spec("ray")
    assert spec is not None and spec.origin is not None
    dashboard = Path(spec.origin).parent / "dashboard" / "modules"
    agent = (dashboard / "reporter" / "reporter_agent.py").read_text()
    defined = {f"ray_{name}" for name in re.findall(r'Gauge\(\s*"(\w+)"', agent)}
    panels = dashboard / "metrics" / "dashboards" / "default_dashboard_panels.py"
    # Defined in C++, which is not installed as source.
    return defined | metrics_in(panels.read_text()) | {"ray_object_store_used_memory"}


def test_every_expression_asks_for_metrics_that_there_are() -> None:
    expressions = board_expressions() + [rule["expr"] for rule in rules()]
    variables = [variable["definition"] for variable in board()["templating"]["list"]]
    asked = set().union(*map(metrics_in, expressions + variables))
    assert asked - OURS - rays_own() == set()


def test_every_gauge_of_ours_is_on_the_board() -> None:
    assert OURS - set().union(*map(metrics_in, board_expressions())) == set()


def test_every_column_that_becomes_a_gauge_is_described() -> None:
    assert {f"trainjobs_{name}" for name in FROM_ROW} <= set(RUN_GAUGES)


def test_the_board_is_one_that_grafana_can_load() -> None:
    assert board()["schemaVersion"] >= 36  # data sources by type and uid
    assert re.fullmatch(r"[\w-]{1,40}", board()["uid"])
    ids = [panel["id"] for panel in PANELS]
    assert len(set(ids)) == len(ids)
    for panel in PANELS:
        references = [target["refId"] for target in panel.get("targets", [])]
        assert len(set(references)) == len(references)
        assert bool(references) == (panel["type"] != "row"), panel["title"]


def test_panels_do_not_overlap_and_fit_the_width() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in PANELS:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells


def test_panels_and_variables_use_the_data_source_that_is_provisioned() -> None:
    (source,) = read_yaml(PROVISIONING / "datasources" / "prometheus.yaml")["datasources"]
    users = [*board()["templating"]["list"], *(p for p in PANELS if p["type"] != "row")]
    assert all(u["datasource"] == {"type": source["type"], "uid": source["uid"]} for u in users)
    assert source["url"] == f"http://prometheus:{published('prometheus')}"


def test_the_board_is_mounted_where_grafana_is_told_to_look() -> None:
    (provider,) = read_yaml(PROVISIONING / "dashboards" / "trainjobs.yaml")["providers"]
    mounts = {
        target: source
        for source, target, *_ in (v.split(":") for v in services()["grafana"]["volumes"])
    }
    compose_folder = MONITORING.parents[1] / "docker"
    for target, folder in (
        (provider["options"]["path"], GRAFANA / "dashboards"),
        ("/etc/grafana/provisioning", PROVISIONING),
    ):
        assert (compose_folder / mounts[target]).resolve() == folder


def test_prometheus_asks_the_service_of_the_head_with_the_token_that_it_has() -> None:
    (job,) = read_yaml(MONITORING / "prometheus.yml")["scrape_configs"]
    (discovery,) = job["http_sd_configs"]
    assert discovery["url"] == f"http://head:{published('head')}/api/prometheus/sd"
    secret = discovery["authorization"]["credentials_file"].removeprefix("/run/secrets/")
    assert secret in services()["prometheus"]["secrets"]
    assert job["honor_labels"]  # or the gauges' own tag `job` would be renamed


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool: Debian's prometheus")
@pytest.mark.parametrize(
    "check", [("config", "--syntax-only", "prometheus.yml"), ("rules", "alerts.yml")]
)
def test_prometheus_accepts_its_files(check: tuple[str, ...]) -> None:
    command = ["promtool", "check", *check]
    done = subprocess.run(command, cwd=MONITORING, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def services() -> dict[str, Any]:
    found: dict[str, Any] = read_compose({})["services"]
    return found


def published(service: str) -> str:
    """The port of a service, which is the same inside and outside."""
    (port,) = services()[service]["ports"]
    return str(port).rpartition(":")[2]


def read_yaml(path: Path) -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load(path.read_text())
    json.dumps(read)  # no dates or other surprises of YAML
    return read
