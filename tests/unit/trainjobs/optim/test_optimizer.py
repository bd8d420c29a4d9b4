"""Parameter groups, what a step does to weights, clipping (recipe, sections 2 and 4.2)."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW

from cluster.errors import CheckpointError, ConfigError
from tests.builders import CPU, make_plan
from trainjobs.config import OptimConfig
from trainjobs.optim.optimizer import (
    apply_settings,
    build_optimizer,
    clip_gradients,
    load_moments,
    lr_in_force,
    parameter_groups,
)
from trainjobs.optim.parts import freeze_parts
from trainjobs.optim.precision import Precision
from trainjobs.optim.schedule import Schedule, StepSettings
from trainjobs.step_plan import Step

NOMINAL = 64
AFTER_WARMUP = Step(epoch=0, index=0, first_position=0, sizes=(1,), warmup_progress=1.0)


def make_model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2)).double()


def update(config: OptimConfig, images_per_step: int) -> Tensor:
    """How one step at full lr changes the convolution, with a gradient of one per image everywhere."""
    model = make_model()
    weight = model[0].weight
    before = weight.detach().clone()
    optimizer = build_optimizer(model, config, images_per_step)
    apply_settings(
        optimizer, Schedule(config, 10, make_plan(images_per_step=images_per_step)).at(AFTER_WARMUP)
    )
    weight.grad = torch.full_like(weight, float(images_per_step))
    optimizer.step()
    return weight.detach() - before


def test_only_weights_of_convolutions_and_linear_layers_are_decayed() -> None:
    model = make_model()
    optimizer = build_optimizer(model, OptimConfig(), NOMINAL)
    decayed = {id(p) for g in optimizer.param_groups if g["weight_decay"] > 0 for p in g["params"]}
    assert decayed == {id(model[0].weight), id(model[2].weight)}


def test_every_trainable_parameter_is_in_one_group() -> None:
    model = make_model()
    model[2].bias.requires_grad_(requires_grad=False)
    groups = parameter_groups(model)
    assert {role: len(found) for role, found in groups.items()} == {
        "bias": 2,
        "weight": 2,
        "norm": 1,
    }
    found = [id(p) for group in groups.values() for p in group.values()]
    assert len(set(found)) == len(found)


@pytest.mark.parametrize(("name", "kind"), [("sgd", SGD), ("adam", Adam), ("adamw", AdamW)])
def test_optimizer_is_the_one_named(name: str, kind: type) -> None:
    assert type(build_optimizer(make_model(), OptimConfig(name=name), NOMINAL)) is kind


def test_sgd_is_nesterov_where_that_is_on_and_there_is_momentum() -> None:
    for momentum, on, nesterov in ((0.9, True, True), (0.9, False, False), (0.0, True, False)):
        config = OptimConfig(momentum=momentum, nesterov=on)
        optimizer = build_optimizer(make_model(), config, NOMINAL)
        assert {g["nesterov"] for g in optimizer.param_groups} == {nesterov}


@settings(deadline=None, max_examples=20)
@given(factor=st.integers(1, 8))
@pytest.mark.parametrize(("rule", "power"), [("linear", 1), ("sqrt", 0.5), ("none", 0)])
def test_an_sgd_update_scales_with_images_as_its_rule_says(
    rule: str, power: float, factor: int
) -> None:
    # lr (G + decay w): gradient and decay grow together, so the update as a whole scales.
    config = OptimConfig(name="sgd", lr_scaling=rule, weight_decay=0.1)
    expected = update(config, NOMINAL) * factor**power
    torch.testing.assert_close(update(config, NOMINAL * factor), expected)


def test_an_adam_update_does_not_scale_with_images_unless_asked() -> None:
    for rule, factor in (("auto", 1), ("sqrt", 2), ("linear", 4)):
        config = OptimConfig(name="adam", lr_scaling=rule)
        torch.testing.assert_close(update(config, 4 * NOMINAL), update(config, NOMINAL) * factor)


def test_one_sgd_step_by_hand() -> None:
    config = OptimConfig(lr=0.1, momentum=0.9, weight_decay=0.01)
    weight = make_model()[0].weight.detach()
    # Nesterov from rest: d + momentum d, with d = gradient + decay weight.
    expected = -0.1 * (1 + 0.9) * (NOMINAL + 0.01 * weight)
    torch.testing.assert_close(update(config, NOMINAL), expected)


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_settings_reach_every_group(name: str) -> None:
    optimizer = build_optimizer(make_model(), OptimConfig(name=name), NOMINAL)
    apply_settings(optimizer, StepSettings(lr=0.1, bias_lr=0.2, momentum=0.7))
    for group in optimizer.param_groups:
        assert group["lr"] == (0.2 if group["role"] == "bias" else 0.1)
        assert (group["betas"] if name == "adam" else group["momentum"]) == (
            (0.7, 0.999) if name == "adam" else 0.7
        )


def parameter_with_gradient(*values: float) -> nn.Parameter:
    parameter = nn.Parameter(torch.zeros(len(values)))
    parameter.grad = torch.tensor(values)
    return parameter


def test_clipping_scales_a_long_gradient_down_and_returns_its_norm() -> None:
    parameter = parameter_with_gradient(30.0, 40.0)
    assert clip_gradients([parameter], 10.0).item() == 50
    torch.testing.assert_close(parameter.grad, torch.tensor([6.0, 8.0]))


@pytest.mark.parametrize("limit", [100.0, 0.0])
def test_clipping_leaves_a_short_gradient_or_any_without_a_limit(limit: float) -> None:
    parameter = parameter_with_gradient(30.0, 40.0)
    assert clip_gradients([parameter], limit).item() == 50
    assert parameter.grad.tolist() == [30, 40]


def test_moments_are_taken_over_and_the_weight_decay_is_not() -> None:
    model = nn.Linear(2, 1)
    before = build_optimizer(model, OptimConfig(weight_decay=0.1), 64)
    model(torch.ones(1, 2)).sum().backward()
    before.step()
    after = build_optimizer(model, OptimConfig(weight_decay=0.2), 64)
    load_moments(after, before.state_dict())
    assert [group["weight_decay"] for group in after.param_groups if group["role"] == "weight"] == [
        0.2
    ]
    assert torch.equal(
        after.state[model.weight]["momentum_buffer"], before.state[model.weight]["momentum_buffer"]
    )


def named_lrs(optimizer: torch.optim.Optimizer) -> dict[str, float]:
    return {name: group["lr"] for group in optimizer.param_groups for name in group["names"]}


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_the_longest_part_that_a_parameter_is_in_multiplies_its_lr(name: str) -> None:
    config = OptimConfig(name=name, lr_factors={"0": 0.5, "2.": 4.0, "2.bias": 0.25})
    optimizer = build_optimizer(make_model(), config, NOMINAL)
    apply_settings(optimizer, StepSettings(lr=1.0, bias_lr=8.0, momentum=0.7))
    assert named_lrs(optimizer) == {
        **{"0.weight": 0.5, "0.bias": 4.0, "1.weight": 1.0, "1.bias": 8.0},
        **{"2.weight": 4.0, "2.bias": 2.0},
    }
    assert lr_in_force(optimizer) == 1.0


@pytest.mark.parametrize("frozen", [(), ("0.weight", "2.weight")])
def test_the_lr_told_is_exactly_the_schedules_whatever_the_factors(frozen: tuple[str, ...]) -> None:
    model = make_model()
    freeze_parts(model, frozen)
    # x * 0.7 / 0.7 is not always x; the group of this factor comes first.
    optimizer = build_optimizer(model, OptimConfig(lr_factors={"0": 0.7}), NOMINAL)
    for lr in (number / 100 for number in range(1, 100)):
        apply_settings(optimizer, StepSettings(lr=lr, bias_lr=8.0, momentum=0.7))
        assert lr_in_force(optimizer) == lr


def test_factors_of_one_change_nothing() -> None:
    plain = update(OptimConfig(), NOMINAL)
    assert torch.equal(update(OptimConfig(lr_factors={"0": 1.0, "2": 0.1}), NOMINAL), plain)


def test_a_factor_multiplies_the_update() -> None:
    halved = update(OptimConfig(lr_factors={"0.weight": 0.5}), NOMINAL)
    torch.testing.assert_close(halved, update(OptimConfig(), NOMINAL) / 2)


def test_factors_leave_weight_decay_with_the_weights() -> None:
    optimizer = build_optimizer(make_model(), OptimConfig(lr_factors={"0": 0.5}), NOMINAL)
    decayed = {n for g in optimizer.param_groups if g["weight_decay"] > 0 for n in g["names"]}
    assert decayed == {"0.weight", "2.weight"}


def test_a_part_that_the_model_does_not_have_is_an_error_with_near_names() -> None:
    with pytest.raises(ConfigError, match=r"optim.lr_factors: .* no '2.wight'; near it: 2.weight"):
        build_optimizer(make_model(), OptimConfig(lr_factors={"2.wight": 0.5}), NOMINAL)


def stepped(model: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    optimizer = build_optimizer(model, config, NOMINAL)
    for number, parameter in enumerate(p for p in model.parameters() if p.requires_grad):
        parameter.grad = torch.full_like(parameter, float(number + 1))
    optimizer.step()
    return optimizer


def moments(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    states = {name: optimizer.state.get(p, {}) for name, p in model.named_parameters()}
    return {name: s["momentum_buffer"] for name, s in states.items() if "momentum_buffer" in s}


def test_moments_find_their_parameters_in_other_groups() -> None:
    model = make_model()
    before = stepped(model, OptimConfig(lr_factors={"2": 0.5}))
    for factors in ({}, {"0": 0.1, "1.bias": 2.0}):
        after = build_optimizer(model, OptimConfig(lr_factors=factors), NOMINAL)
        load_moments(after, before.state_dict())
        torch.testing.assert_close(moments(model, after), moments(model, before), rtol=0, atol=0)
        assert {g["lr_factor"] for g in after.param_groups} == {1.0, *factors.values()}


def test_what_is_no_longer_frozen_starts_at_rest_and_the_others_go_on() -> None:
    model = make_model()
    freeze_parts(model, ["0."])
    before = stepped(model, OptimConfig())
    model[0].requires_grad_(requires_grad=True)
    after = build_optimizer(model, OptimConfig(), NOMINAL)
    load_moments(after, before.state_dict())
    found = moments(model, after)
    assert not found.pop("0.weight").any() and not found.pop("0.bias").any()
    assert set(found) == {"1.weight", "1.bias", "2.weight", "2.bias"}
    torch.testing.assert_close(found, moments(model, before), rtol=0, atol=0)


def test_momentum_starts_at_rest_where_the_first_step_is_skipped() -> None:
    model, other = make_model(), make_model()
    for network, skips in ((model, 1), (other, 0)):
        optimizer = build_optimizer(network, OptimConfig(), NOMINAL)
        for is_skipped in [*[True] * skips, False]:
            for number, parameter in enumerate(network.parameters()):
                parameter.grad = torch.full_like(parameter, float("nan") if is_skipped else number)
            Precision("fp32", CPU).step(optimizer, torch.tensor(not is_skipped))
    torch.testing.assert_close(model.state_dict(), other.state_dict(), rtol=0, atol=0)


def without_names(state: dict[str, Any]) -> dict[str, Any]:
    """As a version before names and factors saved it."""
    new = ("names", "lr_factor")
    groups = [{k: v for k, v in g.items() if k not in new} for g in state["param_groups"]]
    return {**state, "param_groups": groups}


def test_moments_without_names_are_those_of_the_same_groups() -> None:
    model = make_model()
    before = stepped(model, OptimConfig())
    after = build_optimizer(model, OptimConfig(), NOMINAL)
    load_moments(after, without_names(before.state_dict()))
    torch.testing.assert_close(moments(model, after), moments(model, before), rtol=0, atol=0)
    other = build_optimizer(model, OptimConfig(lr_factors={"0": 0.5}), NOMINAL)
    with pytest.raises(CheckpointError, match=r"without model.freeze and optim.lr_factors"):
        load_moments(other, without_names(before.state_dict()))
