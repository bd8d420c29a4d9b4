"""Checkpoints are whole or refused; weights files hold what was written."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from cluster.errors import CheckpointError
from tests.builders import CPU, assert_same_tensors, make_tiny_config, make_training
from trainjobs.checkpoint import (
    MANIFEST,
    STATE,
    TENSORS,
    TrainState,
    check_checkpoint,
    load_checkpoint,
    load_weights,
    save_checkpoint,
    save_weights,
)


def make_state() -> TrainState:
    return TrainState(
        epoch=2,
        step=3,
        updates=17,
        skipped_in_a_row=1,
        epoch_s=1.5,
        loss_sums=[0.1, 12.0],
        best=0.3,
        best_epoch=1,
        history=[{"epoch": 1, "lr": 0.01}, {"epoch": 2, "lr": 1 / 3}],
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_checkpoint(tmp_path, make_state(), {"model": {"weight": torch.arange(1000.0)}})
    return tmp_path


def test_state_and_tensors_come_back_to_the_last_bit(folder: Path) -> None:
    state, tensors = load_checkpoint(folder, CPU)
    assert state == make_state()
    assert torch.equal(tensors["model"]["weight"], torch.arange(1000.0))


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_everything_a_training_holds_comes_back(tmp_path: Path, name: str) -> None:
    training = make_training(make_tiny_config({"optim.name": name}))
    save_checkpoint(tmp_path, training.state, training.tensors())
    _, tensors = load_checkpoint(tmp_path, CPU)
    assert_same_tensors(tensors, training.tensors())
    assert tensors["optimizer"]["param_groups"] == training.optimizer.state_dict()["param_groups"]


@pytest.mark.parametrize("name", [TENSORS, STATE, MANIFEST])
def test_a_missing_file_is_an_error(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match="incomplete"):
        load_checkpoint(folder, CPU)


@pytest.mark.parametrize("name", [TENSORS, STATE, MANIFEST])
def test_a_truncated_file_is_an_error(folder: Path, name: str) -> None:
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError):
        load_checkpoint(folder, CPU)


@pytest.mark.parametrize("name", [TENSORS, STATE])
@pytest.mark.parametrize("place", [0.0, 0.5, 0.999])
def test_a_flipped_bit_is_an_error_that_names_folder_and_file(
    folder: Path, name: str, place: float
) -> None:
    content = bytearray((folder / name).read_bytes())
    content[int(place * len(content))] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=name) as raised:
        check_checkpoint(folder)
    assert raised.value.path == str(folder)


@pytest.mark.parametrize("text", ["[]", "{}", "null", '{"training.pt": 1}'])
def test_a_manifest_that_is_none_is_an_error(folder: Path, text: str) -> None:
    (folder / MANIFEST).write_text(text)
    with pytest.raises(CheckpointError):
        check_checkpoint(folder)


def test_another_format_is_an_error_that_names_both(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, TrainState(), {})
    state = json.loads((tmp_path / STATE).read_text())
    (tmp_path / STATE).write_text(json.dumps({**state, "format": "0"}))
    rewrite_manifest(tmp_path)
    with pytest.raises(CheckpointError, match="format 0, this version reads 1"):
        load_checkpoint(tmp_path, CPU)


def rewrite_manifest(folder: Path) -> None:
    """Make the manifest agree with files that were changed on purpose."""
    from hashlib import sha256

    sums = {name: sha256((folder / name).read_bytes()).hexdigest() for name in (TENSORS, STATE)}
    (folder / MANIFEST).write_text(json.dumps(sums))


def test_closing_an_epoch_starts_the_next_from_nothing() -> None:
    state = make_state()
    state.close_epoch({"epoch": 3}, None)
    assert (state.epoch, state.step, state.epoch_s, state.loss_sums) == (3, 0, 0.0, [])
    assert state.history[-1] == {"epoch": 3}
    assert state.updates == 17


def test_best_is_the_first_of_the_highest() -> None:
    state = TrainState()
    found = [state.close_epoch({}, metric) for metric in (0.1, None, 0.3, 0.3, 0.2)]
    assert found == [True, False, True, False, False]
    assert (state.best, state.best_epoch) == (0.3, 3)


def make_model() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    return model.to(memory_format=torch.channels_last)


def test_weights_and_header_come_back(tmp_path: Path) -> None:
    model, path = make_model(), tmp_path / "w.safetensors"
    save_weights(path, model.state_dict(), {"model": "tiny"})
    tensors, header = load_weights(str(path))
    assert_same_tensors(tensors, dict(model.state_dict()))
    assert header == {"format_version": "1", "model": "tiny"}


def test_damaged_or_missing_weights_are_an_error_that_names_the_file(tmp_path: Path) -> None:
    save_weights(tmp_path / "whole", make_model().state_dict(), {})
    whole = (tmp_path / "whole").read_bytes()
    for name, content in (("cut", whole[:-9]), ("empty", b""), ("text", b"no weights" * 9)):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError, match=f"{name}: not a readable safetensors"):
            load_weights(str(tmp_path / name))
    with pytest.raises(CheckpointError, match="absent"):
        load_weights(str(tmp_path / "absent"))


def test_weights_of_another_service_are_an_error(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"w": torch.zeros(1)}, tmp_path / "foreign")
    with pytest.raises(CheckpointError, match="format_version None, this version reads 1"):
        load_weights(str(tmp_path / "foreign"))
