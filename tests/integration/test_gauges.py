"""Gauges through Ray's own agent, which forgets what is not set again."""

import re
import time
import urllib.request

import pytest
import ray

from cluster.gauges import Reading, export_gauges
from cluster.session import Session

pytestmark = pytest.mark.integration

NAME = "trainjobs_test_gauge"
TIMEOUT_S, GONE_S = 40.0, 60.0


def exported() -> dict[str, str]:
    """State -> value, as the agent of this node tells it."""
    (node,) = ray.nodes()
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    with urllib.request.urlopen(url, timeout=20) as answer:
        text = answer.read().decode()
    lines = re.findall(rf"^ray_{NAME}\{{(.*)\}} (\S+)$", text, flags=re.M)
    return {re.findall(r'state="(\w+)"', labels)[0]: value for labels, value in lines}


def wait_for(values: dict[str, str], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while (found := exported()) != values:
        assert time.monotonic() < deadline, found
        time.sleep(1.0)


@pytest.mark.slow
def test_a_gauge_stays_as_long_as_the_body_and_no_longer(ray_session: Session) -> None:
    def read() -> list[Reading]:
        return [Reading(NAME, v, {"state": s}) for s, v in (("a", 1.5), ("b", float("nan")))]

    with export_gauges({NAME: "of a test"}, read, run_name="r"):
        wait_for({"a": "1.5"}, TIMEOUT_S)
        time.sleep(25.0)  # the agent drops what is 20 s old
        assert exported() == {"a": "1.5"}
    wait_for({}, GONE_S)


def test_an_export_that_ends_at_once_leaves_no_thread(ray_session: Session) -> None:
    calls = 0

    def read() -> list[Reading]:
        nonlocal calls
        calls += 1
        return [Reading(NAME, 1.0, {"state": "a"})]

    started = time.monotonic()
    with export_gauges({NAME: "of a test"}, read, run_name="r"):
        pass
    assert time.monotonic() - started < 2.0
    before = calls
    time.sleep(0.1)
    assert before == calls >= 1
