"""What a run's folder holds, and that it comes back as it was written."""

import json
from pathlib import Path

import pytest

from cluster.errors import RunError
from cluster.storage import RunPaths
from tests.builders import make_config
from trainjobs.checkpoint import MANIFEST, STATE, TrainState, save_checkpoint
from trainjobs.resolve import resolve_launch
from trainjobs.run_folder import (
    CHECKPOINTS,
    CONFIG,
    METRICS,
    RECORD,
    RESULT,
    RunRecord,
    RunResult,
    attempt_name,
    list_checkpoints,
    load_config,
    load_record,
    load_result,
    save_config,
    save_metrics,
    save_record,
    save_result,
)


@pytest.fixture
def paths(tmp_path: Path) -> RunPaths:
    return RunPaths(str(tmp_path), "run")


def test_a_new_run_has_nothing_yet(paths: RunPaths) -> None:
    assert load_config(paths) is None
    assert load_result(paths) is None
    assert load_record(paths) == RunRecord()
    assert list_checkpoints(paths) == []


def test_a_resolved_config_comes_back(paths: RunPaths) -> None:
    config = resolve_launch(
        make_config({"run_name": "a-b", "resources.num_workers": "1:2", "optim.lr": 1e-3}),
        world_size=2,
    )
    save_config(paths, config)
    assert load_config(paths) == config


def test_a_record_comes_back(paths: RunPaths) -> None:
    record = RunRecord(launches=2, attempts=3, wall_s=1.5, mlflow_run_id="m", tracked_epochs=4)
    save_record(paths, record)
    assert load_record(paths) == record


def test_a_result_comes_back_and_is_json_that_others_can_read(paths: RunPaths) -> None:
    result = RunResult(
        status="finished",
        run_name="run",
        mlflow_run_id=None,
        seed=0,
        world_size=2,
        images_per_step=64,
        epochs=3,
        best_epoch=2,
        optimizer_steps=30,
        attempts=1,
        images_per_second=99.5,
        wall_s=12.0,
        metrics={"map50_95": 0.4},
    )
    save_result(paths, result)
    assert load_result(paths) == result
    assert json.loads(paths.read_text(RESULT))["metrics"] == {"map50_95": 0.4}


@pytest.mark.parametrize(("name", "load"), [(RECORD, load_record), (RESULT, load_result)])
def test_a_damaged_file_is_an_error_that_names_it(paths: RunPaths, name: str, load: object) -> None:
    paths.write_text(name, '{"launches": 1')
    with pytest.raises(RunError, match=f"{name} is damaged"):
        load(paths)


def test_metrics_have_a_row_per_epoch_and_leave_what_was_not_measured_empty(
    paths: RunPaths,
) -> None:
    save_metrics(paths, [{"epoch": 1, "lr": 0.5}, {"epoch": 2, "lr": 0.25, "map50": 0.125}])
    assert paths.read_text(METRICS) == "epoch,lr,map50\n1,0.5,\n2,0.25,0.125\n"


def make_checkpoint(paths: RunPaths, launch: int, epoch: int, step: int = 0) -> str:
    relative = f"{CHECKPOINTS}/{attempt_name(launch)}/epoch-{epoch:04d}-{step}"
    folder = paths.local(f"{relative}/x").parent
    save_checkpoint(folder, TrainState(epoch=epoch, step=step), {})
    return relative


def test_checkpoints_are_listed_from_the_most_advanced_whichever_launch_wrote_them(
    paths: RunPaths,
) -> None:
    places = [(1, 2, 0), (1, 10, 0), (2, 9, 5), (2, 9, 40), (3, 10, 3)]
    made = {place: make_checkpoint(paths, *place) for place in places}
    order = [(3, 10, 3), (1, 10, 0), (2, 9, 40), (2, 9, 5), (1, 2, 0)]
    assert list_checkpoints(paths) == [made[place] for place in order]


@pytest.mark.parametrize("missing", [MANIFEST, STATE])
def test_an_incomplete_checkpoint_is_not_listed(paths: RunPaths, missing: str) -> None:
    whole, broken = make_checkpoint(paths, 1, 1), make_checkpoint(paths, 1, 2)
    paths.delete(f"{broken}/{missing}")
    assert list_checkpoints(paths) == [whole]


@pytest.mark.parametrize("damage", ['{"epoch": 2, "st', "[]", "{}"])
def test_a_checkpoint_with_a_damaged_state_is_not_listed(paths: RunPaths, damage: str) -> None:
    whole, broken = make_checkpoint(paths, 1, 1), make_checkpoint(paths, 1, 2)
    paths.write_text(f"{broken}/{STATE}", damage)
    assert list_checkpoints(paths) == [whole]


def test_files_beside_the_checkpoints_are_not_taken_for_one(paths: RunPaths) -> None:
    paths.write_text(f"{CHECKPOINTS}/{attempt_name(1)}/checkpoint_manager_snapshot.json", "{}")
    assert list_checkpoints(paths) == []


def test_the_config_is_yaml_for_people(paths: RunPaths) -> None:
    save_config(paths, make_config())
    assert paths.read_text(CONFIG).startswith("epochs: 100\n")
