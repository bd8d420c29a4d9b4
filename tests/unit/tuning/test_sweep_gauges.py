from pathlib import Path

import pytest

from cluster.storage import RunPaths
from tuning.gauges import SWEEP_GAUGES, SweepGauges
from tuning.ledger import Ledger
from tuning.records import TrialRecord


def trial(number: int, state: str, curve: dict[int, float], training_s: float) -> TrialRecord:
    return TrialRecord(
        number=number, origin="random", values={}, seed=0, state=state, curve=curve,
        training_s=training_s, world_size=2,
    )  # type: ignore[arg-type]  # a State  # fmt: skip


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    records = [
        trial(0, "finished", {1: 0.1, 2: 0.3}, 30.0),
        trial(1, "running", {1: 0.2}, 10.0),
        trial(2, "failed", {1: 0.9}, 0.0),
    ]
    return Ledger(RunPaths(str(tmp_path), "sweep"), records, wall_s=1000.0)


def test_trials_are_counted_in_every_state_that_there_is(ledger: Ledger) -> None:
    readings = SweepGauges(ledger, "max", slots=4).read()
    counts = {r.tags["state"]: r.value for r in readings if r.name == "trainjobs_sweep_trials"}
    assert counts == {
        "pending": 0, "running": 1, "finished": 1, "stopped": 0, "interrupted": 0, "failed": 1,
    }  # fmt: skip


@pytest.mark.parametrize(("mode", "best"), [("max", 0.3), ("min", 0.1)])
def test_the_best_value_is_that_of_a_trial_that_did_not_fail(
    ledger: Ledger, mode: str, best: float
) -> None:
    readings = SweepGauges(ledger, mode, slots=4).read()  # type: ignore[arg-type]  # a Mode
    assert [r.value for r in readings if r.name == "trainjobs_sweep_best"] == [best]


def test_utilization_counts_the_time_of_earlier_launches(ledger: Ledger) -> None:
    readings = SweepGauges(ledger, "max", slots=4).read()
    (used,) = (r.value for r in readings if r.name == "trainjobs_sweep_utilization")
    assert used == pytest.approx(2 * 40.0 / (4 * 1000.0), rel=1e-3)


def test_a_sweep_without_measurements_has_no_best_value(tmp_path: Path) -> None:
    names = {
        reading.name
        for reading in SweepGauges(Ledger(RunPaths(str(tmp_path), "sweep")), "max", slots=4).read()
    }
    assert names == set(SWEEP_GAUGES) - {"trainjobs_sweep_best"}
