import pytest

from cluster.gauges import Reading
from trainjobs.events import EpochDone, GroupStarted, StepProgress
from trainjobs.gauges import RUN_GAUGES, RunGauges
from trainjobs.run_folder import RunRecord

ROW = {
    "epoch": 3.0, "train_loss": 0.5, "train_box": 0.1, "lr": 0.01, "map50_95": 0.25,
    "images_per_second": 100.0, "epoch_s": 8.0,
}  # fmt: skip


def values(gauges: RunGauges) -> dict[str, float]:
    readings = gauges.read()
    assert all(isinstance(reading, Reading) and not reading.tags for reading in readings)
    return {reading.name.removeprefix("trainjobs_"): reading.value for reading in readings}


def test_a_run_that_has_not_begun_shows_no_progress() -> None:
    known = values(RunGauges(RunRecord(), epochs=10))
    assert set(known) == {"epochs_planned", "restarts", "silent_seconds"}
    assert known["restarts"] == 0


def test_epochs_have_the_part_of_the_current_one() -> None:
    gauges = RunGauges(RunRecord(), epochs=10)
    progress = StepProgress(epoch=3, epochs=10, fraction=0.25, loss=0.7, images_per_second=90.0)
    gauges.on_event(progress)
    assert values(gauges)["epoch"] == 2.25
    assert values(gauges)["train_loss"] == 0.7
    gauges.on_event(EpochDone(ROW))
    assert values(gauges)["epoch"] == 3.0
    assert values(gauges)["train_loss"] == 0.5
    assert values(gauges)["map50_95"] == 0.25


def test_every_value_has_a_gauge() -> None:
    gauges = RunGauges(RunRecord(), epochs=10)
    gauges.on_event(GroupStarted(2))
    gauges.on_event(EpochDone({**ROW, "map50": 0.4, "top1": 0.9}))
    assert {reading.name for reading in gauges.read()} == set(RUN_GAUGES)


def test_the_share_of_steps_is_of_the_time_between_two_epochs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 100.0
    monkeypatch.setattr("trainjobs.gauges.time.monotonic", lambda: now)
    gauges = RunGauges(RunRecord(), epochs=10)
    now = 130.0
    gauges.on_event(GroupStarted(2))
    now = 140.0
    gauges.on_event(EpochDone(ROW))  # 8 s of 10
    assert values(gauges)["steps_fraction"] == pytest.approx(0.8)
    now = 156.0
    gauges.on_event(EpochDone(ROW))  # 8 s of 16
    assert values(gauges)["steps_fraction"] == pytest.approx(0.5)
    now = 160.0
    assert values(gauges)["silent_seconds"] == pytest.approx(4.0)


def test_restarts_are_what_the_record_counts_less_the_first_start() -> None:
    record = RunRecord()
    gauges = RunGauges(record, epochs=10)
    for attempts, restarts in ((1, 0), (2, 1), (5, 4)):
        record.attempts = attempts
        assert values(gauges)["restarts"] == restarts
