import dataclasses
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cluster.errors import RunError
from cluster.lease import LEASE, STALE_AFTER_S, Holder, hold_lease, process_start, read_lease
from cluster.storage import RunPaths

HOLD = """
import sys, time
from cluster.errors import RunError
from cluster.lease import hold_lease
from cluster.storage import RunPaths
print("ready", flush=True)
sys.stdin.readline()
try:
    with hold_lease(RunPaths(sys.argv[1], "run")):
        print("won", flush=True)
        sys.stdin.readline()
except RunError:
    print("lost", flush=True)
"""


@pytest.fixture(params=["local", "remote"])
def paths(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> RunPaths:
    monkeypatch.setattr("cluster.lease.SETTLE_S", 0.0)
    storage = str(tmp_path) if request.param == "local" else f"mock://{tmp_path.name}/runs"
    return RunPaths(storage, "run")


def start_holder(storage: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", HOLD, str(storage)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def say(process: "subprocess.Popen[str]") -> None:
    assert process.stdin
    process.stdin.write("\n")
    process.stdin.flush()


def hear(process: "subprocess.Popen[str]") -> str:
    assert process.stdout
    return process.stdout.readline().strip()


def leave(paths: RunPaths, holder: Holder) -> None:
    paths.write_text(LEASE, json.dumps(dataclasses.asdict(holder)))


def elsewhere(*, age_s: float) -> Holder:
    """A holder on another machine that renewed its lease some seconds ago."""
    mine = Holder.this_process()
    return dataclasses.replace(
        mine, host="far", pid=7, machine="another", renewed_at=time.time() - age_s
    )


def test_a_held_run_is_free_again_afterwards(paths: RunPaths) -> None:
    for _ in range(2):
        with hold_lease(paths):
            assert paths.exists(LEASE)
        assert not paths.exists(LEASE)


def test_a_held_run_is_refused_naming_host_pid_and_age(paths: RunPaths) -> None:
    with hold_lease(paths):
        holder = read_lease(paths)
        assert holder
        expected = f"process {holder.pid} on {holder.host} holds it .lease renewed 0 s ago"
        with pytest.raises(RunError, match=expected), hold_lease(paths):
            pass
        assert read_lease(paths) == holder


def test_two_runs_do_not_disturb_each_other(tmp_path: Path) -> None:
    with hold_lease(RunPaths(str(tmp_path), "a")), hold_lease(RunPaths(str(tmp_path), "b")):
        pass


def test_the_lease_of_another_machine_counts_while_it_is_renewed(paths: RunPaths) -> None:
    leave(paths, elsewhere(age_s=STALE_AFTER_S - 5))
    with pytest.raises(RunError, match="process 7 on far"), hold_lease(paths):
        pass
    leave(paths, elsewhere(age_s=STALE_AFTER_S + 1))
    with hold_lease(paths):
        pass


def test_a_pid_that_another_process_has_taken_over_holds_nothing(paths: RunPaths) -> None:
    mine = Holder.this_process()
    leave(paths, dataclasses.replace(mine, started=mine.started - 1))
    with hold_lease(paths):
        pass


@pytest.mark.parametrize("text", ["", "{", "[]", '{"token": "x"}'])
def test_a_damaged_lease_is_replaced(paths: RunPaths, text: str) -> None:
    paths.write_text(LEASE, text)
    with hold_lease(paths):
        assert read_lease(paths)


def test_a_lease_is_renewed_and_a_lost_one_is_noticed_and_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.lease.RENEW_INTERVAL_S", 0.02)
    paths = RunPaths(str(tmp_path), "run")
    with hold_lease(paths) as lease:
        first = read_lease(paths)
        deadline = time.monotonic() + 5
        while read_lease(paths) == first and time.monotonic() < deadline:
            time.sleep(0.01)
        second = read_lease(paths)
        assert first and second and second.renewed_at > first.renewed_at
        other = elsewhere(age_s=0)
        while not lease.lost.wait(0.01) and time.monotonic() < deadline:
            leave(paths, other)
        assert lease.lost.is_set()
    leave(paths, other)
    assert read_lease(paths) == other


def test_a_killed_holder_is_taken_over_at_once(tmp_path: Path) -> None:
    with start_holder(tmp_path) as process:
        assert hear(process) == "ready"
        say(process)
        assert hear(process) == "won"
        paths = RunPaths(str(tmp_path), "run")
        with pytest.raises(RunError, match=f"process {process.pid} "), hold_lease(paths):
            pass
        process.kill()
        process.wait()
        with hold_lease(paths):
            pass


def test_of_racing_processes_exactly_one_wins(tmp_path: Path) -> None:
    leave(RunPaths(str(tmp_path), "run"), elsewhere(age_s=STALE_AFTER_S + 1))
    racers = [start_holder(tmp_path) for _ in range(3)]
    for process in racers:
        assert hear(process) == "ready"
    for process in racers:
        say(process)
    assert sorted(map(hear, racers)) == ["lost", "lost", "won"]
    for process in racers:
        process.communicate("\n")


def test_a_process_that_is_gone_has_no_start() -> None:
    with subprocess.Popen(["true"]) as process:
        process.wait()
    assert process_start(process.pid) is None
    assert process_start(1)
