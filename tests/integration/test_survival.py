"""A run that is killed or interrupted: the commands a user types, for real."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.integration, pytest.mark.slow]

SMALL = (
    "--epochs", "5", "--image-size", "64", "--data.generated-images", "48",
    "--batch-size-per-worker", "8",
)  # fmt: skip
START_TIMEOUT_S = 300.0
SAME_NUMBERS = ("optimizer_steps", "lr", "train_loss", "train_box", "train_obj", "train_cls")


def environment(folder: Path, **extra: str) -> dict[str, str]:
    return {**os.environ, "TRAINJOBS_CACHE": str(folder / "cache"), **extra}


def start_yolo(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "trainjobs.yolo", *SMALL, *arguments],
        cwd=folder,
        env=environment(folder, RAY_ADDRESS="local"),
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def wait_for_line(process: subprocess.Popen[str], pattern: str) -> list[str]:
    """Read the log until a line matches; all lines so far."""
    assert process.stderr is not None
    lines: list[str] = []
    deadline = time.monotonic() + START_TIMEOUT_S
    for line in process.stderr:
        lines.append(line)
        if re.search(pattern, line):
            return lines
        if time.monotonic() > deadline:
            break
    raise AssertionError(f"no line like {pattern!r}:\n{''.join(lines)}")


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=START_TIMEOUT_S)
    return process.returncode, out, err


def read_metrics(folder: Path, run: str) -> list[dict[str, str]]:
    with (folder / "runs" / run / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def assert_same_curve(mine: list[dict[str, str]], theirs: list[dict[str, str]]) -> None:
    assert len(mine) == len(theirs)
    for row, other in zip(mine, theirs, strict=True):
        assert {key: row[key] for key in SAME_NUMBERS} == {key: other[key] for key in SAME_NUMBERS}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("survival")


@pytest.fixture(scope="module")
def uninterrupted(folder: Path) -> list[dict[str, str]]:
    code, _, err = finish(start_yolo(folder, "--run-name", "whole"))
    assert code == 0, err
    return read_metrics(folder, "whole")


def test_a_killed_driver_goes_on_in_the_same_mlflow_run_with_the_same_curve(
    folder: Path, uninterrupted: list[dict[str, str]]
) -> None:
    first = start_yolo(folder, "--run-name", "killed")
    wait_for_line(first, r"epoch 3/5  box")
    first.kill()
    first.communicate()
    before = json.loads((folder / "runs" / "killed" / "record.json").read_text())

    code, out, err = finish(start_yolo(folder, "--run-name", "killed"))
    assert code == 0, err
    assert "continuing after epoch" in err
    assert "finished after 5 epochs" in out
    result = json.loads((folder / "runs" / "killed" / "result.json").read_text())
    assert result["mlflow_run_id"] == before["mlflow_run_id"]
    assert result["attempts"] == 2
    assert_same_curve(read_metrics(folder, "killed"), uninterrupted)

    code, out, err = finish(start_yolo(folder, "--run-name", "killed"))
    assert code == 0
    assert "nothing to do" in err


def test_ctrl_c_leaves_a_checkpoint_and_the_run_goes_on_from_it(
    folder: Path, uninterrupted: list[dict[str, str]]
) -> None:
    first = start_yolo(folder, "--run-name", "interrupted")
    wait_for_line(first, r"epoch 2/5  box")
    first.send_signal(signal.SIGINT)
    code, out, err = finish(first)
    assert code == 130, err
    assert "go on with the same command and --run-name interrupted" in out
    assert "Traceback" not in err

    code, _, err = finish(start_yolo(folder, "--run-name", "interrupted"))
    assert code == 0, err
    assert_same_curve(read_metrics(folder, "interrupted"), uninterrupted)


def test_two_processes_cannot_train_under_one_name(folder: Path) -> None:
    first = start_yolo(folder, "--run-name", "taken")
    try:
        wait_for_line(first, r"starting Ray")
        code, _, err = finish(start_yolo(folder, "--run-name", "taken"))
        assert code == 2
        assert str(first.pid) in err
        assert "Traceback" not in err
    finally:
        first.kill()
        first.communicate()
