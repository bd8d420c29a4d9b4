"""Learning rate and momentum of a step (recipe, sections 2 and 4)."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim import SGD
from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    LRScheduler,
    MultiStepLR,
    OneCycleLR,
    StepLR,
)

from tests.builders import make_plan
from trainjobs.config import OptimConfig
from trainjobs.optim.schedule import (
    CYCLES,
    Schedule,
    decay_factor,
    lr_factor,
    weight_decay_in_force,
)
from trainjobs.step_plan import Step

SHAPES = ("linear", "cosine")
quick = settings(deadline=None, max_examples=40)


def step_at(epoch: int, progress: float) -> Step:
    return Step(epoch=epoch, index=0, first_position=0, sizes=(64,), warmup_progress=progress)


def make_schedule(config: OptimConfig, epochs: int, images_per_step: int) -> Schedule:
    return Schedule(config, epochs, make_plan(images_per_step=images_per_step))


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
    at = make_schedule(OptimConfig(), 100, 64).at(step_at(0, 0.0))
    assert (at.lr, at.bias_lr, at.momentum) == (0, 0.1, 0.8)


def test_halfway_through_warmup_everything_is_halfway() -> None:
    at = make_schedule(OptimConfig(lr=0.02), 100, 64).at(step_at(0, 0.5))
    assert at.lr == pytest.approx(0.01)
    assert at.bias_lr == pytest.approx((0.1 + 0.02) / 2)
    assert at.momentum == pytest.approx((0.8 + 0.937) / 2)


def test_after_warmup_lr_is_the_decayed_one_for_all_groups() -> None:
    config = OptimConfig(lr=0.02, final_lr_fraction=0.1)
    at = make_schedule(config, 10, 64).at(step_at(5, 1.0))
    assert (at.lr, at.bias_lr) == (pytest.approx(0.02 * 0.55),) * 2
    assert at.momentum == pytest.approx(0.937)


@quick
@given(progress=st.floats(0, 1), images=st.integers(1, 512))
def test_scaling_multiplies_every_lr_and_no_momentum(progress: float, images: int) -> None:
    config = OptimConfig(lr_scaling="none")
    scaled = make_schedule(config, 10, images).at(step_at(3, progress))
    plain = make_schedule(config, 10, 64).at(step_at(3, progress))
    assert scaled.lr == pytest.approx(plain.lr * 64 / images)
    assert scaled.bias_lr == pytest.approx(plain.bias_lr * 64 / images)
    assert scaled.momentum == plain.momentum


# Of torch's schedulers, which multiply the last lr again and again.
TORCH_TOLERANCE = 1e-9
EPOCHS, LR = 12, 0.02


def torch_lrs(build: Callable[[SGD], LRScheduler], count: int) -> list[float]:
    """Learning rates of so many steps of a scheduler of torch's."""
    optimizer = SGD([torch.zeros(1, requires_grad=True)], lr=LR)
    scheduler, lrs = build(optimizer), []
    for _ in range(count):
        lrs.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return lrs


@pytest.mark.parametrize(
    ("changes", "build"),
    [
        (
            {"schedule": "cosine", "final_lr_fraction": 0.1},
            partial(CosineAnnealingLR, T_max=EPOCHS, eta_min=LR / 10),
        ),
        (
            {"schedule": "step", "step_epochs": 5, "gamma": 0.3},
            partial(StepLR, step_size=5, gamma=0.3),
        ),
        (
            {"schedule": "multistep", "milestones": (2, 3, 8), "gamma": 0.5},
            partial(MultiStepLR, milestones=[2, 3, 8], gamma=0.5),
        ),
        ({"schedule": "constant"}, partial(ConstantLR, factor=1.0)),
    ],
)
def test_a_schedule_over_epochs_is_torchs(
    changes: dict[str, Any], build: Callable[[SGD], LRScheduler]
) -> None:
    schedule = make_schedule(OptimConfig(lr=LR, **changes), EPOCHS, 64)
    lrs = [schedule.at(step_at(epoch, 1.0)).lr for epoch in range(EPOCHS)]
    assert lrs == pytest.approx(torch_lrs(build, EPOCHS), abs=TORCH_TOLERANCE)


def cycle_lrs(config: OptimConfig, **plan: int) -> list[float]:
    """Learning rate of every step of a run."""
    schedule = Schedule(config, EPOCHS, make_plan(**plan))
    return [schedule.at(s).lr for epoch in range(EPOCHS) for s in schedule.plan.steps(epoch)]


@pytest.mark.parametrize(("shape", "anneal"), [("onecycle", "cos"), ("triangular", "linear")])
@pytest.mark.parametrize("peak", [0.25, 0.3, 0.77])
def test_a_cycle_over_equal_steps_is_torchs_one_cycle(shape: str, anneal: str, peak: float) -> None:
    config = OptimConfig(
        lr=LR, schedule=shape, peak_fraction=peak, start_lr_fraction=0.2, final_lr_fraction=0.01
    )
    found = cycle_lrs(config, num_images=20)
    torchs = partial(
        OneCycleLR,
        max_lr=LR,
        total_steps=len(found),
        pct_start=peak,
        anneal_strategy=anneal,
        cycle_momentum=False,
        div_factor=5.0,
        final_div_factor=20.0,
    )
    assert len(found) == 5 * EPOCHS
    # Torch takes a step more than it has lrs for.
    assert found[:-1] == pytest.approx(torch_lrs(torchs, len(found) - 1), abs=TORCH_TOLERANCE)
    assert found[-1] == pytest.approx(LR / 100, abs=TORCH_TOLERANCE)


@pytest.mark.parametrize("shape", CYCLES)
@pytest.mark.parametrize("world_size", [1, 3])
def test_a_cycle_starts_peaks_and_ends_where_it_is_told(shape: str, world_size: int) -> None:
    config = OptimConfig(
        lr=LR, schedule=shape, start_lr_fraction=0.2, peak_fraction=0.25, final_lr_fraction=0.05
    )
    lrs = cycle_lrs(config, num_images=20, world_size=world_size)
    quarter = len(lrs) // 4
    assert [lrs[0], lrs[quarter - 1], lrs[-1]] == pytest.approx([LR / 5, LR, LR / 20])
    assert max(lrs) == lrs[quarter - 1]


@pytest.mark.parametrize("shape", CYCLES)
def test_a_cycle_is_its_own_warmup_of_every_lr_and_not_of_momentum(shape: str) -> None:
    config = OptimConfig(lr=LR, schedule=shape, start_lr_fraction=0.5)
    warm = Schedule(config, EPOCHS, make_plan(warmup_images=60, warmup_micro_batches=2))
    plain = Schedule(config, EPOCHS, make_plan())
    first = next(make_plan().steps(0))
    at = warm.at(replace(first, warmup_progress=0.0))
    assert at.lr == at.bias_lr == plain.at(first).lr == LR / 2
    assert (at.momentum, plain.at(first).momentum) == (0.8, 0.937)


@pytest.mark.parametrize("shape", CYCLES)
@pytest.mark.parametrize("peak", [0.0, 0.01, 0.5, 1.0])
def test_a_cycle_rises_up_to_its_peak_and_never_after(shape: str, peak: float) -> None:
    config = OptimConfig(lr=LR, schedule=shape, peak_fraction=peak)
    lrs = cycle_lrs(config, warmup_images=30, images_per_step=6)
    top = lrs.index(max(lrs))
    assert lrs[: top + 1] == sorted(lrs[: top + 1])
    assert lrs[top:] == sorted(lrs[top:], reverse=True)
    assert max(lrs) <= LR and lrs[-1] == pytest.approx(LR if peak == 1 else LR / 100)


@pytest.mark.parametrize("shape", [*CYCLES, "step", "multistep", "constant"])
def test_a_schedule_depends_on_neither_the_ranks_nor_where_a_run_was_resumed(shape: str) -> None:
    config = OptimConfig(schedule=shape, milestones=(2,), step_epochs=2)
    one, four = (Schedule(config, 3, make_plan(world_size=w, warmup_images=9)) for w in (1, 4))
    for epoch in range(3):
        whole = [one.at(step) for step in one.plan.steps(epoch)]
        assert [four.at(step) for step in four.plan.steps(epoch)] == whole
        assert [one.at(step) for step in one.plan.steps(epoch, start=1)] == whole[1:]


def test_a_run_of_one_step_is_at_the_peak_of_a_cycle_that_ends_there() -> None:
    config = OptimConfig(lr=LR, schedule="onecycle", peak_fraction=1.0)
    plan = make_plan(num_images=4)
    assert Schedule(config, 1, plan).at(next(plan.steps(0))).lr == LR
