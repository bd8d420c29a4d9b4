"""A sweep's folder: what is written is what is read, and a damaged file is named."""

from pathlib import Path

import pytest

from cluster.errors import RunError
from cluster.storage import RunPaths
from tuning.ledger import TRIALS, load_ledger, load_settings, save_settings
from tuning.records import Note
from tuning.settings import SweepSettings


def test_what_is_saved_is_what_is_loaded(tmp_path: Path) -> None:
    paths = RunPaths(str(tmp_path), "sweep")
    ledger = load_ledger(paths)
    record = ledger.add("random", {"optim.lr": 0.02, "optim.name": "sgd"}, 3)
    record.curve = {1: 0.1, 10: 0.3}
    record.notes.append(Note(epoch=2, text="a note"))
    ledger.mlflow_run_id = "abc"
    ledger.save()
    loaded = load_ledger(paths)
    assert loaded.records == ledger.records
    assert loaded.mlflow_run_id == "abc"
    assert loaded.records[0].run_names == ["sweep-0000"]


def test_what_ran_when_the_driver_ended_is_interrupted_and_what_ended_stays(tmp_path: Path) -> None:
    ledger = load_ledger(RunPaths(str(tmp_path), "sweep"))
    for state, attempts in (("running", 1), ("pending", 0), ("finished", 1), ("stopped", 1)):
        record = ledger.add("random", {}, 0)
        record.state, record.attempts = state, attempts  # type: ignore[assignment]  # of the loop
    ledger.records[2].epochs = 5
    ledger.reopen(epochs=5)
    states = [record.state for record in ledger.records]
    assert states == ["interrupted", "pending", "finished", "stopped"]


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    paths = RunPaths(str(tmp_path), "sweep")
    paths.write_text(TRIALS, "{")
    with pytest.raises(RunError, match=TRIALS):
        load_ledger(paths)


def test_settings_are_the_same_after_a_round_trip(tmp_path: Path) -> None:
    paths = RunPaths(str(tmp_path), "sweep")
    assert load_settings(paths) is None
    settings = SweepSettings(
        name="sweep",
        space={"optim.lr": {"loguniform": [1e-4, 0.1]}},
        points=({"optim.lr": 0.01},),
    )
    save_settings(paths, settings)
    assert load_settings(paths) == settings


def test_with_more_epochs_to_go_finished_trials_are_open_again_and_stopped_ones_are_not(
    tmp_path: Path,
) -> None:
    ledger = load_ledger(RunPaths(str(tmp_path), "sweep"))
    for state in ("finished", "stopped"):
        record = ledger.add("random", {}, 0)
        record.state, record.attempts, record.epochs = state, 1, 3  # type: ignore[assignment]
    ledger.reopen(epochs=6)
    assert [record.state for record in ledger.records] == ["interrupted", "stopped"]
