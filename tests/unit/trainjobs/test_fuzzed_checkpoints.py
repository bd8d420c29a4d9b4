"""A checkpoint with any content is loaded or refused with one error, and nothing in it is run."""

import json
import os
import pickle
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import CheckpointError
from cluster.storage import RunPaths
from tests.builders import CPU
from tests.fuzz import damaged, damages, quick, shapes
from trainjobs.checkpoint import (
    MANIFEST,
    STATE,
    TENSORS,
    TrainState,
    load_checkpoint,
    save_checkpoint,
)
from trainjobs.run_folder import CHECKPOINTS, list_checkpoints


class Payload:
    """Its unpickling makes a folder."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return os.mkdir, (str(self.proof),)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    state = TrainState(epoch=1, history=[{"epoch": 1, "lr": float("nan")}])
    save_checkpoint(folder, state, {"model": {"weight": torch.arange(4.0)}})
    return folder


def make_consistent(folder: Path, **more: str) -> None:
    sums = {name: sha256((folder / name).read_bytes()).hexdigest() for name in (TENSORS, STATE)}
    (folder / MANIFEST).write_text(json.dumps({**sums, **more}))


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_a_pickle_in_a_checkpoint_is_refused_and_not_run(checkpoint: Path, how: str) -> None:
    proof = checkpoint / "proof"
    content = {"model": Payload(proof)}
    if how == "torch":
        torch.save(content, checkpoint / TENSORS)
    else:
        (checkpoint / TENSORS).write_bytes(pickle.dumps(content))
    make_consistent(checkpoint)
    with pytest.raises(CheckpointError, match=TENSORS):
        load_checkpoint(checkpoint, CPU)
    assert not proof.exists()
    torch.load(checkpoint / TENSORS, weights_only=False) if how == "torch" else pickle.loads(
        pickle.dumps(content)
    )
    assert proof.exists()  # it would have worked


def test_a_manifest_that_names_another_file_is_refused(checkpoint: Path) -> None:
    make_consistent(checkpoint, **{"../../secret": "0"})
    with pytest.raises(CheckpointError, match=r"names other files: \['\.\./\.\./secret'\]"):
        load_checkpoint(checkpoint, CPU)


@pytest.mark.parametrize("name", [TENSORS, STATE, MANIFEST])
@pytest.mark.parametrize("consistent", [True, False])
@given(damage=damages)
@quick
def test_a_damaged_checkpoint_is_loaded_or_refused(
    tmp_path_factory: pytest.TempPathFactory,
    name: str, consistent: bool, damage: list[tuple[str, float, bytes]],
) -> None:  # fmt: skip
    folder = tmp_path_factory.mktemp("checkpoint")
    save_checkpoint(folder, TrainState(epoch=1), {"model": {"weight": torch.arange(4.0)}})
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(damaged(content, damage))
    if consistent and name != MANIFEST:
        make_consistent(folder)
    try:
        load_checkpoint(folder, CPU)
    except CheckpointError as error:
        assert error.path == str(folder) and "\n" not in str(error)


@pytest.mark.parametrize("text", ["[]", "3", "{}", '{"format": "1", "epoch": "x"}', "[" * 100_000])
def test_a_state_of_another_kind_is_refused(checkpoint: Path, text: str) -> None:
    (checkpoint / STATE).write_text(text)
    make_consistent(checkpoint)
    with pytest.raises(CheckpointError, match=STATE):
        load_checkpoint(checkpoint, CPU)


@given(st.lists(shapes(st.sampled_from(["epoch", "step", "x"])), min_size=1, max_size=4))
@quick
def test_checkpoints_with_states_of_any_kind_can_be_listed(
    tmp_path_factory: pytest.TempPathFactory, states: list[Any]
) -> None:
    paths = RunPaths(str(tmp_path_factory.mktemp("storage")), "run")
    for number, state in enumerate(states):
        folder = f"{CHECKPOINTS}/launch-001/{number}"
        paths.write_text(f"{folder}/{MANIFEST}", "{}")
        text = json.dumps(state if number else {"epoch": state, "step": 0})
        paths.write_text(f"{folder}/{STATE}", text)
    list_checkpoints(paths)
