"""Learning rate and momentum of a step (recipe, sections 2 and 4)."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainjobs.config import OptimConfig
from trainjobs.optim.schedule import Schedule, decay_factor, lr_factor, weight_decay_in_force
from trainjobs.step_plan import Step

SHAPES = ("linear", "cosine")
quick = settings(deadline=None, max_examples=40)


def step_at(epoch: int, progress: float) -> Step:
    return Step(epoch=epoch, index=0, first_position=0, sizes=(64,), warmup_progress=progress)


@pytest.mark.parametrize("shape", SHAPES)
def test_decay_goes_from_one_to_the_final_fraction(shape: str) -> None:
    assert decay_factor(0, 100, 0.01, shape) == pytest.approx(1)
    assert decay_factor(50, 100, 0.01, shape) == pytest.approx((1 + 0.01) / 2)
    assert decay_factor(100, 100, 0.01, shape) == pytest.approx(0.01)


@pytest.mark.parametrize("shape", SHAPES)
def test_decay_never_rises(shape: str) -> None:
    factors = [decay_factor(epoch, 30, 0.1, shape) for epoch in range(31)]
    assert factors == sorted(factors, reverse=True)


def test_cosine_decays_slower_than_linear_at_first() -> None:
    assert decay_factor(10, 100, 0.01, "cosine") > decay_factor(10, 100, 0.01, "linear")


@pytest.mark.parametrize(
    ("name", "rule", "power"),
    [
        ("sgd", "linear", 0),
        ("sgd", "sqrt", -0.5),
        ("sgd", "none", -1),
        ("adam", "linear", 1),
        ("adam", "sqrt", 0.5),
        ("adam", "none", 0),
        ("adamw", "linear", 1),
        ("adamw", "none", 0),
    ],
)
def test_lr_scales_by_images_over_nominal_to_the_power_of_the_rule(
    name: str, rule: str, power: float
) -> None:
    config = OptimConfig(name=name, lr_scaling=rule)
    assert lr_factor(config, 256) == pytest.approx(4**power)


def test_auto_scaling_is_linear_for_sgd_and_none_for_adam() -> None:
    for name, rule in (("sgd", "linear"), ("adam", "none"), ("adamw", "none")):
        explicit = OptimConfig(name=name, lr_scaling=rule)
        assert lr_factor(OptimConfig(name=name), 320) == lr_factor(explicit, 320)


@quick
@given(name=st.sampled_from(["sgd", "adam"]), rule=st.sampled_from(["linear", "sqrt", "none"]))
def test_no_rule_changes_lr_at_the_nominal_batch_size(name: str, rule: str) -> None:
    assert lr_factor(OptimConfig(name=name, lr_scaling=rule, nominal_batch_size=48), 48) == 1


def test_weight_decay_follows_images_per_step() -> None:
    assert weight_decay_in_force(OptimConfig(weight_decay=5e-4), 128) == pytest.approx(1e-3)


def test_warmup_starts_at_zero_with_the_biases_high_and_momentum_low() -> None:
    at = Schedule(OptimConfig(), 100, 64).at(step_at(0, 0.0))
    assert (at.lr, at.bias_lr, at.momentum) == (0, 0.1, 0.8)


def test_halfway_through_warmup_everything_is_halfway() -> None:
    at = Schedule(OptimConfig(lr=0.02), 100, 64).at(step_at(0, 0.5))
    assert at.lr == pytest.approx(0.01)
    assert at.bias_lr == pytest.approx((0.1 + 0.02) / 2)
    assert at.momentum == pytest.approx((0.8 + 0.937) / 2)


def test_after_warmup_lr_is_the_decayed_one_for_all_groups() -> None:
    config = OptimConfig(lr=0.02, final_lr_fraction=0.1)
    at = Schedule(config, 10, 64).at(step_at(5, 1.0))
    assert (at.lr, at.bias_lr) == (pytest.approx(0.02 * 0.55),) * 2
    assert at.momentum == pytest.approx(0.937)


@quick
@given(progress=st.floats(0, 1), images=st.integers(1, 512))
def test_scaling_multiplies_every_lr_and_no_momentum(progress: float, images: int) -> None:
    config = OptimConfig(lr_scaling="none")
    scaled = Schedule(config, 10, images).at(step_at(3, progress))
    plain = Schedule(config, 10, 64).at(step_at(3, progress))
    assert scaled.lr == pytest.approx(plain.lr * 64 / images)
    assert scaled.bias_lr == pytest.approx(plain.bias_lr * 64 / images)
    assert scaled.momentum == plain.momentum
