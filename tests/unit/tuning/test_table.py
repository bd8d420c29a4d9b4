import csv
import math
from typing import Any

import pytest

from tuning.records import State, TrialRecord
from tuning.table import short_names, trial_lines, trials_csv, utilization

LR, DECAY, SCHEDULE = "optim.lr", "optim.weight_decay", "optim.schedule"


def make_record(number: int, score: float | None = None, **changes: Any) -> TrialRecord:
    settings: dict[str, Any] = {
        "origin": "random",
        "values": {LR: 0.0123456},
        "seed": number,
        "state": "finished",
        "epochs": 9,
        "curve": {} if score is None else {9: score},
        "images_per_step": 64,
        "weight_decay_in_force": 0.0005,
    }
    return TrialRecord(number=number, **{**settings, **changes})


def make_many(state: State) -> list[TrialRecord]:
    return [make_record(number, number / 1000, state=state) for number in range(200)]


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(text.splitlines()))


def test_a_row_shows_state_epoch_metric_and_what_is_in_force() -> None:
    lines = trial_lines([make_record(3, 0.41237)], [LR], "map50_95", "max", 9)

    assert lines[0].split() == [
        *("trial", "state", "epoch", "best", "map50_95"),
        *("images/step", "decay", "in", "force", "lr"),
    ]
    assert lines[1].split() == ["3", "best", "finished", "9/9", "0.4124", "64", "0.0005", "0.01235"]


def test_columns_are_aligned_and_numbers_end_below_their_header() -> None:
    records = [make_record(0, 0.5, origin="default"), make_record(10, state="pending", epochs=0)]

    header, *rows = trial_lines(records, [LR], "map50", "max", 9)

    assert {len(line) for line in (header, *rows)} == {len(header)}
    assert [row.index("/9") + 2 for row in rows] == [header.index("epoch") + 5] * 2


def test_the_base_trial_shows_what_the_base_config_gives() -> None:
    base = make_record(0, 0.5, origin="default", values={}, implied={LR: 0.01})
    (_, row) = trial_lines([base], [LR], "map50", "max", 9)
    assert row.split()[-1] == "0.01"
    assert rows_of(trials_csv([base], [LR], "map50", "max"))[0][LR] == "0.01"


@pytest.mark.parametrize(("mode", "best"), [("max", "1 best"), ("min", "0 best")])
def test_the_best_trial_is_marked_by_the_mode(mode: Any, best: str) -> None:
    lines = trial_lines([make_record(0, 0.1), make_record(1, 0.2)], [LR], "score", mode, 9)

    assert [line[:6] for line in lines if "best " in line][1:] == [best]


def test_a_metric_that_is_not_a_number_is_never_the_best() -> None:
    records = [make_record(0, math.nan), make_record(1, 0.2)]

    lines = trial_lines(records, [LR], "score", "max", 9)

    assert lines[1].split()[3] == "-"
    assert lines[2].startswith("1 best")


def test_a_repeat_and_a_failed_trial_are_never_the_best() -> None:
    records = [make_record(0, 0.2), make_record(1, 0.9, origin="confirm")]
    records.append(make_record(2, 0.9, state="failed"))

    lines = trial_lines(records, [LR], "score", "max", 9)

    assert [line[:9].strip() for line in lines[1:]] == ["0 best", "1 confirm", "2"]


def test_a_long_table_shows_the_base_the_best_the_running_and_a_count() -> None:
    records = make_many("finished")
    records[0].origin = "default"
    records[7].state = "running"
    records[8].state = "pending"

    lines = trial_lines(records, [LR], "score", "max", 9)

    assert len(lines) == 22
    assert [line.split()[0] for line in lines[1:4]] == ["0", "199", "198"]
    assert lines[-2].split()[:2] == ["7", "running"]
    assert lines[-1] == "and 180 more: 179 finished, 1 pending"


def test_a_long_table_of_running_trials_stays_short() -> None:
    assert len(trial_lines(make_many("running"), [LR], "score", "max", 9)) <= 22


def test_the_table_stays_narrow_and_names_the_settings_that_do_not_fit() -> None:
    paths = [f"augment.a_setting_with_a_long_name_{number}" for number in range(12)]
    record = make_record(0, 0.5, values=dict.fromkeys(paths, "text\nof  several lines"))

    lines = trial_lines([record], paths, "map50_95", "max", 100)

    assert all(len(line) <= 120 for line in lines[:2])
    assert len(lines) == 3  # no value breaks its row
    assert lines[2].endswith("a_setting_with_a_long_name_11")


def test_no_trial_gives_a_header_alone() -> None:
    assert len(trial_lines([], [LR], "map50", "max", 9)) == 1


def test_the_epochs_of_a_retraining_are_not_counted_against_the_search_s() -> None:
    record = make_record(5, 0.5, origin="retrain", epochs=30)

    assert " 30 " in trial_lines([record], [LR], "map50", "max", 9)[1]


def test_a_short_name_is_the_shortest_ending_that_no_other_path_has() -> None:
    names = short_names(["optim.lr", "loss.box", "data.box", "box"])

    assert list(names.values()) == ["lr", "loss.box", "data.box", "box"]


def test_the_csv_has_full_precision_and_the_metric_s_name() -> None:
    record = make_record(3, 0.123456789, run_names=["old", "new"])

    (row,) = rows_of(trials_csv([record], [LR, DECAY], "map50_95", "max"))

    assert row["map50_95"] == "0.123456789"
    assert (row["best_epoch"], row[LR], row[DECAY]) == ("9", "0.0123456", "")
    assert (row["run_name"], row["origin"], row["startup_s"]) == ("new", "random", "")


def test_the_csv_survives_text_flags_and_lists() -> None:
    values = {LR: True, DECAY: [1, 2], SCHEDULE: 'a,"b"\nc'}
    record = make_record(0, None, values=values)

    text = trials_csv([record], [LR, DECAY, SCHEDULE], "map50", "max")
    _, row = csv.reader(text.splitlines(keepends=True))

    assert row[-4:] == ["true", "[1, 2]", 'a,"b"\nc', ""]


def test_the_csv_holds_each_trial_s_best_value_by_the_mode() -> None:
    record = make_record(0, curve={1: 3.0, 2: 1.0, 3: 2.0})

    (row,) = rows_of(trials_csv([record], [], "val_loss", "min"))

    assert (row["val_loss"], row["best_epoch"]) == ("1.0", "2")


def test_utilization_is_worker_time_in_steps_over_worker_time() -> None:
    records = [make_record(0, world_size=2, training_s=10), make_record(1, world_size=1)]

    assert utilization(records, slots_worker_seconds=80) == 0.25


@pytest.mark.parametrize(("slots", "share"), [(0.0, 0.0), (5.0, 1.0)])
def test_utilization_stays_between_0_and_1(slots: float, share: float) -> None:
    records = [make_record(0, world_size=2, training_s=10)]

    assert utilization(records, slots_worker_seconds=slots) == share
