"""A sweep whose driver is killed or interrupted: the commands a user types, for real."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

pytestmark = [pytest.mark.integration, pytest.mark.slow]

SMALL = (
    "--train.image-size", "64", "--train.data.generated-images", "48",
    "--vary", "optim.lr: {loguniform: [1e-4, 1e-2]}",
)  # fmt: skip
SWEEP = ("--scheduler", "none", "--num-trials", "3", "--epochs", "3", *SMALL)
ASHA = (
    "--scheduler", "asha", "--grace-epochs", "1", "--reduction", "2", "--metric", "train_loss",
    "--num-trials", "4", "--epochs", "4", *SMALL,
)  # fmt: skip
TIMEOUT_S = 400.0


def start_sweep(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tuning.sweep", *arguments],
        cwd=folder,
        env={**os.environ, "TRAINJOBS_CACHE": str(folder / "cache"), "RAY_ADDRESS": "local"},
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=TIMEOUT_S)
    return process.returncode, out, err


def trials(folder: Path, name: str) -> list[dict[str, Any]]:
    file = folder / "runs" / name / "trials.json"
    found: list[dict[str, Any]] = json.loads(file.read_text())["trials"] if file.exists() else []
    return found


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.2)


def table(folder: Path, name: str) -> list[dict[str, str]]:
    """What must not depend on when trials ran."""
    columns = ("trial", "state", "epochs", "map50_95", "best_epoch", "images_per_step", "optim.lr")
    with (folder / "runs" / name / "trials.csv").open() as file:
        return [{column: row[column] for column in columns} for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sweep-survival")


@pytest.fixture(scope="module")
def uninterrupted(folder: Path) -> list[dict[str, str]]:
    code, _, err = finish(start_sweep(folder, *SWEEP, "--name", "whole"))
    assert code == 0, err
    return table(folder, "whole")


def test_a_sweep_whose_driver_is_killed_ends_with_the_same_table(
    folder: Path, uninterrupted: list[dict[str, str]]
) -> None:
    first = start_sweep(folder, *SWEEP, "--name", "killed")
    wait_until(lambda: any(t["epochs"] >= 2 for t in trials(folder, "killed")), first)
    first.kill()
    first.communicate()
    code, out, err = finish(start_sweep(folder, "--resume", "killed"))
    assert code == 0, err
    assert "sweep killed: finished" in out
    assert table(folder, "killed") == uninterrupted


def test_ctrl_c_stops_the_trials_with_checkpoints_and_the_sweep_goes_on(
    folder: Path, uninterrupted: list[dict[str, str]]
) -> None:
    first = start_sweep(folder, *SWEEP, "--name", "cut")
    wait_until(lambda: any(t["epochs"] >= 1 for t in trials(folder, "cut")), first)
    first.send_signal(signal.SIGINT)
    code, out, _ = finish(first)
    assert code == 128 + signal.SIGINT
    assert "--resume cut" in out
    assert {trial["state"] for trial in trials(folder, "cut")} <= {"interrupted", "finished"}
    code, _, err = finish(start_sweep(folder, "--resume", "cut"))
    assert code == 0, err
    assert table(folder, "cut") == uninterrupted


def test_under_asha_a_resumed_sweep_has_the_same_trials_and_the_same_values_at_equal_epochs(
    folder: Path,
) -> None:
    code, _, err = finish(start_sweep(folder, *ASHA, "--name", "asha-whole"))
    assert code == 0, err
    first = start_sweep(folder, *ASHA, "--name", "asha-killed")
    wait_until(lambda: sum(t["epochs"] for t in trials(folder, "asha-killed")) >= 3, first)
    first.kill()
    first.communicate()
    code, _, err = finish(start_sweep(folder, "--resume", "asha-killed"))
    assert code == 0, err
    pairs = list(zip(trials(folder, "asha-whole"), trials(folder, "asha-killed"), strict=True))
    for whole, killed in pairs:
        assert killed["values"] == whole["values"]
        assert {whole["state"], killed["state"]} <= {"finished", "stopped"}
        for epoch in set(whole["curve"]) & set(killed["curve"]):
            assert killed["curve"][epoch] == pytest.approx(whole["curve"][epoch], rel=1e-6)
    decided = [trial for pair in pairs for trial in pair if trial["state"] == "stopped"]
    log = "".join(
        (folder / "runs" / f"asha-{n}" / "sweep.log").read_text() for n in ("whole", "killed")
    )
    assert decided
    assert all(f"trial {t['number']} stopped  at epoch {t['epochs']}/4" in log for t in decided)


def test_a_trial_whose_process_is_killed_starts_again_where_it_was(
    folder: Path, uninterrupted: list[dict[str, str]]
) -> None:
    sweep = start_sweep(folder, *SWEEP, "--name", "trial-killed")
    wait_until(lambda: any(t["epochs"] >= 1 for t in trials(folder, "trial-killed")), sweep)
    victim = next(
        child
        for child in psutil.Process(sweep.pid).children(recursive=True)
        if child.name().startswith("ray::ResourceTr")  # what Tune calls a trial's process
    )
    victim.kill()
    code, _, err = finish(sweep)
    assert code == 0, err
    assert "lost its process, and starts again" in err
    assert table(folder, "trial-killed") == uninterrupted
    assert max(trial["attempts"] for trial in trials(folder, "trial-killed")) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--vary", "optim.speed: {uniform: [0, 1]}"), "optim.speed"),
        (("--vary", "optim.lr: {uniform: [1, 0]}"), "optim.lr"),
        (("--metric", "accuracy"), "accuracy"),
        (("--vary", "optim.lr: {uniform: [0.1, 0.2]}",
          "--vary", "constraints: ['images_per_step <= 1']"), "no trial satisfies"),
        (("--train.num-workers", "64"), "room for"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_message_and_exit_code_2(
    folder: Path, arguments: tuple[str, ...], message: str
) -> None:
    code, out, err = finish(start_sweep(folder, *arguments, "--name", "mistake"))
    errors = [line for line in err.splitlines() if line.startswith("error:")]
    assert code == 2 and len(errors) == 1 and message in err
    assert "Traceback" not in out + err
