"""argv -> the settings of a sweep, new or going on."""

from pathlib import Path

import pytest

from cluster.errors import ConfigError, RunError
from cluster.storage import RunPaths
from tuning.command_line import parse
from tuning.ledger import save_settings
from tuning.settings import SweepSettings
from tuning.sweep import DEMOS


def settings_of(*argv: str, folder: Path) -> SweepSettings:
    return parse([*argv, "--storage", str(folder)], DEMOS, "new-name")[0]


@pytest.fixture
def saved(tmp_path: Path) -> SweepSettings:
    settings = settings_of("--name", "s", folder=tmp_path)
    save_settings(RunPaths(str(tmp_path), "s"), settings)
    return settings


def test_trials_take_the_jobs_options_behind_train_in_short_and_in_full(tmp_path: Path) -> None:
    settings = settings_of(
        "--train.data", "somewhere", "--train.model=yolov5s", "--train.optim.lr", "0.5",
        "--train.num-workers", "3", folder=tmp_path,
    )  # fmt: skip
    train = settings.train
    assert train.data.source == str(Path("somewhere").absolute())
    assert (train.model.name, train.optim.lr) == ("yolov5s", 0.5)
    assert train.resources.num_workers == 3
    assert train.epochs == 100  # with data, the demo's settings do not count


def test_without_data_the_trials_are_the_demo(tmp_path: Path) -> None:
    assert (
        settings_of(folder=tmp_path).train.data.image_size == DEMOS["yolo"].config.data.image_size
    )


def test_the_job_decides_what_trials_train_with(tmp_path: Path) -> None:
    settings = settings_of("--job", "classify", folder=tmp_path)
    assert settings.train.model == DEMOS["classify"].config.model
    assert (settings.job, settings.metric) == ("classify", "top1")
    settings = settings_of("--job=classify", "--train.data", "somewhere", folder=tmp_path)
    assert settings.train.optim == DEMOS["classify"].defaults.optim


def test_a_flag_of_torchrun_is_answered_behind_train_too(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--num-workers"):
        settings_of("--train.nnodes", "2", folder=tmp_path)


def test_a_space_comes_from_a_file_and_from_the_command_line(tmp_path: Path) -> None:
    file = tmp_path / "space.yaml"
    file.write_text("optim.lr: {loguniform: [1e-4, 1e-1]}\n")
    settings = settings_of(
        "--space", str(file), "--vary", "optim.momentum: {uniform: [0.8, 0.9]}",
        "--vary", "constraints: ['images_per_step <= 64']", folder=tmp_path,
    )  # fmt: skip
    assert list(settings.space) == ["optim.lr", "optim.momentum", "constraints"]


def test_the_trials_have_no_name_of_their_own(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--name"):
        settings_of("--train.run-name", "x", folder=tmp_path)


def test_a_name_that_stands_wants_resume_or_extend(tmp_path: Path, saved: SweepSettings) -> None:
    with pytest.raises(RunError, match="--resume s"):
        settings_of("--name", "s", folder=tmp_path)


def test_resume_takes_the_saved_settings(tmp_path: Path, saved: SweepSettings) -> None:
    assert settings_of("--resume", "s", folder=tmp_path) == saved


def test_resume_may_change_what_changes_no_trial(tmp_path: Path, saved: SweepSettings) -> None:
    settings = settings_of("--resume", "s", "--max-concurrent", "1", folder=tmp_path)
    assert settings.search.max_concurrent == 1


def test_resume_names_every_setting_that_differs(tmp_path: Path, saved: SweepSettings) -> None:
    with pytest.raises(RunError, match=r"train\.optim\.lr.*\n.*|search\.num_trials"):
        settings_of("--resume", "s", "--train.optim.lr", "9", "--num-trials", "9", folder=tmp_path)


def test_extend_adds_trials_and_multiplies_epochs(tmp_path: Path, saved: SweepSettings) -> None:
    settings = settings_of(
        "--extend", "s", "--num-trials", "+10", "--epochs", "2x", folder=tmp_path
    )
    assert settings.num_trials == saved.num_trials + 10
    assert settings.train.epochs == 2 * saved.train.epochs


def test_a_sweep_that_is_not_there_is_named_with_the_storage(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=f"no sweep nothing in {tmp_path}"):
        settings_of("--resume", "nothing", folder=tmp_path)
