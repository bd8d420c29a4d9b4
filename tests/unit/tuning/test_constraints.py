"""Constraints are arithmetic on settings, and nothing else is ever run."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.config_io import replace_at
from cluster.errors import ConfigError
from trainjobs.config import TrainConfig
from tuning.constraints import check_constraint, holds, names_in, value_in_force
from tuning.dimension import Dimension

quick = settings(deadline=None, max_examples=30)
BASE = TrainConfig()  # 100 epochs, batches of 16, accumulate auto: 64 images per step


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("images_per_step == 64", True),
        ("images_per_step < 64", False),
        ("optim.images_per_step >= 64", True),
        ("epochs * optim.accumulate <= 200", True),
        ("epochs * (optim.accumulate + 1) > 300", False),
        ("-epochs / 2 + 50 == 0", True),
        ("1 < optim.accumulate < 3", True),
        ("1 < 2 < 2", False),
        ("epochs / optim.warmup_epochs < 34", True),
    ],
)
def test_comparisons_follow_arithmetic(text: str, expected: bool) -> None:
    assert holds(text, BASE, 2) is expected


@quick
@given(a=st.integers(-99, 99), b=st.integers(-99, 99), c=st.integers(1, 99))
def test_precedence_is_that_of_python(a: int, b: int, c: int) -> None:
    left, right = a + b * c - a / c, (a + b) * c
    assert holds(f"{a} + {b} * {c} - {a} / {c} <= ({a} + {b}) * {c}", BASE, 1) == (left <= right)


def test_a_division_by_zero_satisfies_nothing() -> None:
    config = replace_at(BASE, "optim.warmup_epochs", 0.0)
    assert not holds("epochs / optim.warmup_epochs >= 0", config, 2)
    assert not holds("epochs / optim.warmup_epochs < 0", config, 2)


def test_a_number_that_overflows_satisfies_nothing() -> None:
    assert not holds(f"{'9' * 400} / 7 > 1", BASE, 2)


def test_names_are_found_once_each_in_order() -> None:
    text = "epochs * optim.lr <= images_per_step + epochs"
    assert names_in(text) == ("epochs", "optim.lr", "images_per_step")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "epochs",
        "epochs <",
        "epochs != 3",
        "epochs < 3 and epochs > 1",
        "epochs ** 2 < 10",
        "epochs % 2 == 0",
        "max(epochs, 2) < 3",
        "__import__('os').getpid() > 0",
        "epochs < '3'",
        "epochs < True",
        "[epochs][0] < 3",
        "epochs < 3j",
        "epochs = 3",
        "epochs \0 < 3",
    ],
)
def test_whatever_is_no_comparison_of_numbers_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"constraint .* must be a comparison"):
        names_in(text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("lr < 1", "constraint 'lr < 1': unknown setting 'lr': did you mean optim.lr"),
        ("optim < 1", "constraint 'optim < 1': optim is a group of settings"),
        ("optim.name == 1", "optim.name must be a number, got 'sgd'"),
        ("data.loader_workers < 4", "data.loader_workers must be a number, got 'auto'"),
    ],
)
def test_a_name_that_is_no_number_is_refused(text: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_constraint(text, [], BASE, 2)
    assert says in str(caught.value)


def test_a_setting_that_is_no_number_in_the_base_config_may_be_one_in_every_trial() -> None:
    varied = Dimension(path="data.loader_workers", kind="int", low=0, high=4)
    check_constraint("data.loader_workers <= 2", [varied], BASE, 2)
    mixed = Dimension(path="data.loader_workers", kind="choice", values=("auto", 2))
    with pytest.raises(ConfigError, match="must be a number, got 'auto'"):
        check_constraint("data.loader_workers <= 2", [mixed], BASE, 2)


@quick
@given(batch=st.integers(1, 64), accumulate=st.integers(1, 8), world_size=st.integers(1, 8))
def test_accumulation_is_the_same_number_by_either_name(
    batch: int, accumulate: int, world_size: int
) -> None:
    config = replace_at(BASE, "batch_size_per_worker", batch)
    by_count = replace_at(config, "optim.accumulate", accumulate)
    images = value_in_force(by_count, "images_per_step", world_size)
    assert images == batch * accumulate * world_size
    by_images = replace_at(config, "optim.images_per_step", images)
    assert value_in_force(by_images, "optim.accumulate", world_size) == accumulate
