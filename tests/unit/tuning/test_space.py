"""What a search space may say, and what is drawn from it."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.config_io import parse_yaml, replace_at, value_at
from cluster.errors import ConfigError
from trainjobs.config import TrainConfig
from trainjobs.resolve import resolve_launch
from tuning.dimension import Dimension
from tuning.space import (
    Space,
    apply,
    check_constraints,
    check_space,
    default_space,
    grid_points,
    is_finite,
    parse_space,
    sample,
)

BASE = TrainConfig()
DEFAULT_SPACE = parse_space(default_space(BASE), "default search space")
quick = settings(deadline=None, max_examples=30)
SGD_ONLY = {
    "optim.momentum": {"uniform": [0.8, 0.98], "when": {"optim.name": "sgd"}},
    "optim.name": {"grid": ["sgd", "adamw"]},
}


def space_of(raw: dict[str, Any], *constraints: str) -> Space:
    return parse_space({**raw, "constraints": list(constraints)}, "space.yaml")


def checked(raw: dict[str, Any], *constraints: str, base: TrainConfig = BASE) -> Space:
    space = space_of(raw, *constraints)
    check_space(space, base)
    check_constraints(space, base, 2)
    return space


def drawn(space: Space, seed: int, base: TrainConfig = BASE) -> dict[str, Any]:
    return sample(space, base, np.random.default_rng(seed), 2)


def problem(raw: Any, *constraints: str, base: TrainConfig = BASE) -> str:
    """The message of the error; it is one line that names the file."""
    with pytest.raises(ConfigError) as caught:
        checked(raw, *constraints, base=base)
    message = str(caught.value)
    assert message.startswith("space.yaml")
    assert "\n" not in message
    return message


def test_the_form_in_the_documentation_is_read() -> None:
    space = parse_space(
        parse_yaml(
            """
            optim.lr: {loguniform: [1e-4, 1e-1]}
            optim.weight_decay: {uniform: [0.0, 0.001]}
            optim.accumulate: {int: [1, 4]}
            model.name: {choice: [yolov5n, yolov5s]}
            optim.name: {grid: [sgd, adamw]}
            optim.momentum: {uniform: [0.8, 0.98], when: {optim.name: sgd}}
            constraints: ["images_per_step <= 256", "epochs * optim.accumulate <= 300"]
            """,
            "space.yaml",
        ),
        "space.yaml",
    )
    check_space(space, BASE)
    check_constraints(space, BASE, 2)
    lr, *_, momentum = space.dimensions
    assert lr == Dimension(path="optim.lr", kind="loguniform", low=1e-4, high=1e-1)
    assert momentum.when == (("optim.name", ("sgd",)),)
    assert len(space.constraints) == 2


def test_a_number_written_as_text_is_a_bound() -> None:
    space = checked({"optim.lr": {"loguniform": ["1e-4", "1e-1"]}})
    assert (space.dimensions[0].low, space.dimensions[0].high) == (1e-4, 1e-1)


@pytest.mark.parametrize("kind", ["int", "logint"])
def test_whole_ranges_include_both_ends_and_nothing_else(kind: str) -> None:
    space = checked({"optim.accumulate": {kind: [1, 3]}})
    values = [drawn(space, seed)["optim.accumulate"] for seed in range(60)]
    assert set(values) == {1, 2, 3}
    assert all(type(value) is int for value in values)


@quick
@given(
    kind=st.sampled_from(["uniform", "loguniform", "int", "logint"]),
    low=st.integers(1, 50),
    width=st.integers(1, 50),
    seed=st.integers(0, 1000),
)
def test_every_draw_lies_in_its_range(kind: str, low: int, width: int, seed: int) -> None:
    dimension = space_of({"augment.degrees": {kind: [low, low + width]}}).dimensions[0]
    value = dimension.draw(np.random.default_rng(seed))
    assert dimension.contains(value)
    assert low <= value <= low + width


def test_half_of_a_logarithmic_draw_is_below_the_geometric_mean() -> None:
    dimension = space_of({"optim.lr": {"loguniform": [1e-4, 1e-2]}}).dimensions[0]
    rng = np.random.default_rng(0)
    below = np.mean([dimension.draw(rng) < 1e-3 for _ in range(2000)])
    assert abs(below - 0.5) < 0.05  # 4.5 standard errors


@quick
@given(seed=st.integers(0, 1000))
def test_a_trial_is_the_base_config_with_its_values(seed: int) -> None:
    values = drawn(DEFAULT_SPACE, seed)
    config, stepwise = apply(BASE, values), BASE
    for path, value in values.items():
        assert value_at(config, path) == value
        stepwise = replace_at(stepwise, path, value)
    assert config == stepwise


def test_the_default_space_fits_the_default_config_and_holds_its_rates() -> None:
    check_space(DEFAULT_SPACE, BASE)
    check_constraints(DEFAULT_SPACE, BASE, 2)
    for dimension in DEFAULT_SPACE.dimensions[:2]:
        assert dimension.contains(value_at(BASE, dimension.path))


def test_a_conditional_setting_is_set_only_where_its_condition_holds() -> None:
    space = checked(SGD_ONLY)
    trials = [drawn(space, seed) for seed in range(40)]
    assert {trial["optim.name"] for trial in trials} == {"sgd", "adamw"}
    assert all(("optim.momentum" in t) == (t["optim.name"] == "sgd") for t in trials)


def test_a_condition_takes_a_list_of_values() -> None:
    momentum = {"uniform": [0.8, 0.98], "when": {"optim.name": ["adam", "adamw"]}}
    space = checked(
        {"optim.name": {"choice": ["sgd", "adam", "adamw"]}, "optim.momentum": momentum}
    )
    trials = [drawn(space, seed) for seed in range(40)]
    assert all(("optim.momentum" in t) == (t["optim.name"] != "sgd") for t in trials)


def test_a_condition_on_a_setting_that_does_not_vary_looks_at_the_base_config() -> None:
    raw = {"optim.momentum": SGD_ONLY["optim.momentum"], "optim.lr": {"uniform": [0.1, 0.2]}}
    space = checked(raw)
    assert drawn(space, 0).keys() == {"optim.momentum", "optim.lr"}
    assert drawn(space, 0, replace_at(BASE, "optim.name", "adamw")).keys() == {"optim.lr"}


def test_conditions_are_drawn_before_what_depends_on_them() -> None:
    assert [d.path for d in checked(SGD_ONLY).dimensions] == ["optim.name", "optim.momentum"]


def test_conditions_in_a_circle_are_refused() -> None:
    raw = {
        "optim.name": {"choice": ["sgd", "adamw"], "when": {"optim.schedule": "linear"}},
        "optim.schedule": {"choice": ["linear", "cosine"], "when": {"optim.name": "sgd"}},
    }
    assert "optim.name, optim.schedule depend on each other in a circle" in problem(raw)


def test_a_grid_is_every_combination_once() -> None:
    space = checked({"optim.name": {"grid": ["sgd", "adamw"]}, "optim.lr": {"choice": [0.1, 0.2]}})
    assert is_finite(space)
    assert grid_points(space, BASE, 2) == [
        {"optim.name": "sgd", "optim.lr": 0.1},
        {"optim.name": "sgd", "optim.lr": 0.2},
        {"optim.name": "adamw", "optim.lr": 0.1},
        {"optim.name": "adamw", "optim.lr": 0.2},
    ]


def test_a_grid_has_no_copies_where_a_conditional_setting_is_not_set() -> None:
    raw = {**SGD_ONLY, "optim.momentum": {"grid": [0.8, 0.9], "when": {"optim.name": "sgd"}}}
    assert grid_points(checked(raw), BASE, 2) == [
        {"optim.name": "sgd", "optim.momentum": 0.8},
        {"optim.name": "sgd", "optim.momentum": 0.9},
        {"optim.name": "adamw"},
    ]


def test_a_grid_holds_exactly_what_the_constraints_allow() -> None:
    raw = {"optim.accumulate": {"grid": [1, 2, 4]}, "batch_size_per_worker": {"grid": [8, 16]}}
    space = checked(raw, "images_per_step <= 32")
    pairs = [tuple(point.values()) for point in grid_points(space, BASE, 2)]
    assert pairs == [(1, 8), (1, 16), (2, 8)]  # accumulate * batch * 2 workers


@pytest.mark.parametrize("raw", [SGD_ONLY, {"optim.lr": {"uniform": [0.1, 0.2]}}])
def test_a_grid_over_a_range_names_the_settings_to_change(raw: dict[str, Any]) -> None:
    varied = next(path for path, spec in raw.items() if "uniform" in spec)
    with pytest.raises(ConfigError, match=rf"give {varied} \(uniform\) as a grid or a choice"):
        grid_points(checked(raw), BASE, 2)


def test_a_grid_too_large_to_list_is_refused() -> None:
    hundred = {"choice": [n / 100 for n in range(1, 101)]}
    raw = {f"augment.{name}": hundred for name in ("hsv_h", "hsv_s", "hsv_v")}
    with pytest.raises(ConfigError, match="<= 10000 points, got 1000000"):
        grid_points(space_of(raw), BASE, 2)


@quick
@given(seed=st.integers(0, 1000), limit=st.integers(32, 128))
def test_every_draw_satisfies_the_constraints(seed: int, limit: int) -> None:
    raw = {"optim.accumulate": {"int": [1, 8]}, "batch_size_per_worker": {"int": [4, 32]}}
    space = space_of(raw, f"images_per_step <= {limit}", "optim.accumulate >= 2")
    config = apply(BASE, drawn(space, seed))
    images_per_step = resolve_launch(config, world_size=2).optim.images_per_step
    assert images_per_step is not None
    assert images_per_step <= limit
    assert config.optim.accumulate != 1


def test_a_space_that_no_trial_satisfies_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tuning.space.MAX_DRAWS", 50)
    raw = {"optim.accumulate": {"int": [1, 4]}}
    message = problem(raw, "images_per_step <= 16", "epochs > 1")
    assert "no trial satisfies 'images_per_step <= 16' and 'epochs > 1'" in message


def test_a_grid_of_which_few_points_are_allowed_is_not_empty(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tuning.space.MAX_DRAWS", 2)
    ten = {"choice": [n / 10 for n in range(10)]}
    checked({"augment.hsv_h": ten, "augment.hsv_s": ten}, "augment.hsv_h + augment.hsv_s >= 1.8")


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        ([], "must be a mapping of settings to distributions, got []"),
        ({}, "names no setting to vary, such as optim.lr"),
        ({"optim.lr": 0.1}, "optim.lr must be a distribution such as choice: [1, 2], got 0.1"),
        ({"optim.lr": {"lognormal": [1, 2]}}, "unknown distribution 'lognormal': did you mean"),
        ({"optim.lr": {}}, "must have exactly one of uniform, loguniform, int"),
        ({"optim.lr": {"choice": [1], "int": [1, 2]}}, "exactly one of uniform"),
        ({"optim.lr": {"uniform": [0.2, 0.1]}}, "low < high, got [0.2, 0.1]"),
        ({"optim.lr": {"uniform": [0.1, 0.1]}}, "low < high, got [0.1, 0.1]"),
        ({"optim.lr": {"uniform": [0.1]}}, "two finite numbers [low, high], got [0.1]"),
        ({"optim.lr": {"uniform": [0, ".inf"]}}, "two finite numbers"),
        ({"optim.lr": {"uniform": [0, True]}}, "two finite numbers"),
        ({"optim.lr": {"loguniform": [0, 0.1]}}, "loguniform must begin above 0, got [0, 0.1]"),
        ({"optim.accumulate": {"int": [1, 2.5]}}, "int must be two whole numbers [low, high]"),
        ({"optim.lr": {"choice": []}}, "choice must be a list of at least one value, got []"),
        ({"optim.lr": {"grid": [0.1, 0.1]}}, "grid must list each value once, got 0.1 twice"),
        ({"optim.lr": {"choice": [[1, 2]]}}, "choice must list single values, got [1, 2]"),
        ({"optim.lr": {"choice": [1], "when": "sgd"}}, "when must be a mapping such as"),
        ({"optim.lr": {"choice": [1], "when": {"optim.name": []}}}, "at least one value"),
        ({"optim.lr": {"choice": [1]}, "constraints": "x < 1"}, "constraints must be a list"),
    ],
)
def test_a_space_of_another_form_is_refused(raw: Any, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_space(raw, "space.yaml")
    assert str(caught.value).startswith("space.yaml")
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        ({"lr": {"choice": [1]}}, "unknown setting 'lr': did you mean optim.lr?"),
        ({"optim": {"choice": [1]}}, "optim is a group of settings; name one of them"),
        ({"optim.lr": {"uniform": [-1, 0.1]}}, "optim.lr must be >= 0, got -1.0"),
        ({"optim.name": {"choice": ["sgd", "lion"]}}, "sgd or adam or adamw, got 'lion'"),
        ({"batch_size_per_worker": {"uniform": [1, 8]}}, "whole numbers are int or logint"),
        ({"resources.num_workers": {"choice": [1]}}, "resources.num_workers cannot vary: all"),
        ({"tracking.uri": {"choice": ["x"]}}, "tracking.uri cannot vary"),
        ({"run_name": {"choice": ["x"]}}, "run_name cannot vary: the sweep names its trials"),
        ({"seed": {"int": [0, 9]}}, "seed cannot vary: the sweep gives every trial its seed"),
        ({"epochs": {"int": [1, 9]}}, "epochs cannot vary: it is one for the whole sweep"),
    ],
)
def test_settings_and_values_are_compared_with_the_config(raw: Any, says: str) -> None:
    assert says in problem(raw)


@pytest.mark.parametrize(
    ("condition", "says"),
    [
        ({"optimizer": "sgd"}, "when of optim.momentum: unknown setting 'optimizer'"),
        ({"optim": "sgd"}, "when of optim.momentum: optim is a group of settings"),
        ({"optim.name": "sdg"}, "sgd or adam or adamw, got 'sdg'"),
        ({"optim.name": "adam"}, "optim.name is never 'adam'; its choice is ['sgd', 'adamw']"),
        ({"optim.lr": 0.1}, "with a list of values or whole numbers, got optim.lr (uniform)"),
        ({"optim.accumulate": 5}, "optim.accumulate is never 5; its int is [1, 4]"),
    ],
)
def test_a_condition_that_never_holds_is_refused(condition: dict[str, Any], says: str) -> None:
    raw = {
        "optim.name": {"choice": ["sgd", "adamw"]},
        "optim.lr": {"uniform": [0.1, 0.2]},
        "optim.accumulate": {"int": [1, 4]},
        "optim.momentum": {"uniform": [0.8, 0.98], "when": condition},
    }
    assert says in problem(raw)


def test_accumulation_and_images_per_step_do_not_both_vary() -> None:
    accumulate, images = {"int": [1, 4]}, {"choice": [32, 64]}
    both = {"optim.accumulate": accumulate, "optim.images_per_step": images}
    assert "overrides optim.accumulate: vary one of them" in problem(both)
    fixed = replace_at(BASE, "optim.images_per_step", 64)
    assert "while optim.images_per_step is 64" in problem(
        {"optim.accumulate": accumulate}, base=fixed
    )
    fixed = replace_at(BASE, "optim.accumulate", 2)
    assert "while optim.accumulate is 2" in problem({"optim.images_per_step": images}, base=fixed)
