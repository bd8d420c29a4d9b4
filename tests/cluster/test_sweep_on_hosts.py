"""A sweep whose trials are runs over several hosts, submitted as a job; a host dies in mid-sweep."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.ray_on_hosts import Cluster, Job, cluster

pytestmark = [pytest.mark.integration, pytest.mark.slow]

NUM_TRIALS, EPOCHS = 4, 3
SWEEP = (
    "--num-trials", str(NUM_TRIALS), "--scheduler", "none", "--max-concurrent", "2",
    "--train.model", "yolov5n", "--train.epochs", str(EPOCHS), "--train.image-size", "64",
    "--train.data.generated-images", "64", "--train.batch-size-per-worker", "8",
    "--train.num-workers", "2", "--train.resources.cpus-per-worker", "0.5",
    "--train.resources.placement", "SPREAD",
)  # fmt: skip
SWEEP_TIMEOUT_S = 420.0
RAYS_OWN_ACTOR = "_AutoscalingCoordinatorActor"  # one a cluster, made by Ray Train to stay


@pytest.fixture
def running(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A head that only drives, and three hosts for two ranks each: room for a lost one."""
    with cluster(tmp_path, cpus=[0, 1, 1, 1], head_options=request.param) as started:
        yield started


@pytest.fixture
def sweep(running: Cluster) -> tuple[Job, Path]:
    """A sweep under way, and its folder."""
    storage = running.folder / "sweeps"
    job = running.submit(
        "python", "-m", "tuning.sweep", *SWEEP, "--storage", str(storage), "--name", "survivor",
        log=running.folder / "sweep-job.log",
    )  # fmt: skip
    return job, storage / "survivor"


def places(folder: Path) -> dict[str, dict[str, str]]:
    """Run -> where its driver and its ranks have logged last."""
    return {
        log.parent.name: {
            role: host for host, role in re.findall(r" (host\d) (driver|rank \d)", log.read_text())
        }
        for log in sorted((folder / "trials").glob("*/train.log"))
    }


def epochs_done(folder: Path, run: str) -> int:
    """Rows of a run's metrics.csv."""
    table = folder / "trials" / run / "metrics.csv"
    return len(table.read_text().splitlines()) - 1 if table.exists() else 0


def run_in_progress(folder: Path) -> str | None:
    """A run that has an epoch behind it and another one before it."""
    found = (run for run in places(folder) if 0 < epochs_done(folder, run) < EPOCHS)
    return next(found, None)


def lose_a_host(running: Cluster, sweep: tuple[Job, Path], role: str) -> str:
    """Power off where a run in progress has its `driver` or `rank 0`; the run."""
    job, folder = sweep
    job.wait_for(lambda: run_in_progress(folder) is not None, SWEEP_TIMEOUT_S)
    run = run_in_progress(folder)
    assert run is not None
    lost = places(folder)[run][role]
    assert lost != running.head.name
    running.host(lost).power_off()

    assert job.finish(SWEEP_TIMEOUT_S) == 0, job.output
    assert lost not in places(folder)[run].values()
    return run


def assert_every_trial_is_accounted_for(folder: Path) -> None:
    result: dict[str, Any] = json.loads((folder / "result.json").read_text())
    assert result["status"] == "finished"
    trials = result["trials"]
    assert [trial["trial"] for trial in trials] == list(range(NUM_TRIALS))
    for trial in trials:
        assert trial["state"] in ("finished", "failed"), trial
        assert trial["state"] == "finished" or trial["error"], trial
        assert trial["state"] == "failed" or trial["epochs"] == EPOCHS, trial
    for place in places(folder).values():
        ranks = [host for role, host in place.items() if role != "driver"]
        assert len(set(ranks)) == len(ranks), place


def assert_finished_in_two_attempts(folder: Path, run: str) -> None:
    result: dict[str, Any] = json.loads((folder / "trials" / run / "result.json").read_text())
    assert (result["status"], result["epochs"], result["attempts"]) == ("finished", EPOCHS, 2)


def assert_nothing_is_left(running: Cluster) -> None:
    assert running.placement_groups() == []
    alive = {actor["class_name"] for actor in running.state("actors") if actor["state"] != "DEAD"}
    assert alive <= {RAYS_OWN_ACTOR}


@pytest.mark.parametrize("running", [()], indirect=True)
def test_a_sweep_that_loses_the_host_of_a_rank_accounts_for_every_trial(
    running: Cluster, sweep: tuple[Job, Path]
) -> None:
    run = lose_a_host(running, sweep, "rank 0")
    assert_every_trial_is_accounted_for(sweep[1])
    assert_finished_in_two_attempts(sweep[1], run)
    assert_nothing_is_left(running)


# A trial's own process wants a byte of memory: on a head that has none, none can be.
@pytest.mark.parametrize("running", [("--memory", "0")], indirect=True)
def test_a_sweep_that_loses_the_host_of_a_trials_own_process_accounts_for_every_trial(
    running: Cluster, sweep: tuple[Job, Path]
) -> None:
    run = lose_a_host(running, sweep, "driver")
    assert_every_trial_is_accounted_for(sweep[1])
    assert_finished_in_two_attempts(sweep[1], run)
    assert_nothing_is_left(running)
