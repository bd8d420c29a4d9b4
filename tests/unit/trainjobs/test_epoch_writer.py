"""What an epoch leaves is what it was, though training has gone on by the time it is written."""

from pathlib import Path

import pytest
import torch
from torch import nn

from cluster.errors import StorageError
from cluster.storage import RunPaths
from tests.builders import CPU, Recorder, assert_same_tensors, make_tiny_config, make_training
from trainjobs.checkpoint import load_checkpoint, load_weights
from trainjobs.epoch_writer import EpochWriter
from trainjobs.host_copy import HostCopy
from trainjobs.loop import Training, fit
from trainjobs.run_folder import BEST, LAST, METRICS, load_metrics


@pytest.fixture
def training() -> Training:
    """That one epoch was trained of."""
    training = make_training(make_tiny_config({"epochs": 1}))
    fit(training, Recorder(), CPU)
    return training


@pytest.fixture
def paths(tmp_path: Path) -> RunPaths:
    return RunPaths(str(tmp_path), "run")


def go_on(training: Training) -> None:
    """As training does: in place."""
    with torch.no_grad():
        for tensor in (*training.model.state_dict().values(), *training.ema.model.parameters()):
            tensor.zero_()
    training.state.updates = 0
    training.state.history.append({"epoch": 2})


def test_files_are_of_the_moment_they_were_asked_for(
    training: Training, paths: RunPaths, tmp_path: Path
) -> None:
    folder, before = tmp_path / "checkpoint", HostCopy(training.tensors()).read()
    folder.mkdir()
    writer = EpochWriter(paths, tensorboard=False)
    written = writer.start(training, is_best=True, checkpoint=folder)
    go_on(training)
    written.result()
    state, tensors = load_checkpoint(folder, CPU)
    assert_same_tensors(tensors, before)
    assert (state.epoch, state.updates, len(state.history)) == (1, 4, 1)
    for file in (LAST, BEST):
        assert_same_tensors(load_weights(paths.location(file))[0], dict(before["ema"]))
    assert [row["epoch"] for row in load_metrics(paths)] == [1]


def test_what_is_neither_best_nor_due_is_left_out(training: Training, paths: RunPaths) -> None:
    writer = EpochWriter(paths, tensorboard=False)
    writer.start(training, is_best=False, checkpoint=None)
    writer.wait()
    assert [paths.exists(file) for file in (LAST, BEST, METRICS)] == [True, False, True]


def test_what_could_not_be_written_is_told_by_all_that_ask(
    training: Training, paths: RunPaths
) -> None:
    paths.local("weights").write_text("in the way of a folder")
    writer = EpochWriter(paths, tensorboard=False)
    written = writer.start(training, is_best=False, checkpoint=None)
    for ask in (
        written.result,
        writer.wait,
        lambda: writer.start(training, is_best=False, checkpoint=None),
    ):
        with pytest.raises(StorageError, match=r"last\.safetensors"):
            ask()


def test_a_checkpoint_that_cannot_be_written_is_named(
    training: Training, paths: RunPaths, tmp_path: Path
) -> None:
    writer = EpochWriter(paths, tensorboard=False)
    writer.start(training, is_best=False, checkpoint=tmp_path / "missing")
    with pytest.raises(StorageError, match="missing cannot be written"):
        writer.wait()


def test_a_copy_keeps_the_versions_of_modules_and_what_is_no_tensor() -> None:
    state = nn.BatchNorm2d(2).state_dict()
    copied = HostCopy({"model": state, "groups": [{"lr": 0.1, "params": [0]}], "scale": None})
    state["weight"].zero_()
    found = copied.read()
    assert copied.is_there()
    assert found["model"]._metadata == state._metadata
    assert found["model"]["weight"].tolist() == [1, 1]
    assert found["groups"] == [{"lr": 0.1, "params": [0]}] and found["scale"] is None
