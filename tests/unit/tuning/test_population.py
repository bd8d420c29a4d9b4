"""Who goes on from whom in population-based training."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainjobs.config import TrainConfig
from tuning.config import Mode
from tuning.dimension import Dimension
from tuning.population import choose_donors, explore

LR = Dimension(path="optim.lr", kind="loguniform", low=1e-3, high=1e-1)
ACCUMULATE = Dimension(path="optim.accumulate", kind="int", low=1, high=4)


def donors_of(values: list[float], mode: Mode = "max") -> dict[int, int]:
    return choose_donors(dict(enumerate(values)), mode, np.random.default_rng(0))


def test_the_worst_of_three_goes_on_from_the_best() -> None:
    assert donors_of([0.3, 0.1, 0.2]) == {1: 0}


def test_of_eight_two_are_replaced_by_the_best_two() -> None:
    donors = donors_of([0.8, 0.1, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2])
    assert set(donors) == {1, 7}
    assert set(donors.values()) <= {0, 2}


def test_where_less_is_better_the_worst_is_the_largest() -> None:
    assert donors_of([0.3, 0.1, 0.2], "min") == {0: 1}


@pytest.mark.parametrize("values", [[], [0.2], [0.2, 0.2]])
def test_equals_and_single_members_go_on_alone(values: list[float]) -> None:
    assert donors_of(values) == {}


@pytest.mark.parametrize("mode", ["max", "min"])
def test_a_diverged_member_is_the_worst(mode: Mode) -> None:
    assert set(donors_of([math.nan, 0.1, 0.2], mode)) == {0}


@given(st.lists(st.floats(0, 1), max_size=9))
def test_a_donor_is_always_strictly_better_and_stays(values: list[float]) -> None:
    donors = donors_of(values)
    assert all(values[donor] > values[member] for member, donor in donors.items())
    assert not set(donors) & set(donors.values())


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
