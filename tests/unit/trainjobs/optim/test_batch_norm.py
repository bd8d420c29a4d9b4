"""Running statistics of a step (recipe, section 4.6)."""

import copy

import pytest
import torch
from torch import Tensor, nn

from trainjobs.optim.batch_norm import StepBatchNorm2d, StepStatistics, record_batch_norm

# Float32 roundings: torch computes (1 - r) a + r b, we a + r (b - a).
TOLERANCE = 1e-6
MOMENTUM = 0.03
SIZES = (5, 3, 4, 2)
TAKEN = torch.tensor(True)


def make_layers(*, record: bool = True) -> nn.Sequential:
    """Two BatchNorms in a row, with statistics and weights that are not the initial ones."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.BatchNorm2d(3, eps=1e-3, momentum=MOMENTUM),
        nn.Conv2d(3, 2, 1),
        nn.BatchNorm2d(2, eps=1e-3, momentum=MOMENTUM),
    )
    for module in model:
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.uniform_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
    if record:
        record_batch_norm(model)
    return model


def micro_batches() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(size, 3, 4, 5, generator=generator) for size in SIZES]


def buffers(model: nn.Module) -> dict[str, Tensor]:
    return {name: buffer.clone() for name, buffer in model.named_buffers()}


def assert_same_buffers(one: nn.Module, other: nn.Module) -> None:
    torch.testing.assert_close(buffers(one), buffers(other), atol=TOLERANCE, rtol=TOLERANCE)


def run_step(model: nn.Module, batches: list[Tensor]) -> None:
    statistics = StepStatistics(model)
    for batch in batches:
        model(batch)
        statistics.add(len(batch))
    statistics.commit(len(batches), TAKEN)


def test_one_micro_batch_equals_torch_in_output_and_statistics() -> None:
    ours, torchs = make_layers(), make_layers(record=False)
    batch = micro_batches()[0]
    statistics = StepStatistics(ours)
    torch.testing.assert_close(ours(batch), torchs(batch), rtol=0, atol=0)
    statistics.add(len(batch))
    statistics.commit(1, TAKEN)
    assert_same_buffers(ours, torchs)


def test_what_was_measured_in_training_mode_trains_on() -> None:
    model = make_layers()
    with torch.inference_mode():
        model(micro_batches()[1])
    run_step(model, micro_batches())
    other = make_layers()
    run_step(other, micro_batches())
    assert_same_buffers(model, other)


def test_gradients_equal_torchs() -> None:
    ours, torchs = make_layers(), make_layers(record=False)
    for model in (ours, torchs):
        model(micro_batches()[0]).square().sum().backward()
    for mine, theirs in zip(ours.parameters(), torchs.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=0, atol=0)


def test_a_forward_in_training_leaves_the_running_statistics_alone() -> None:
    model = make_layers()
    before = buffers(model)
    model(micro_batches()[0])
    torch.testing.assert_close(buffers(model), before, rtol=0, atol=0)


def test_evaluation_normalizes_by_the_running_statistics() -> None:
    batch = micro_batches()[0]
    ours, torchs = make_layers().eval(), make_layers(record=False).eval()
    torch.testing.assert_close(ours(batch), torchs(batch), rtol=0, atol=0)


def test_recording_keeps_state_and_keys() -> None:
    plain, recording = make_layers(record=False), make_layers()
    assert isinstance(recording[0], StepBatchNorm2d)
    assert list(plain.state_dict()) == list(recording.state_dict())
    assert_same_buffers(plain, recording)


def test_a_step_moves_by_the_image_weighted_mean_to_the_power_of_its_micro_batches() -> None:
    model = make_layers()[:1]
    before = buffers(model)
    batches = micro_batches()
    run_step(model, batches)
    keep = (1 - MOMENTUM) ** len(batches)
    weights = torch.tensor(SIZES) / sum(SIZES)
    for name, values in (
        ("0.running_mean", [b.mean((0, 2, 3)) for b in batches]),
        ("0.running_var", [b.transpose(0, 1).flatten(1).var(1) for b in batches]),
    ):
        mean = (torch.stack(values) * weights[:, None]).sum(0)
        expected = keep * before[name] + (1 - keep) * mean
        torch.testing.assert_close(buffers(model)[name], expected, rtol=TOLERANCE, atol=TOLERANCE)


def test_batches_tracked_counts_micro_batches() -> None:
    model = make_layers()
    run_step(model, micro_batches())
    assert buffers(model)["0.num_batches_tracked"] == len(SIZES)


def test_statistics_do_not_depend_on_the_order_of_micro_batches() -> None:
    forward, backward = make_layers(), make_layers()
    run_step(forward, micro_batches())
    run_step(backward, micro_batches()[::-1])
    assert_same_buffers(forward, backward)


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 6])
def test_statistics_do_not_depend_on_who_computed_a_micro_batch(world_size: int) -> None:
    expected, batches = make_layers(), micro_batches()
    run_step(expected, batches)
    start, parts = make_layers(), []
    for rank in range(world_size):
        model = copy.deepcopy(start)
        statistics = StepStatistics(model)
        for batch in batches[rank::world_size] or [torch.ones(2, 3, 4, 4)]:
            model(batch)
            statistics.add(len(batch) if rank < len(batches) else 0)
        parts.append(statistics)
    # What the all-reduce does.
    statistics.total = torch.stack([part.total for part in parts]).sum(0)
    statistics.commit(len(batches), TAKEN)
    assert_same_buffers(model, expected)


def test_a_dummy_forward_counts_nothing() -> None:
    alone, with_dummy = make_layers(), make_layers()
    batch = micro_batches()[0]
    for model in (alone, with_dummy):
        statistics = StepStatistics(model)
        model(batch)
        statistics.add(len(batch))
        if model is with_dummy:
            model(torch.full((2, 3, 4, 4), 9.0))
            statistics.add(0)
        statistics.commit(1, TAKEN)
    torch.testing.assert_close(buffers(alone), buffers(with_dummy), rtol=0, atol=0)


@pytest.mark.parametrize("value", [1.0, float("nan")])
def test_a_step_that_was_not_taken_leaves_no_trace(value: float) -> None:
    model = make_layers()
    before = buffers(model)
    statistics = StepStatistics(model)
    model(micro_batches()[0] * value)
    statistics.add(5)
    statistics.commit(1, ~TAKEN)
    assert statistics.total is None
    torch.testing.assert_close(buffers(model), before, rtol=0, atol=0)


def test_a_model_without_batch_norm_needs_nothing() -> None:
    statistics = StepStatistics(nn.Linear(1, 1))
    statistics.add(3)
    statistics.commit(1, TAKEN)
    assert statistics.total is None
