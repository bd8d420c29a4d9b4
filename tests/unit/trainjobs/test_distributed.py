"""Collectives alone and between real processes; training on one rank and on several."""

from pathlib import Path

import pytest
import torch
from torch import nn

from tests.ranks import every_collective, run_on_ranks, train
from trainjobs.distributed import (
    all_gather_lists,
    all_reduce_max,
    all_reduce_sum,
    broadcast_object,
    gather_lists,
    gradient_sync,
    is_distributed,
    unwrapped,
)

# Float64 sums over ranks in another order, through some steps of training.
TOLERANCE = 1e-9


def test_alone_every_collective_is_the_identity() -> None:
    assert not is_distributed()
    tensor = torch.tensor([1.0, -2.0])
    assert all_reduce_sum(tensor).tolist() == all_reduce_max(tensor).tolist() == [1, -2]
    assert gather_lists([1, 2]) == all_gather_lists([1, 2]) == [1, 2]
    assert broadcast_object("x") == "x"


def test_alone_gradients_need_no_synchronization_and_models_no_wrapper() -> None:
    model = nn.Linear(1, 1)
    with gradient_sync(model, enabled=False):
        model(torch.ones(1, 1)).sum().backward()
    assert model.weight.grad is not None
    assert unwrapped(model) is model


def test_collectives_of_two_ranks() -> None:
    first, second = run_on_ranks(2, every_collective)
    assert first["is_distributed"] and second["is_distributed"]
    assert first["sum"] == second["sum"] == [1, 2]
    assert first["max"] == second["max"] == [1, 0]
    assert first["gathered"] == [1] and second["gathered"] == []
    assert first["gathered by all"] == second["gathered by all"] == [1]
    assert first["broadcast"] == second["broadcast"] == {"from": 0}
    # The gradient is the rank: its own without synchronization, the mean 1/2 with it.
    assert first["gradients"] == {False: 0, True: 0.5}
    assert second["gradients"] == {False: 1, True: 0.5}


def assert_same_run(found: dict, expected: dict) -> None:
    assert len(found["history"]) == len(expected["history"])
    for row, wanted in zip(found["history"], expected["history"], strict=True):
        assert row == pytest.approx(wanted, rel=TOLERANCE)
    assert found["tensors"].keys() == expected["tensors"].keys()
    for name, values in found["tensors"].items():
        assert values == pytest.approx(expected["tensors"][name], rel=TOLERANCE, abs=TOLERANCE), (
            name
        )


# The first steps of the warmup have fewer micro-batches than three ranks, so dummies take part.
@pytest.mark.parametrize("world_size", [2, 3])
def test_a_run_does_not_depend_on_its_world_size(tmp_path: Path, world_size: int) -> None:
    alone = train(0, 1, folder=tmp_path)
    for rank in run_on_ranks(world_size, train, folder=tmp_path):
        assert rank["outcome"] == "finished" and rank["steps"] == alone["steps"]
        assert_same_run(rank, alone)


def test_a_run_stopped_on_two_ranks_goes_on_on_one(tmp_path: Path) -> None:
    stopped = run_on_ranks(2, train, folder=tmp_path, stop_after=2)
    # One rank was asked; both stopped after the same step.
    assert [rank["outcome"] for rank in stopped] == ["interrupted"] * 2
    assert [len(rank["steps"]) for rank in stopped] == [2, 2]
    resumed = train(0, 1, folder=tmp_path, resume=True)
    assert_same_run(resumed, train(0, 1, folder=tmp_path))


def test_a_run_stopped_on_one_rank_goes_on_on_two(tmp_path: Path) -> None:
    train(0, 1, folder=tmp_path, stop_after=2)
    alone = train(0, 1, folder=tmp_path)
    for rank in run_on_ranks(2, train, folder=tmp_path, resume=True):
        assert_same_run(rank, alone)


def test_ranks_agree_to_skip_a_step_that_is_not_finite_on_one(tmp_path: Path) -> None:
    # Position 0 is the first rank's; NaN reaches the other through the gradient's mean.
    both = run_on_ranks(2, train, folder=tmp_path, poisoned=range(1))
    assert [rank["history"][-1]["optimizer_steps"] for rank in both] == [7, 7]
    for name, values in both[0]["tensors"].items():
        assert (values == both[1]["tensors"][name]).all(), name
