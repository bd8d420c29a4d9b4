"""A job's first steps, as doctor has them run: does it start, how fast is it, what does it need.

The job is a command of which this package knows four options and the result.json that it leaves in
its run's folder; every job of ours has them.
"""

import json
import os
import secrets
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.address import ADDRESS_VARIABLE
from cluster.errors import StorageError
from cluster.redact import redact
from cluster.storage import RunPaths
from cluster.verdicts import CLUSTER, Check

NAME = "dry run"
STEPS = 20
LIMIT_S = 1200.0
"""A job that has not taken its steps by then hangs."""
GRACE_S = 60.0
"""What a job gets to stop after it was asked to."""
RESULT = "result.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """How the command ended."""

    exit_code: int | None
    """None: it did not end in time."""
    wall_s: float
    last_line: str
    """Of what it printed."""
    result: Mapping[str, Any]
    """Its result.json; empty if it left none."""
    folder: str
    """Where its run's files are."""


def dry_run(
    job: Sequence[str], storage: str, address: str | None, *, cost_per_hour: float | None
) -> list[Check]:
    """Run `job` for some steps, and say what came out.

    Its run is deleted afterwards, unless it failed; no tracking server hears of it.

    Args:
        job: the command.
        storage: where its run's folder goes meanwhile, as `resolve_storage` gives it.
        address: of the cluster, host:port; None: it starts one inside itself.
        cost_per_hour: of the cluster.
    """
    paths = RunPaths(storage, f"doctor-{secrets.token_hex(4)}")
    trial = _run(job, paths, {ADDRESS_VARIABLE: address} if address else {})
    checks = judge_dry_run(trial, cost_per_hour)
    if all(check.verdict == "ok" for check in checks):
        paths.delete_folder()
    return checks


def judge_dry_run(trial: Trial, cost_per_hour: float | None) -> list[Check]:
    """The lines of the report on a job that was given `STEPS` steps. Pure."""
    result = trial.result
    if trial.exit_code != 0 or result.get("status") != "finished":
        return [_failed(trial)]
    rate = result["steady_images_per_second"]
    told = (
        f"{result['optimizer_steps']} steps in {_duration(trial.wall_s)} with start-up; "
        f"{result['world_size']} workers"
    )
    if not rate:
        remedy = "give it more images, or smaller batches, to be timed"
        return [Check(NAME, CLUSTER, "warn", f"{told}; too few steps to time", remedy)]
    epoch_s = result["training_images"] / rate
    cost = "" if cost_per_hour is None else f", costs {epoch_s / 3600 * cost_per_hour:.3g}"
    epoch = (
        f"{rate:.3g} images/s; an epoch of {result['training_images']} images trains for "
        f"{_duration(epoch_s)}{cost}"
    )
    host, gpu = (result[f"peak_{kind}_bytes"] / 2**30 for kind in ("memory", "gpu_memory"))
    memory = f"{host:.1f} GiB" + (f", {gpu:.1f} GiB on its GPU" if gpu else "")
    return [
        Check(NAME, CLUSTER, "ok", told),
        Check(f"{NAME}: speed", CLUSTER, "ok", epoch),
        Check(f"{NAME}: memory", CLUSTER, "ok", f"the worker with most had {memory}"),
    ]


def _failed(trial: Trial) -> Check:
    if trial.exit_code is None:
        value = (
            f"did not take {STEPS} steps in {_duration(trial.wall_s)}; last line: {trial.last_line}"
        )
    else:
        cause = trial.result.get("error") or trial.last_line
        value = f"exit code {trial.exit_code}: {cause}"
    log = f"; its log is {trial.folder}/train.log" if trial.result else ""
    return Check(NAME, CLUSTER, "fail", redact(value), f"run the command by itself{log}")


def _run(job: Sequence[str], paths: RunPaths, variables: dict[str, str]) -> Trial:
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="doctor-") as scratch:
        tracking = f"sqlite:///{scratch}/mlflow.db"
        options = {"max-steps": STEPS, "run-name": paths.run_name, "storage": paths.storage,
                   "tracking-uri": tracking}  # fmt: skip
        told = Path(scratch, "output")
        with told.open("wb") as output:
            process = subprocess.Popen(
                [*job, *(text for name, value in options.items() for text in (f"--{name}", f"{value}"))],
                stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                env=os.environ | {"NO_COLOR": "1"} | variables,
            )  # fmt: skip
            exit_code = _wait(process)
        lines = [line for line in told.read_text(errors="replace").splitlines() if line.strip()]
    return Trial(
        exit_code=exit_code,
        wall_s=time.monotonic() - started,
        last_line=lines[-1].strip() if lines else "",
        result=_load_result(paths),
        folder=paths.location(),
    )


def _wait(process: subprocess.Popen[bytes]) -> int | None:
    try:
        return process.wait(timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=GRACE_S)
        process.kill()
        process.wait()
        return None


def _load_result(paths: RunPaths) -> Mapping[str, Any]:
    try:
        found = json.loads(paths.read_bytes(RESULT))
    except (StorageError, ValueError):  # it failed before it had one
        return {}
    return found if isinstance(found, dict) else {}


def _duration(seconds: float) -> str:
    """As a person would say it: 12.3 s, 4 min 5 s, 2 h 10 min."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
