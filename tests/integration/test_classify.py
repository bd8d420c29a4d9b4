"""Real runs of the second job: two workers over gloo, generated thumbnails, weights measured again."""

import csv
import dataclasses
import json
from pathlib import Path

import pytest

from cluster.config import ResourceRequest
from cluster.errors import DatasetError
from cluster.session import Session
from tests.logging_state import logging_as_it_was
from trainjobs.classify import DEMO
from trainjobs.config import DataConfig, TrainConfig
from trainjobs.data.generated.shapes import generate_shapes
from trainjobs.launch import launch
from trainjobs.run_folder import RunResult
from trainjobs.validate import main as validate
from tuning.config import SearchConfig
from tuning.launch import launch_sweep
from tuning.settings import SweepSettings

pytestmark = [
    pytest.mark.integration,
    # Ray's and MLflow's own use of what numpy, Ray Data and sqlalchemy deprecate.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
SAME_CURVE_TOLERANCE = 1e-3
"""As in test_training.py: float32 gradients are summed in another order by one rank than by two."""


def make_config(storage: Path, name: str, *, num_workers: int) -> TrainConfig:
    return dataclasses.replace(
        DEMO.config,
        run_name=name,
        epochs=2,
        batch_size_per_worker=32,
        data=dataclasses.replace(DEMO.config.data, generated_images=256),
        # Steps of two micro-batches from the first on: warmup would begin with one on one worker.
        optim=dataclasses.replace(
            DEMO.config.optim, images_per_step=64, warmup_epochs=0.0, warmup_min_images=0
        ),
        resources=ResourceRequest(num_workers=num_workers, storage=str(storage)),
    )


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def two_workers(storage: Path, ray_session: Session) -> RunResult:
    return launch(make_config(storage, "two", num_workers=2), job="classify")


def read_metrics(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_classifier_leaves_a_complete_run_folder(two_workers: RunResult, storage: Path) -> None:
    folder = storage / "two"
    result = json.loads((folder / "result.json").read_text())
    assert result["status"] == "finished" and result["world_size"] == 2
    assert result["metrics"].keys() == {"top1", "top5"}
    rows = read_metrics(folder)
    assert len(rows) == 2 and {"train_loss", "train_top1", "top1", "top5", "lr"} <= rows[0].keys()
    for name in ("plots/history.png", "plots/confusion.png", "plots/class_accuracy.png"):
        assert (folder / name).stat().st_size > 0, name


def test_two_workers_train_as_one_does(two_workers: RunResult, storage: Path) -> None:
    launch(make_config(storage, "one", num_workers=1), job="classify")
    rows = list(zip(read_metrics(storage / "one"), read_metrics(storage / "two"), strict=True))
    first, second = (float(one["train_loss"]) for one, _ in rows)
    assert first - second > 10 * SAME_CURVE_TOLERANCE * first  # it learns
    for one, two in rows:
        assert one["optimizer_steps"] == two["optimizer_steps"]
        assert float(one["train_loss"]) == pytest.approx(
            float(two["train_loss"]), rel=SAME_CURVE_TOLERANCE
        )


def test_validate_gives_the_figures_that_training_reported(
    two_workers: RunResult, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRAINJOBS_CACHE", str(cache))
    output = tmp_path / "out"
    with logging_as_it_was():
        assert validate(["--weights", two_workers.weights["best"], "--output", str(output)]) == 0
    assert json.loads((output / "result.json").read_text())["metrics"] == two_workers.metrics


def test_the_images_are_decoded_once_for_both_ranks(two_workers: RunResult, cache: Path) -> None:
    decoded = list(cache.glob("prepared/decoded-*px/images.npy"))
    assert len(decoded) == 2  # of the training and of the validation split


def test_a_dataset_for_detection_is_refused_before_any_worker_starts(
    storage: Path, tmp_path: Path, ray_session: Session
) -> None:
    generate_shapes(tmp_path, num_train=4, num_val=2, image_size=64, seed=0)
    config = dataclasses.replace(
        make_config(storage, "refused", num_workers=2), data=DataConfig(source=str(tmp_path))
    )
    with pytest.raises(DatasetError, match="one class per image"):
        launch(config, job="classify")
    assert not (storage / "refused" / "metrics.csv").exists()


def test_a_sweep_searches_over_classifiers(storage: Path, ray_session: Session) -> None:
    train = make_config(storage, "unused", num_workers=2)
    result = launch_sweep(
        SweepSettings(
            name="sweep",
            job="classify",
            search=SearchConfig(num_trials=2, scheduler="none"),
            space={"optim.lr": {"loguniform": [1e-2, 1e-1]}},
            train=dataclasses.replace(
                train,
                run_name=None,
                resources=dataclasses.replace(train.resources, cpus_per_worker=0.5),
            ),
        )
    )
    assert (result.status, result.metric, len(result.trials)) == ("finished", "top1", 2)
    assert result.best_value is not None and 0 <= result.best_value <= 1
