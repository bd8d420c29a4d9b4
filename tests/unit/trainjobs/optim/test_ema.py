"""The moving average of weights (recipe, section 2)."""

import math

import pytest
import torch
from torch import nn

from trainjobs.optim.ema import ModelEma

# Two float32 roundings.
TOLERANCE = 1e-6
TAKEN, SKIPPED = torch.tensor(True), torch.tensor(False)


def make_model(value: float) -> nn.Module:
    model = nn.Sequential(nn.Linear(2, 1), nn.BatchNorm1d(1))
    set_all(model, value)
    return model


def set_all(model: nn.Module, value: float) -> None:
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.fill_(value)


@pytest.mark.parametrize("updates", [1, 2000, 100_000])
def test_the_average_keeps_decay_times_one_minus_exp_of_updates(updates: int) -> None:
    model = make_model(0.0)
    ema = ModelEma(model, decay=0.9999, warmup_steps=2000)
    set_all(model, 1.0)
    ema.resume(ema.model.state_dict(), updates - 1)
    ema.update(TAKEN)
    kept = 0.9999 * (1 - math.exp(-updates / 2000))
    assert ema.model[0].weight[0, 0].item() == pytest.approx(1 - kept, abs=TOLERANCE)


def test_batch_norm_statistics_are_averaged_and_counts_copied() -> None:
    model = make_model(0.0)
    ema = ModelEma(model, decay=0.5, warmup_steps=1)
    ema.resume(ema.model.state_dict(), 999)
    set_all(model, 4.0)
    ema.update(TAKEN)
    assert ema.model[1].running_mean.item() == pytest.approx(2)
    assert ema.model[1].running_var.item() == pytest.approx(2)
    assert ema.model[1].num_batches_tracked.item() == 4


def test_a_decay_of_zero_follows_the_model_exactly() -> None:
    model = make_model(0.3)
    ema = ModelEma(model, decay=0.0, warmup_steps=2000)
    set_all(model, 0.7)
    ema.update(TAKEN)
    for name, value in model.state_dict().items():
        assert torch.equal(ema.model.state_dict()[name], value)


def test_the_average_is_for_evaluation_and_learns_nothing() -> None:
    ema = ModelEma(make_model(0.0).train(), decay=0.9, warmup_steps=1)
    assert not ema.model.training
    assert not any(parameter.requires_grad for parameter in ema.model.parameters())


def test_the_model_is_not_touched() -> None:
    model = make_model(1.0)
    ema = ModelEma(model, decay=0.9, warmup_steps=1)
    ema.update(TAKEN)
    assert model[0].weight.requires_grad
    assert all((tensor == 1).all() for tensor in model.state_dict().values())


def test_loading_states_in_place_keeps_the_pair_connected() -> None:
    model = make_model(0.0)
    ema = ModelEma(model, decay=0.5, warmup_steps=1)
    ema.resume(ema.model.state_dict(), 999)
    model.load_state_dict(make_model(8.0).state_dict())
    ema.model.load_state_dict(make_model(4.0).state_dict())
    ema.update(TAKEN)
    assert ema.model[0].bias.item() == pytest.approx(6)


@pytest.mark.parametrize("decay", [0.0, 0.9])
def test_a_step_that_was_skipped_is_no_update(decay: float) -> None:
    model = make_model(1.0)
    once, other = (ModelEma(model, decay=decay, warmup_steps=3) for _ in range(2))
    other.update(SKIPPED)  # the model has not moved
    set_all(model, 2.0)
    for ema in (once, other):
        ema.update(TAKEN)
    for name, value in once.model.state_dict().items():
        assert torch.equal(other.model.state_dict()[name], value)
