"""Doctor's dry run of a job: what it asks of the command, and what it makes of the answer."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from cluster import dry_run as module
from cluster.__main__ import split_job
from cluster.dry_run import STEPS, Trial, dry_run, judge_dry_run
from cluster.errors import ConfigError

RESULT = {
    "status": "finished", "optimizer_steps": STEPS, "world_size": 4, "training_images": 36000,
    "steady_images_per_second": 100.0, "peak_memory_bytes": 3 * 2**29, "peak_gpu_memory_bytes": 2**31,
}  # fmt: skip


def make_trial(exit_code: int | None = 0, **changes: Any) -> Trial:
    return Trial(exit_code=exit_code, wall_s=61.4, last_line="the end", result=RESULT | changes,
                 folder="/runs/doctor-1")  # fmt: skip


def test_an_epoch_is_foretold_from_the_steady_rate() -> None:
    checks = judge_dry_run(make_trial(), 20.0)
    assert [check.verdict for check in checks] == ["ok"] * 3
    assert [check.value for check in checks] == [
        "20 steps in 1 min 1 s with start-up; 4 workers",
        # 36,000 images at 100 a second are 360 s: a tenth of an hour, a tenth of 20.
        "100 images/s; an epoch of 36000 images trains for 6 min 0 s, costs 2",
        "the worker with most had 1.5 GiB, 2.0 GiB on its GPU",
    ]


def test_without_a_price_no_cost_is_told() -> None:
    _, speed, _ = judge_dry_run(make_trial(), None)
    assert "cost" not in speed.value


def test_too_few_steps_are_a_warning() -> None:
    (check,) = judge_dry_run(make_trial(steady_images_per_second=0.0), None)
    assert check.verdict == "warn" and "too few" in check.value


@pytest.mark.parametrize(
    ("trial", "says"),
    [
        (make_trial(1, status="failed", error="a rank ran out of memory"), "a rank ran out"),
        (make_trial(2, status="", error=None), "exit code 2: the end"),
        (make_trial(None), "did not take 20 steps in 1 min 1 s"),
    ],
)
def test_a_job_that_fails_is_a_failed_check_with_its_cause(trial: Trial, says: str) -> None:
    (check,) = judge_dry_run(trial, None)
    assert check.verdict == "fail" and says in check.value and "train.log" in check.remedy


JOB = f"""
import json, os, pathlib, sys
options = dict(zip(sys.argv[1::2], sys.argv[2::2]))
folder = pathlib.Path(options["--storage"], options["--run-name"])
folder.mkdir()
assert options["--max-steps"] == "{STEPS}" and options["--tracking-uri"].startswith("sqlite:")
assert os.environ["RAY_ADDRESS"] == "head:6379"
(folder / "result.json").write_text({json.dumps(json.dumps(RESULT))})
"""


def run(script: str, storage: Path) -> list[module.Check]:
    command = (sys.executable, "-c", script)
    return dry_run(command, str(storage), "head:6379", cost_per_hour=None)


def test_a_job_gets_its_options_and_leaves_nothing_behind(tmp_path: Path) -> None:
    checks = run(JOB, tmp_path)
    assert [check.verdict for check in checks] == ["ok"] * 3
    assert list(tmp_path.iterdir()) == []


def test_a_job_that_cannot_start_is_told_with_its_last_line(tmp_path: Path) -> None:
    (check,) = run("raise SystemExit('error: --data d: no such file')", tmp_path)
    assert check.verdict == "fail"
    assert check.value == "exit code 1: error: --data d: no such file"


def test_a_job_that_hangs_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LIMIT_S", 0.3)
    (check,) = run("import time; print('waiting for a GPU', flush=True); time.sleep(60)", tmp_path)
    assert check.verdict == "fail" and check.value.startswith("did not take 20 steps")


def test_what_follows_two_dashes_is_the_job() -> None:
    assert split_job(["doctor", "--json", "--", sys.executable, "-m", "x", "--", "y"]) == (
        ["doctor", "--json"], (sys.executable, "-m", "x", "--", "y"),
    )  # fmt: skip
    assert split_job(["doctor"]) == (["doctor"], ())
    with pytest.raises(ConfigError, match="a job's command"):
        split_job(["doctor", "--"])
    with pytest.raises(ConfigError, match="no-such-command: no such command"):
        split_job(["doctor", "--", "no-such-command"])
