"""Prometheus, set up as cluster/monitoring says, on a Ray cluster while a sweep trains."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import pytest

from tests.boards import MONITORING, board_expressions, metrics_in, rules
from tests.cluster.ray_on_hosts import Cluster, cluster, wait_until

pytestmark = [pytest.mark.integration, pytest.mark.slow]

SWEEP = (
    "--num-trials", "2", "--scheduler", "none", "--max-concurrent", "1", "--name", "watched",
    "--train.model", "yolov5n", "--train.epochs", "3", "--train.image-size", "64",
    "--train.data.generated-images", "64", "--train.batch-size-per-worker", "8",
    "--train.num-workers", "1",
)  # fmt: skip
SWEEP_TIMEOUT_S, GONE_S = 420.0, 60.0
LABELS = {
    # Ours, Prometheus' own, and what Ray adds.
    "__name__", "run_name", "job", "instance",
    "Component", "NodeAddress", "SessionName", "Version", "WorkerId",
}  # fmt: skip
GET = """
import sys, urllib.request
print(urllib.request.urlopen(sys.argv[1], timeout=20).read().decode())
"""


@dataclass(frozen=True)
class Prometheus:
    """A server on the head."""

    running: Cluster
    process: subprocess.Popen[str]

    def ask(self, path: str, **query: str) -> Any:
        """Data of an answer of its API."""
        url = f"http://127.0.0.1:9090/api/v1/{path}?{urlencode(query)}"
        done = self.running.head.run([sys.executable, "-I", "-c", GET, url], timeout_s=30)
        assert done.returncode == 0, done.stdout
        answer = json.loads(done.stdout)
        assert answer["status"] == "success", answer
        return answer["data"]


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A server that has watched a sweep from its start to its end."""
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("needs prometheus: apt-get install prometheus")
    folder = tmp_path_factory.mktemp("monitoring")
    with cluster(folder, cpus=[2]) as running:
        token = folder / "ray-token"
        token.write_text(running.head.variables["RAY_AUTH_TOKEN"])
        config = (MONITORING / "prometheus.yml").read_text()
        config = config.replace("http://head:8265", running.dashboard)
        (folder / "prometheus.yml").write_text(config.replace("/run/secrets/ray-token", str(token)))
        shutil.copy(MONITORING / "alerts.yml", folder)
        process = running.head.popen(
            [program, f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/tsdb"],
            log=folder / "prometheus.log",
        )  # fmt: skip
        log = folder / "sweep-job.log"
        job = running.submit(
            "python", "-m", "tuning.sweep", *SWEEP, "--storage", str(folder / "runs"), log=log
        )
        assert job.finish(SWEEP_TIMEOUT_S) == 0, job.output
        yield Prometheus(running, process)


@pytest.fixture(scope="module")
def span(prometheus: Prometheus) -> dict[str, str]:
    """The time that the server has watched."""
    now = time.time()
    return {"start": str(now - SWEEP_TIMEOUT_S), "end": str(now), "step": "5"}


def test_the_nodes_are_found_and_answer(prometheus: Prometheus) -> None:
    targets = prometheus.ask("targets")["activeTargets"]
    assert targets and all(target["health"] == "up" for target in targets), targets


@pytest.mark.parametrize("expression", board_expressions())
def test_every_panel_shows_something(
    prometheus: Prometheus, span: dict[str, str], expression: str
) -> None:
    if any("gpu" in name or "gram" in name for name in metrics_in(expression)):
        pytest.skip("needs a GPU")
    if "ray_trainjobs_top1" in metrics_in(expression):
        pytest.skip("a classifier's; the runs are detectors'")
    found = prometheus.ask("query_range", query=expression, **span)["result"]
    values = [float(value) for series in found for _, value in series["values"]]
    assert values, expression
    assert all(value >= 0 for value in values), values


def test_every_alert_can_be_evaluated(prometheus: Prometheus) -> None:
    (group,) = prometheus.ask("rules")["groups"]
    health = {rule["name"]: (rule["health"], rule.get("lastError")) for rule in group["rules"]}
    assert health == {rule["alert"]: ("ok", None) for rule in rules()}


def test_each_run_is_one_series_that_tells_its_name_and_job_alone(
    prometheus: Prometheus, span: dict[str, str]
) -> None:
    query = {"match[]": "ray_trainjobs_epoch", "start": span["start"], "end": span["end"]}
    series = prometheus.ask("series", **query)
    assert all(set(labels) <= LABELS for labels in series), series
    told = sorted((labels["run_name"], labels["job"]) for labels in series)
    assert told == [("watched-0000", "yolo"), ("watched-0001", "yolo")]


def test_a_runs_figures_are_its_own(prometheus: Prometheus, span: dict[str, str]) -> None:
    for name, last in (
        ("epoch", 3.0),
        ("epochs_planned", 3.0),
        ("workers", 1.0),
        ("restarts", 0.0),
    ):
        found = prometheus.ask("query_range", query=f"ray_trainjobs_{name}", **span)["result"]
        ends = [float(series["values"][-1][1]) for series in found]
        assert ends == [last, last], name


def test_the_gauges_end_with_what_they_describe(prometheus: Prometheus) -> None:
    def gone() -> bool:
        return not prometheus.ask("query", query='{__name__=~"ray_trainjobs_.*"}')["result"]

    wait_until(gone, GONE_S)
