"""`python -m cluster doctor` on a machine without a cluster, as a user types it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration


def doctor(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cluster", "doctor", *options],
        cwd=folder,
        env=os.environ | {"RAY_ADDRESS": "local", "MLFLOW_TRACKING_URI": ""},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def test_one_machine_is_looked_over_and_nothing_is_left_behind(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "image.jpg").write_bytes(bytes(1000))
    done = doctor(tmp_path, "--json", "--data", "data", "--num-workers", "2",
                  "--cpus-per-worker", "0.5")  # fmt: skip
    answer = json.loads(done.stdout)
    assert set(answer) == {"ok", "checks"}
    for check in answer["checks"]:
        assert set(check) == {"name", "host", "verdict", "value", "remedy"}
        assert check["verdict"] in ("ok", "warn", "fail", "skip")
    verdicts = {check["name"]: check["verdict"] for check in answer["checks"]}
    passed = {name for name, verdict in verdicts.items() if verdict == "ok"}
    assert passed >= {"connection", "authentication", "workers", "torch", "storage", "data"}
    assert (verdicts["links"], verdicts["tracking"]) == ("skip", "skip")
    assert done.returncode == (0 if answer["ok"] else 1)
    assert list((tmp_path / "runs").iterdir()) == []


@pytest.mark.slow
def test_a_dry_run_of_a_job_tells_its_speed_and_memory_and_leaves_nothing(tmp_path: Path) -> None:
    job = (sys.executable, "-m", "trainjobs.yolo", "--num-workers", "2")
    done = doctor(tmp_path, "--json", "--num-workers", "2", "--cost-per-hour", "3", "--", *job)
    checks = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    assert checks["dry run"]["value"].startswith("20 steps in ")
    assert "images/s; an epoch of 640 images trains for" in checks["dry run: speed"]["value"]
    assert "GiB" in checks["dry run: memory"]["value"]
    assert list((tmp_path / "runs").iterdir()) == []


@pytest.mark.slow
def test_a_job_that_makes_a_mistake_fails_the_dry_run_with_its_message(tmp_path: Path) -> None:
    done = doctor(tmp_path, "--json", "--", sys.executable, "-m", "trainjobs.yolo", "--data", "no")
    (check,) = [c for c in json.loads(done.stdout)["checks"] if c["name"] == "dry run"]
    assert done.returncode == 1 and check["verdict"] == "fail"
    assert "exit code 2: " in check["value"] and "no: no such file" in check["value"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--storage", "ftp://host/runs"), "ftp"),
        (("--num-workers", "none"), "num_workers"),
        (("--cluster", "x"), "--cluster"),
        (("--address", "nonsense"), "host:port"),
        (("--",), "a job's command"),
    ],
)
def test_a_mistake_is_one_message_and_exit_code_2(
    tmp_path: Path, options: tuple[str, ...], says: str
) -> None:
    done = doctor(tmp_path, *options)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr + done.stdout
