"""What a user gets wrong: one message on stderr, exit code 2, no traceback, nothing left behind."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

DATA_YAML = "path: .\ntrain: images\nval: images\n"


def run_yolo(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "RAY_ADDRESS": "local",
        "TRAINJOBS_CACHE": str(cwd / "cache"),
        "COLUMNS": "200",
    }
    return subprocess.run(
        [sys.executable, "-m", "trainjobs.yolo", *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def assert_mistake(done: subprocess.CompletedProcess[str], *words: str) -> None:
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr, done.stderr


def test_a_missing_data_path_is_given_in_full(tmp_path: Path) -> None:
    assert_mistake(run_yolo("--data", "nowhere", cwd=tmp_path), str(tmp_path / "nowhere"))


def test_a_data_yaml_without_names_is_named(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "data.yaml").write_text(DATA_YAML)
    assert_mistake(run_yolo("--data", "data.yaml", cwd=tmp_path), "data.yaml", "names")


def test_an_unknown_model_gets_the_list_of_models(tmp_path: Path) -> None:
    assert_mistake(run_yolo("--model", "yolov9", cwd=tmp_path), "yolov9", "yolov5n6")


def test_an_unknown_config_key_gets_the_nearest_one(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("optim: {learning_rte: 0.1}\n")
    assert_mistake(run_yolo("--config", "run.yaml", cwd=tmp_path), "run.yaml", "learning_rte")


def test_an_unknown_flag_is_named(tmp_path: Path) -> None:
    assert_mistake(run_yolo("--optim.lrr", "0.1", cwd=tmp_path), "--optim.lrr")


def test_an_image_size_off_the_stride_gets_the_nearest_that_works(tmp_path: Path) -> None:
    assert_mistake(run_yolo("--image-size", "250", cwd=tmp_path), "32", "250", "256")


@pytest.mark.skipif(os.geteuid() != 0 and not Path("/proc").exists(), reason="needs /proc")
def test_an_unwritable_storage_is_named(tmp_path: Path) -> None:
    assert_mistake(run_yolo("--storage", "/proc/runs", cwd=tmp_path), "/proc/runs")


def test_more_workers_than_the_cluster_holds_says_what_it_has(tmp_path: Path) -> None:
    done = run_yolo("--num-workers", "4096", cwd=tmp_path)
    assert_mistake(done, "4096", "CPUs")
    assert not list((tmp_path / "runs").glob("*/config.yaml"))
