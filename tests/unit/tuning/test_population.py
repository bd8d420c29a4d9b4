"""Who goes on from whom in population-based training."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainjobs.config import TrainConfig
from tuning.dimension import Dimension
from tuning.population import Score, choose_donor, explore

LR = Dimension(path="optim.lr", kind="loguniform", low=1e-3, high=1e-1)
ACCUMULATE = Dimension(path="optim.accumulate", kind="int", low=1, high=4)


def donor_of(member: int, values: list[float], mode: str = "max") -> int | None:
    scores = {number: Score(1, value) for number, value in enumerate(values)}
    return choose_donor(member, scores, mode, np.random.default_rng(0))  # type: ignore[arg-type]


def test_the_worst_of_three_goes_on_from_the_best() -> None:
    assert donor_of(1, [0.3, 0.1, 0.2]) == 0
    assert donor_of(0, [0.3, 0.1, 0.2]) is None
    assert donor_of(2, [0.3, 0.1, 0.2]) is None


def test_where_less_is_better_the_worst_is_the_largest() -> None:
    assert donor_of(0, [0.3, 0.1, 0.2], "min") == 1


def test_equals_go_on_alone() -> None:
    assert donor_of(0, [0.2, 0.2]) is None


def test_a_member_by_itself_goes_on() -> None:
    assert donor_of(0, [0.2]) is None


def test_a_diverged_member_is_the_worst() -> None:
    assert donor_of(0, [math.nan, 0.1, 0.2]) == 2


@given(st.lists(st.floats(0, 1), min_size=2, max_size=9), st.data())
def test_a_donor_is_always_strictly_better(values: list[float], data: st.DataObject) -> None:
    member = data.draw(st.integers(0, len(values) - 1))
    donor = donor_of(member, values)
    assert donor is None or values[donor] > values[member]


@given(st.integers(0, 1000), st.floats(1e-3, 1e-1), st.integers(1, 4))
def test_explored_values_stay_in_their_ranges(seed: int, lr: float, accumulate: int) -> None:
    rng = np.random.default_rng(seed)
    values = {"optim.lr": lr, "optim.accumulate": accumulate}
    moved = explore(values, (LR, ACCUMULATE), TrainConfig(), rng)
    assert 1e-3 <= moved["optim.lr"] <= 1e-1
    assert moved["optim.accumulate"] in {1, 2, 3, 4}
    assert isinstance(moved["optim.accumulate"], int)


def test_the_base_config_as_donor_is_moved_like_any_other() -> None:
    moved = explore({}, (LR,), TrainConfig(), np.random.default_rng(1))
    assert moved["optim.lr"] in (pytest.approx(0.008), pytest.approx(0.012))


def test_what_the_base_config_leaves_open_is_drawn() -> None:
    moved = explore({}, (ACCUMULATE,), TrainConfig(), np.random.default_rng(0))
    assert moved["optim.accumulate"] in {1, 2, 3, 4}  # the base config says auto


@pytest.mark.parametrize("seed", range(20))
def test_a_condition_decides_anew_after_the_move(seed: int) -> None:
    kind = Dimension(path="optim.name", kind="choice", values=("sgd", "adamw"))
    beta = Dimension(
        path="optim.momentum", kind="uniform", low=0.8, high=0.9, when=(("optim.name", ("sgd",)),)
    )
    rng = np.random.default_rng(seed)
    moved = explore({"optim.name": "sgd", "optim.momentum": 0.85}, (kind, beta), TrainConfig(), rng)
    assert ("optim.momentum" in moved) == (moved["optim.name"] == "sgd")
