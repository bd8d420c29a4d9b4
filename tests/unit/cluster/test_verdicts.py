"""How `doctor` judges what probes have measured."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.gpus import parse_gpus
from cluster.link_verdicts import (
    judge_all_reduce,
    judge_clock,
    judge_round_trips,
    judge_storage,
    judge_throughputs,
)
from cluster.node_facts import NodeFacts, Space
from cluster.peers import pairings
from cluster.probes import NodeReport
from cluster.service_probes import StorageSpeed
from cluster.verdicts import (
    Check,
    is_ok,
    judge_gpu_speeds,
    judge_node,
    judge_versions,
    table,
)

GIB = 2**30
ROOMY = Space(free_bytes=100 * GIB, total_bytes=200 * GIB)
HEALTHY = "0, NVIDIA H100, 570.1, 81559, 1, 0, 0, Not Active, Not Active, Not Active\n"


def make_report(
    versions: dict[str, str] | None = None,
    gpus: str = "",
    matmul_tflops: tuple[float, ...] = (),
    **facts: Any,
) -> NodeReport:
    usual = NodeFacts(
        cpus=8, memory=ROOMY, shared_memory=ROOMY, disks={"/tmp": ROOMY}, open_files=65536,
        interface="eth0", link_mbit=None, has_loopback_name=False, variables={},
    )  # fmt: skip
    return NodeReport(
        facts=replace(usual, **facts),
        versions=versions or {"torch": "2.14.1"},
        gpus=parse_gpus(gpus),
        gpu_problem="",
        matmul_tflops=matmul_tflops,
    )


def problems(checks: list[Check]) -> list[tuple[str, str, str]]:
    """Name, host and verdict of what is not ok; each says what to do."""
    assert all(check.remedy for check in checks if check.verdict in ("warn", "fail"))
    return [(c.name, c.host, c.verdict) for c in checks if c.verdict != "ok"]


def test_a_version_that_most_nodes_do_not_have_is_named_with_its_host() -> None:
    reports = {host: make_report({"torch": "2.14.1", "ray": "2.60.0"}) for host in "abc"}
    reports["b"] = make_report({"torch": "2.13.0", "ray": "2.60.0"})
    checks = judge_versions(reports)
    assert problems(checks) == [("torch", "b", "fail")]
    assert "2.13.0" in checks[0].value and "2.14.1" in checks[0].remedy
    assert [(c.name, c.value) for c in checks if c.verdict == "ok"] == [("ray", "2.60.0")]


def test_a_head_without_gpus_needs_no_driver() -> None:
    with_gpus = make_report({"driver": "570.1", "torch": "2"})
    reports = {"head": make_report({"driver": "none", "torch": "2"}), "a": with_gpus}
    assert problems(judge_versions(reports)) == []


def test_a_healthy_node_has_no_problems() -> None:
    assert problems(judge_node("a", make_report(gpus=HEALTHY), num_nodes=3)) == []


@pytest.mark.parametrize(
    ("facts", "name", "verdict"),
    [
        ({"memory": Space(free_bytes=GIB, total_bytes=64 * GIB)}, "memory", "fail"),
        ({"shared_memory": Space(free_bytes=2**26, total_bytes=2**26)}, "/dev/shm", "fail"),
        ({"open_files": 20_000}, "open files", "warn"),
        ({"open_files": 1024}, "open files", "fail"),
        ({"disks": {"/tmp": Space(free_bytes=4 * GIB, total_bytes=100 * GIB)}}, "disk /tmp", "fail"),
        ({"disks": {"/tmp": Space(free_bytes=9 * GIB, total_bytes=100 * GIB)}}, "disk /tmp", "warn"),
        ({"disks": {"/tmp": Space(free_bytes=2**20, total_bytes=2**21)}}, "disk /tmp", "fail"),
        ({"has_loopback_name": True, "interface": None}, "interface", "fail"),
        ({"variables": {"NCCL_SOCKET_IFNAME": "ib0"}}, "interface", "warn"),
        ({"variables": {"NCCL_SOCKET_IFNAME": "^eth"}}, "interface", "warn"),
        ({"variables": {"NCCL_SOCKET_IFNAME": "=eth"}}, "interface", "warn"),
    ],
)  # fmt: skip
def test_what_a_node_lacks_is_named(facts: dict[str, Any], name: str, verdict: str) -> None:
    assert problems(judge_node("a", make_report(**facts), num_nodes=2)) == [(name, "a", verdict)]


@pytest.mark.parametrize("choice", ["eth0", "eth", "=eth0", "^docker,lo", "ib,eth"])
def test_a_choice_of_interface_that_means_the_clusters_is_fine(choice: str) -> None:
    report = make_report(has_loopback_name=True, variables={"GLOO_SOCKET_IFNAME": choice})
    assert problems(judge_node("a", report, num_nodes=2)) == []


def test_a_single_node_needs_no_interface() -> None:
    assert problems(judge_node("a", make_report(has_loopback_name=True), num_nodes=1)) == []


@pytest.mark.parametrize(
    ("line", "verdict", "says"),
    [
        ("0, A100, 570.1, 81559, 1, 0, 3, Not Active, Not Active, Not Active", "fail", "3 uncorrected"),
        ("0, A100, 570.1, 81559, 1, 0, 0, Active, Not Active, Active", "warn", "sw_thermal_slowdown"),
        ("0, A100, 570.1, 81559, 1, 95, 0, Not Active, Not Active, Not Active", "warn", "95 % busy"),
        ("0, A100, 570.1, 81559, 40000, 0, 0, Not Active, Not Active, Not Active", "warn", "40000 MiB"),
        ("0, RTX 4090, 570.1, 24564, 1, 0, [N/A], Not Active, Not Active, Not Active", "ok", "RTX 4090"),
    ],
)  # fmt: skip
def test_gpus_are_judged(line: str, verdict: str, says: str) -> None:
    (check,) = (
        c for c in judge_node("a", make_report(gpus=line), num_nodes=1) if c.name == "gpu 0"
    )
    assert check.verdict == verdict
    assert says in check.value


def test_a_slow_gpu_is_judged_by_its_siblings_of_the_same_name() -> None:
    other = HEALTHY.replace("H100", "L4")
    reports = {
        "a": make_report(gpus=HEALTHY, matmul_tflops=(700.0,)),
        "b": make_report(gpus=HEALTHY, matmul_tflops=(500.0,)),
        "c": make_report(gpus=HEALTHY, matmul_tflops=(710.0,)),
        "d": make_report(gpus=other, matmul_tflops=(60.0,)),
    }
    assert problems(judge_gpu_speeds(reports)) == [("matmul 0", "b", "warn")]


@pytest.mark.parametrize(
    ("offset_s", "uncertainty_s", "verdict"),
    [(0.5, 0.0, "ok"), (-2.0, 0.0, "warn"), (2.0, 1.5, "ok"), (60.0, 0.1, "fail")],
)
def test_a_clock_is_off_by_more_than_what_is_uncertain(
    offset_s: float, uncertainty_s: float, verdict: str
) -> None:
    assert judge_clock("a", offset_s, uncertainty_s).verdict == verdict


def test_slow_and_cut_links_are_named_by_their_ends() -> None:
    pairs = {("a", "b"): 0.0002, ("a", "c"): 0.1, ("b", "c"): "cannot be reached: timed out"}
    checks = judge_round_trips(pairs)
    assert problems(checks) == [("link", "a - c", "fail"), ("link", "b - c", "fail")]
    assert "100.00 ms" in checks[0].value


def test_quick_links_are_one_line() -> None:
    (check,) = judge_round_trips({("a", "b"): 0.0002, ("a", "c"): 0.0004})
    assert (check.name, check.verdict) == ("links", "ok")
    assert "0.40 ms" in check.value


def test_a_collective_is_judged_by_the_slowest_link() -> None:
    # 1 GB among 2 nodes in 1 s: each link carries 2 (n - 1) / n = 1 GB/s.
    quick = judge_all_reduce(1.0, 10**9, 2, "nccl", 10_000)
    slow = judge_all_reduce(1.0, 10**9, 2, "nccl", 100_000)
    unknown = judge_all_reduce(1.0, 10**9, 2, "gloo", None)
    assert [c.verdict for c in (quick, slow, unknown)] == ["ok", "warn", "ok"]
    assert "1.00 GB/s" in quick.value and "12.50 GB/s" in slow.value


def test_a_pair_that_is_slower_than_the_others_is_named() -> None:
    speeds: dict[tuple[str, str], float | str] = {
        ("a", "b"): 1e9, ("a", "c"): 1.1e9, ("b", "c"): 1e8, ("a", "d"): "cannot be reached"
    }  # fmt: skip
    assert problems(judge_throughputs(speeds)) == [("link", "b - c", "warn")]


def test_a_node_that_does_not_see_the_others_files_is_told_whose() -> None:
    used = StorageSpeed(file="t.a.1", write_s=0.01, read_s=0.01)

    def judged(used: StorageSpeed | Exception, unseen: tuple[str, ...] | Exception) -> Check:
        return judge_storage("a", used, unseen, 2**23, "share it")

    assert judged(used, ()).verdict == "ok"
    assert judged(replace(used, write_s=2.0), ()).verdict == "warn"
    assert judged(used, ("t.b.1", "t.c.2")).value == "does not show what b, c wrote"
    assert judged(OSError("read-only"), ()).value == "read-only"
    assert judged(used, OSError("gone")).verdict == "fail"


def test_the_table_gathers_what_is_fine_and_names_each_problem() -> None:
    checks = [Check("cpus", host, "ok", "8") for host in ("a", "b")]
    checks.append(Check("memory", "c", "fail", "none", "buy some"))
    lines = table(checks)
    assert [line.split() for line in lines] == [
        ["ok", "cpus", "2", "hosts", "8"],
        ["fail", "memory", "c", "none"],
        ["->", "buy", "some"],
        ["3", "checks:", "1", "failed,", "0", "warnings"],
    ]
    assert not is_ok(checks)
    assert is_ok(checks[:2])


@given(st.integers(2, 20))
def test_every_two_nodes_meet_once_and_nobody_twice_in_a_round(count: int) -> None:
    rounds = pairings(count)
    met = [pair for pairs in rounds for pair in pairs]
    assert sorted(met) == [(a, b) for a in range(count) for b in range(a + 1, count)]
    for pairs in rounds:
        ends = [end for pair in pairs for end in pair]
        assert len(ends) == len(set(ends))
