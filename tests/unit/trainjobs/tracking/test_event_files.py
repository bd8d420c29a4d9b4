"""What TensorBoard finds in a run's folder: every epoch's figures once (tracking.tensorboard)."""

import shutil
import struct
from pathlib import Path
from typing import Any

import pytest

from cluster.channel import Sender
from cluster.storage import RunPaths
from tests.builders import CPU, make_tiny_config, make_training
from trainjobs.loop import fit
from trainjobs.reporter import PendingCheckpoint, RankReporter
from trainjobs.run_folder import TENSORBOARD, load_metrics, save_event_files
from trainjobs.tracking.event_files import event_file_name

ROWS = [{"epoch": 1, "lr": 0.5}, {"epoch": 2, "lr": 0.25, "map50": 0.125}, {"epoch": 3, "lr": 0.75}]
"""Of values that float32 has."""
# Event files hold float32.
TOLERANCE = 1e-6
CURVES = {"lr": [(1, 0.5), (2, 0.25), (3, 0.75)], "map50": [(2, 0.125)]}


@pytest.fixture
def paths(tmp_path: Path) -> RunPaths:
    return RunPaths(str(tmp_path), "run")


def train(
    paths: RunPaths,
    *,
    rank: int = 0,
    tensorboard: bool = True,
    max_steps: int | None = None,
    checkpoint: Path | None = None,
) -> Path | None:
    """Train `TinyTask` as one rank of a run does. Returns its last checkpoint."""
    kept: list[Path] = []

    def submit(
        metrics: dict[str, float], pending: PendingCheckpoint | None, name: str, wait: bool
    ) -> None:
        if pending is not None:
            pending.written.result()
            kept.append(Path(shutil.move(pending.folder, paths.local(f"checkpoints/{name}"))))

    reporter = RankReporter(
        paths,
        Sender(None, 0),  # unstarted: events wait in its queue
        submit,
        rank=rank,
        attempt="one",
        checkpoint_every=1,
        tensorboard=tensorboard,
    )
    config = make_tiny_config({"max_steps": max_steps})
    fit(make_training(config, checkpoint=checkpoint), reporter, CPU)
    return kept[-1] if kept else None


def curves(paths: RunPaths) -> dict[str, list[tuple[int, float]]]:
    """(step, value) of each metric, from all files in the order of their names.

    A record is its length in eight bytes, four of a checksum, the event, four of a checksum.
    """
    from tensorboardX.proto.event_pb2 import Event

    found: dict[str, list[tuple[int, float]]] = {}
    for name in paths.list_names(TENSORBOARD):
        data = paths.read_bytes(f"{TENSORBOARD}/{name}")
        while data:
            (length,) = struct.unpack_from("<Q", data)
            event = Event.FromString(data[12 : 12 + length])
            for value in event.summary.value:
                found.setdefault(value.tag, []).append((event.step, value.simple_value))
            data = data[16 + length :]
    return found


def test_names_sort_as_epochs_do() -> None:
    names = [event_file_name(epoch) for epoch in (1, 2, 9, 10, 99, 100, 12345)]
    assert names == sorted(names) and all("tfevents" in name for name in names)


def test_a_point_is_an_epochs_metric_and_what_was_not_measured_has_none(paths: RunPaths) -> None:
    save_event_files(paths, ROWS)
    assert curves(paths) == CURVES


def test_a_run_that_goes_on_adds_to_its_curve(paths: RunPaths) -> None:
    for done in (1, 2, 3):
        save_event_files(paths, ROWS[:done])
    assert curves(paths) == CURVES
    assert len(paths.list_names(TENSORBOARD)) == len(ROWS)


def test_an_epoch_that_is_trained_again_has_its_newer_points_and_once(paths: RunPaths) -> None:
    save_event_files(paths, [ROWS[0], {"epoch": 2, "lr": 8.0, "map50": 8.0}])
    save_event_files(paths, ROWS[:2])
    save_event_files(paths, ROWS)
    assert curves(paths) == CURVES


def test_switched_on_late_it_shows_the_epochs_before_too(paths: RunPaths) -> None:
    save_event_files(paths, ROWS[:2])
    assert curves(paths)["lr"] == CURVES["lr"][:2]


def test_a_run_has_the_curves_of_its_metrics_csv_also_after_a_resume(paths: RunPaths) -> None:
    stopped_within_an_epoch = train(paths, max_steps=5)
    assert 0 < len(load_metrics(paths)) < 3
    train(paths, checkpoint=stopped_within_an_epoch)
    rows = load_metrics(paths)
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    expected = {
        name: [(int(row["epoch"]), pytest.approx(row[name], rel=TOLERANCE)) for row in rows]
        for name in rows[0]
        if name != "epoch"
    }
    assert curves(paths) == expected


@pytest.mark.parametrize("role", [{"rank": 1}, {"tensorboard": False}])
def test_only_rank_0_writes_and_only_where_it_is_asked_to(
    tmp_path: Path, role: dict[str, Any]
) -> None:
    paths = RunPaths(str(tmp_path), "run")
    train(paths, **role)
    assert paths.list_names(TENSORBOARD) == ()
