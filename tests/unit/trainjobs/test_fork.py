"""A run that goes on from another one."""

import json
from pathlib import Path

import pytest
import torch

from cluster.errors import RunError
from cluster.storage import RunPaths
from trainjobs.checkpoint import TrainState, load_checkpoint, save_checkpoint
from trainjobs.fork import fork_from
from trainjobs.run_folder import CHECKPOINTS, list_checkpoints


def make_checkpoint(paths: RunPaths, name: str, state: TrainState, value: float = 1.0) -> Path:
    folder = paths.local(f"{CHECKPOINTS}/launch-001/{name}/x").parent
    folder.mkdir(parents=True, exist_ok=True)
    save_checkpoint(folder, state, {"model": {"weight": torch.tensor(value)}})
    return folder


def forked(paths: RunPaths) -> tuple[TrainState, float]:
    (only,) = list_checkpoints(paths)
    state, tensors = load_checkpoint(Path(paths.location(only)), torch.device("cpu"))
    return state, tensors["model"]["weight"].item()


def test_a_fork_has_the_newest_epoch_and_its_history_but_no_best(tmp_path: Path) -> None:
    donor, paths = RunPaths(str(tmp_path), "donor"), RunPaths(str(tmp_path), "fork")
    history = [{"epoch": 1.0}, {"epoch": 2.0}]
    make_checkpoint(donor, "one", TrainState(epoch=1), 1.0)
    make_checkpoint(donor, "two", TrainState(epoch=2, history=history, best=0.5, best_epoch=1), 2.0)
    fork_from(donor.location(), paths)
    state, weight = forked(paths)
    assert (state.epoch, state.history, weight) == (2, history, 2.0)
    assert (state.best, state.best_epoch) == (None, None)


def test_a_checkpoint_within_an_epoch_is_passed_over(tmp_path: Path) -> None:
    donor, paths = RunPaths(str(tmp_path), "donor"), RunPaths(str(tmp_path), "fork")
    make_checkpoint(donor, "whole", TrainState(epoch=1))
    make_checkpoint(donor, "within", TrainState(epoch=1, step=3))
    fork_from(donor.location() + "/", paths)
    assert forked(paths)[0].step == 0


def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path) -> None:
    donor, paths = RunPaths(str(tmp_path), "donor"), RunPaths(str(tmp_path), "fork")
    make_checkpoint(donor, "good", TrainState(epoch=1))
    damaged = make_checkpoint(donor, "damaged", TrainState(epoch=2))
    state = json.loads((damaged / "state.json").read_text())
    (damaged / "state.json").write_text(json.dumps(state | {"updates": 7}))
    fork_from(donor.location(), paths)
    assert forked(paths)[0].epoch == 1


def test_a_folder_without_a_whole_epoch_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"start_from: .*nothing has no checkpoint"):
        fork_from(str(tmp_path / "nothing"), RunPaths(str(tmp_path), "fork"))
