"""How trials are proposed: reproducibly, within the space, and towards better values."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest

from cluster.config_io import replace_at
from cluster.errors import ConfigError
from trainjobs.config import TrainConfig
from tuning.config import Mode
from tuning.records import Values
from tuning.search import (
    NUM_RANDOM,
    GridSearch,
    Observation,
    OptunaSearch,
    RandomSearch,
    Search,
    build_search,
)
from tuning.space import (
    Space,
    check_constraints,
    check_space,
    default_space,
    grid_points,
    is_allowed,
    parse_space,
)

BASE = TrainConfig()
DEFAULT_SPACE = parse_space(default_space(BASE), "default search space")
CONDITIONAL = {
    "optim.name": {"choice": ["sgd", "adamw"]},
    "optim.lr": {"loguniform": [1e-4, 1e-1]},
    "optim.accumulate": {"int": [1, 4]},
    "optim.momentum": {"uniform": [0.8, 0.98], "when": {"optim.name": "sgd"}},
}


def space_of(raw: dict[str, Any], *constraints: str) -> Space:
    space = parse_space({**raw, "constraints": list(constraints)}, "space.yaml")
    check_space(space, BASE)
    check_constraints(space, BASE, 2)
    return space


def searching(
    kind: Literal["random", "grid", "optuna"], space: Space, seed: int = 0, mode: Mode = "max"
) -> Search:
    return build_search(kind, space, BASE, seed=seed, mode=mode, world_size=2)


def proposed(search: Search, number: int, observed: list[Observation]) -> Values:
    values = search.propose(number, observed)
    assert values is not None
    return values


def run(search: Search, objective: Callable[[Values], float], num_trials: int) -> list[Observation]:
    """One trial after the other."""
    observed: list[Observation] = []
    for number in range(num_trials):
        values = proposed(search, number, observed)
        observed.append(Observation(number=number, values=values, value=objective(values)))
    return observed


def near_one_percent(values: Values) -> float:
    """Best, with 0, at a learning rate of 0.01."""
    return -abs(math.log10(values["optim.lr"]) + 2)


def history(space: Space, length: int = NUM_RANDOM + 3) -> list[Observation]:
    return run(searching("random", space), near_one_percent, length)


@pytest.mark.parametrize("kind", ["random", "optuna"])
def test_the_same_seed_and_history_give_the_same_proposal(
    kind: Literal["random", "optuna"],
) -> None:
    space = space_of(CONDITIONAL)
    observed = history(space)
    first = searching(kind, space)
    proposed(first, 5, observed[:5])  # what was asked before leaves no trace
    again = searching(kind, space)
    assert first.propose(20, observed) == again.propose(20, list(reversed(observed)))
    assert first.propose(20, observed) != searching(kind, space, seed=1).propose(20, observed)


def test_a_random_trial_depends_on_seed_and_number_alone() -> None:
    search = searching("random", DEFAULT_SPACE)
    observed = history(DEFAULT_SPACE, 3)
    assert search.propose(7, []) == search.propose(7, observed)
    rates = {proposed(search, number, [])["optim.lr"] for number in range(20)}
    assert len(rates) == 20


def test_grid_settings_take_turns_in_a_random_search() -> None:
    raw = {"optim.name": {"grid": ["sgd", "adamw"]}, "optim.accumulate": {"grid": [1, 2]}}
    search = searching("random", space_of({**raw, "optim.lr": CONDITIONAL["optim.lr"]}))
    trials = [proposed(search, number, []) for number in range(8)]
    turns = [(trial["optim.name"], trial["optim.accumulate"]) for trial in trials]
    assert turns == [("sgd", 1), ("sgd", 2), ("adamw", 1), ("adamw", 2)] * 2
    assert len({trial["optim.lr"] for trial in trials}) == 8


def test_a_grid_setting_that_depends_on_a_drawn_one_is_set_only_where_that_holds() -> None:
    momentum = {"grid": [0.8, 0.9], "when": {"optim.name": "sgd"}}
    space = space_of({"optim.name": {"choice": ["sgd", "adamw"]}, "optim.momentum": momentum})
    search = searching("random", space)
    for number in range(20):
        trial = proposed(search, number, [])
        turn = {"optim.momentum": (0.8, 0.9)[number % 2]} if trial["optim.name"] == "sgd" else {}
        assert trial == {"optim.name": trial["optim.name"], **turn}


def test_a_random_search_skips_grid_points_that_no_trial_can_have(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tuning.space.MAX_DRAWS", 50)
    raw = {"batch_size_per_worker": {"grid": [8, 500, 16]}, "optim.accumulate": {"int": [1, 4]}}
    search = searching("random", space_of(raw, "images_per_step <= 64"))
    trials = [proposed(search, number, []) for number in range(4)]
    assert [trial["batch_size_per_worker"] for trial in trials] == [8, 16, 8, 16]


def test_a_grid_search_is_the_grid_and_then_exhausted() -> None:
    space = space_of({"optim.name": {"grid": ["sgd", "adamw"]}, "optim.lr": {"choice": [0.1, 0.2]}})
    search = searching("grid", space)
    assert isinstance(search, GridSearch)
    assert [search.propose(number, []) for number in range(4)] == grid_points(space, BASE, 2)
    assert search.propose(4, []) is None


def test_a_grid_search_over_ranges_names_them() -> None:
    with pytest.raises(ConfigError, match=r"optim\.lr \(loguniform\), optim\.accumulate \(int\)"):
        searching("grid", space_of(CONDITIONAL))


def test_optuna_begins_as_random_search_does() -> None:
    space = space_of(CONDITIONAL)
    observed = history(space, NUM_RANDOM - 1)
    random, tpe = searching("random", space), searching("optuna", space)
    assert isinstance(random, RandomSearch)
    assert isinstance(tpe, OptunaSearch)
    assert tpe.propose(9, observed) == random.propose(9, observed)
    observed = history(space, NUM_RANDOM)
    assert tpe.propose(10, observed) != random.propose(10, observed)


@pytest.mark.parametrize(("mode", "sign"), [("max", 1), ("min", -1)])
def test_optuna_comes_closer_than_random_search(mode: Mode, sign: int) -> None:
    space = space_of({"optim.lr": {"loguniform": [1e-6, 1e2]}})

    def objective(values: Values) -> float:
        return sign * near_one_percent(values)

    def mean_error(kind: Literal["random", "optuna"]) -> float:
        """Of the trials after the random ones, over four sweeps."""
        searches = [searching(kind, space, seed, mode) for seed in range(4)]
        sweeps = [run(search, objective, NUM_RANDOM + 15)[NUM_RANDOM:] for search in searches]
        return float(np.mean([abs(trial.value or 0.0) for sweep in sweeps for trial in sweep]))

    assert mean_error("optuna") < 0.8 * mean_error("random")  # over 12 sweeps it is 0.57


def test_optuna_proposes_only_what_space_and_constraints_allow() -> None:
    space = space_of(CONDITIONAL, "images_per_step <= 96", "optim.lr * optim.accumulate >= 0.01")
    dimensions = {dimension.path: dimension for dimension in space.dimensions}
    for trial in run(searching("optuna", space), near_one_percent, NUM_RANDOM + 10):
        assert is_allowed(space, BASE, trial.values, 2)
        assert ("optim.momentum" in trial.values) == (trial.values["optim.name"] == "sgd")
        assert all(dimensions[path].contains(value) for path, value in trial.values.items())


def test_optuna_falls_back_to_random_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tuning.search.MAX_ASKS", 0)
    space = space_of(CONDITIONAL)
    random, tpe = searching("random", space), searching("optuna", space)
    assert tpe.propose(20, history(space)) == random.propose(20, [])


def test_optuna_keeps_away_from_running_trials() -> None:
    space = space_of({"optim.lr": {"loguniform": [1e-4, 1.0]}})
    search = searching("optuna", space)
    observed = run(search, near_one_percent, 60)
    best = max(observed, key=lambda observation: observation.value or -math.inf).values
    running = [Observation(number=60 + n, values=best, value=None) for n in range(5)]

    def share_near_best(known: list[Observation]) -> float:
        """Of 20 proposals, within a fifth of a decade."""
        rates = [proposed(search, number, known)["optim.lr"] for number in range(100, 120)]
        return float(np.mean([abs(math.log10(rate / best["optim.lr"])) < 0.2 for rate in rates]))

    assert share_near_best(observed) > 0.25
    assert share_near_best(observed + running) < 0.1


def test_optuna_is_not_misled_by_what_stopped_trials_measured_early() -> None:
    space = space_of({"optim.lr": {"loguniform": [1e-4, 1.0]}})
    search = searching("optuna", space)
    observed = run(searching("random", space), near_one_percent, 60)

    def mean_error(stopped_at: int | None) -> float:
        """Of proposals after high rates looked best, in decades from the best rate."""
        known = [
            replace(o, value=1.0, stopped_at=stopped_at) if o.values["optim.lr"] > 0.1 else o
            for o in observed
        ]
        rates = [proposed(search, number, known)["optim.lr"] for number in range(100, 120)]
        return float(np.mean([abs(math.log10(rate) + 2) for rate in rates]))

    assert mean_error(3) < 0.5
    assert mean_error(None) > 1.0


def test_the_base_config_is_observed_with_its_own_values() -> None:
    space = space_of(CONDITIONAL)
    observed = history(space)
    search = searching("optuna", space)
    # By default 64 images per step are 2 micro-batches of 16 on each of 2 workers.
    in_full = {"optim.name": "sgd", "optim.lr": 0.01, "optim.accumulate": 2}
    in_full["optim.momentum"] = BASE.optim.momentum
    implied = [Observation(number=99, values={}, value=1.0), *observed]
    spelled = [Observation(number=99, values=in_full, value=1.0), *observed]
    assert search.propose(20, implied) == search.propose(20, spelled)
    assert search.propose(20, implied) != search.propose(20, observed)


def test_a_trial_outside_of_the_space_is_left_out() -> None:
    space = space_of(CONDITIONAL)
    observed = history(space)
    base = replace_at(BASE, "optim.lr", 0.5)
    search = build_search("optuna", space, base, seed=0, mode="max", world_size=2)
    outside = [Observation(number=99, values={}, value=1.0), *observed]
    assert search.propose(20, outside) == search.propose(20, observed)
