"""Real sweeps: trials of two workers on a real Ray cluster, resumed, extended, confirmed."""

import csv
import dataclasses
import json
import sqlite3
from pathlib import Path

import pytest

from cluster.config import ResourceRequest
from cluster.session import Session
from cluster.storage import RunPaths
from trainjobs.config import AugmentConfig, DataConfig, ModelConfig, OptimConfig, TrainConfig
from trainjobs.launch import launch
from trainjobs.run_folder import load_metrics
from tuning.conclusion import SweepResult
from tuning.config import SearchConfig
from tuning.launch import launch_sweep
from tuning.ledger import load_ledger
from tuning.settings import JOB_METRICS, SweepSettings

pytestmark = [
    pytest.mark.integration,
    # Ray's and MLflow's own use of what numpy, Ray Data and sqlalchemy deprecate.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
SPACE = {"optim.lr": {"loguniform": [1e-4, 1e-1]}, "optim.accumulate": {"choice": [1, 2]}}


def make_settings(storage: Path, name: str, search: SearchConfig, epochs: int = 2) -> SweepSettings:
    return SweepSettings(
        name=name,
        search=search,
        space=SPACE,
        train=TrainConfig(
            epochs=epochs,
            batch_size_per_worker=4,
            data=DataConfig(image_size=64, generated_images=24),
            model=ModelConfig(name="yolov5n"),
            augment=AugmentConfig(close_mosaic=1),
            optim=OptimConfig(warmup_micro_batches=1, warmup_min_images=8),
            resources=ResourceRequest(num_workers=2, cpus_per_worker=0.5, storage=str(storage)),
        ),
    )


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sweeps")


@pytest.fixture(scope="module")
def finished(storage: Path, ray_session: Session) -> tuple[SweepSettings, SweepResult]:
    settings = make_settings(storage, "grid", SearchConfig(num_trials=2, scheduler="none"))
    return settings, launch_sweep(settings)


def test_every_trial_is_a_run_of_two_workers_and_the_folder_is_complete(
    storage: Path, finished: tuple[SweepSettings, SweepResult]
) -> None:
    _, result = finished
    assert result.status == "finished"
    assert [trial["state"] for trial in result.trials] == ["finished"] * 2
    folder = storage / "grid"
    for name in (
        "sweep.yaml",
        "trials.json",
        "trials.csv",
        "report.html",
        "best.yaml",
        "sweep.log",
    ):
        assert (folder / name).stat().st_size > 0, name
    assert (folder / "plots" / "curves.png").read_bytes().startswith(b"\x89PNG")
    rows = list(csv.DictReader((folder / "trials.csv").open()))
    assert {row["world_size"] for row in rows} == {"2"}
    assert rows[0]["optim.lr"] == "0.01"  # of the base config, with which the first trial runs
    for trial in result.trials:
        run = json.loads((folder / "trials" / trial["run_name"] / "result.json").read_text())
        assert (run["status"], run["world_size"], run["epochs"]) == ("finished", 2, 2)
    saved = json.loads((folder / "result.json").read_text())
    assert saved["best_value"] == max(trial["map50_95"] for trial in saved["trials"])
    assert 0 < saved["utilization"] < 1


def test_the_trials_are_children_of_the_sweeps_mlflow_run(
    storage: Path, finished: tuple[SweepSettings, SweepResult]
) -> None:
    _, result = finished
    with sqlite3.connect(storage / "mlflow.db") as database:
        children = database.execute(
            "select run_uuid from tags where key = 'mlflow.parentRunId' and value = ?",
            (result.mlflow_run_id,),
        ).fetchall()
    assert {uuid for (uuid,) in children} == {trial["mlflow_run_id"] for trial in result.trials}


def test_the_best_config_is_one_that_a_training_takes(
    storage: Path, finished: tuple[SweepSettings, SweepResult]
) -> None:
    from trainjobs.command_line import parse
    from trainjobs.yolo import DEMO

    settings, result = finished
    command = parse(["--config", str(storage / "grid" / "best.yaml")], "yolo", DEMO)
    best = result.trials[result.best_trial or 0]["values"]
    expected = dataclasses.replace(
        settings.train.optim, **{k.split(".")[1]: v for k, v in best.items()}
    )
    assert command.run.optim == expected
    assert command.run.resources.storage is None
    assert command.run.run_name is None


def test_the_metrics_that_a_sweep_may_name_are_those_that_runs_report(
    storage: Path, finished: tuple[SweepSettings, SweepResult]
) -> None:
    rows = load_metrics(RunPaths(str(storage / "grid" / "trials"), "grid-0000"))
    assert set(JOB_METRICS["yolo"]) <= set(rows[-1])


@pytest.mark.slow
def test_a_finished_sweep_can_be_extended_by_trials_and_epochs(
    storage: Path, finished: tuple[SweepSettings, SweepResult]
) -> None:
    settings, before = finished
    longer = dataclasses.replace(
        settings,
        search=dataclasses.replace(settings.search, num_trials=3),
        train=dataclasses.replace(settings.train, epochs=3),
    )
    result = launch_sweep(longer)
    assert [trial["epochs"] for trial in result.trials] == [3] * 3
    assert [t["values"] for t in result.trials[:2]] == [t["values"] for t in before.trials]
    for trial in result.trials[:2]:  # went on rather than began again: two launches of one run
        record = json.loads(
            (storage / "grid" / "trials" / trial["run_name"] / "record.json").read_text()
        )
        assert record["launches"] == 2


ONE_EPOCH_APART = 0.005
"""Of a loss: what another learning rate changes in three steps; a member that had not learned differs by
0.014 and more."""


@pytest.mark.slow
def test_in_a_population_the_worse_member_goes_on_from_the_better_ones_weights(
    storage: Path, ray_session: Session
) -> None:
    settings = make_settings(
        storage, "pbt", SearchConfig(num_trials=3, scheduler="pbt", perturb_epochs=2), epochs=6
    )
    settings = dataclasses.replace(
        settings,
        # One member cannot learn, so it is the worst one.
        points=({"optim.lr": 1e-5}, {"optim.lr": 1e-3}),
        space={"optim.lr": {"loguniform": [1e-4, 2e-2]}},
        train=dataclasses.replace(
            settings.train,
            resources=dataclasses.replace(settings.train.resources, cpus_per_worker=0.33),
            optim=OptimConfig(
                name="adamw", lr=2e-3, images_per_step=8, warmup_epochs=0, warmup_min_images=0
            ),
        ),
        search=dataclasses.replace(settings.search, metric="train_loss"),
    )
    result = launch_sweep(settings)
    records = load_ledger(RunPaths(str(storage), "pbt")).records
    replaced = [record for record in records if len(record.run_names) > 1]
    assert result.status == "finished" and replaced
    member = replaced[0]
    runs = storage / "pbt" / "trials"
    rows = load_metrics(RunPaths(str(runs), member.run_names[1]))
    donor_rows = load_metrics(RunPaths(str(runs), Path(member.start_from or "").name))
    shared = [row for row, donors in zip(rows, donor_rows, strict=False) if row == donors]
    assert shared  # the donor's history is the member's own
    epoch = len(shared)
    assert rows[epoch]["optimizer_steps"] > shared[-1]["optimizer_steps"]
    # Epochs differ in what they show, by more than is learned here: so compare like with like.
    own, donors = (found[epoch]["train_loss"] for found in (rows, donor_rows))
    assert own == pytest.approx(donors, rel=ONE_EPOCH_APART)


@pytest.mark.slow
def test_the_winner_is_judged_by_fresh_seeds_and_trained_again(
    storage: Path, ray_session: Session
) -> None:
    search = SearchConfig(num_trials=2, scheduler="asha", confirm="1x2", retrain_epochs=2)
    result = launch_sweep(make_settings(storage, "confirmed", search, epochs=1))
    confirmed = [trial for trial in result.trials if trial["origin"] == "confirm"]
    assert {trial["seed"] for trial in confirmed} == {1000, 2000}
    assert result.standings and all(standing["n"] == 2 for standing in result.standings)
    assert sum(standing["p_best"] for standing in result.standings) == pytest.approx(1.0)
    run = json.loads((Path(result.retrained or "") / "result.json").read_text())
    assert (run["run_name"], run["epochs"]) == ("confirmed-best", 2)


@pytest.mark.slow
def test_a_run_that_starts_from_another_keeps_its_history(
    storage: Path, finished: tuple[SweepSettings, SweepResult]
) -> None:
    settings, _ = finished
    donor = storage / "grid" / "trials" / "grid-0000"
    epochs = len(load_metrics(RunPaths(str(donor.parent), donor.name)))
    config = dataclasses.replace(
        settings.train,
        run_name="forked",
        epochs=epochs + 1,
        checkpoint=dataclasses.replace(settings.train.checkpoint, start_from=str(donor)),
    )
    result = launch(config)
    assert (result.status, result.epochs, result.best_epoch) == ("finished", epochs + 1, epochs + 1)
