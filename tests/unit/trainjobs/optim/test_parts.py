"""Parts that are not trained: which they are, and that nothing of them moves (model.freeze)."""

from pathlib import Path

import pytest
import torch
from torch import nn

from cluster.errors import ConfigError
from tests.builders import CPU, Recorder, TinyTask, flat_tensors, make_tiny_config, make_training
from tests.ranks import run_on_ranks, train
from trainjobs.detector.model import build_yolov5
from trainjobs.loop import fit
from trainjobs.optim.batch_norm import FrozenBatchNorm2d, StepBatchNorm2d, record_batch_norm
from trainjobs.optim.parts import factor_of, freeze_parts, frozen_parts, is_in

# Sums of a handful of float64 numbers in another order.
TOLERANCE = 1e-9
STEM = ("0.", "1.")
"""Convolution and BatchNorm of `TinyTask`."""


def trained(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_a_part_is_whole_pieces_of_a_name() -> None:
    assert is_in("model.1.conv", "model.1") and is_in("model.1.conv", "model.1.")
    assert is_in("model.1", "model.1")
    assert not is_in("model.10.conv", "model.1") and not is_in("model", "model.1")
    assert not is_in("model.1", "")


def test_the_longest_part_gives_the_factor_and_none_gives_one() -> None:
    factors = {"model": 0.5, "model.1": 0.1, "model.1.": 0.1}
    assert [factor_of(name, factors) for name in ("model.1.a", "model.2", "x")] == [0.1, 0.5, 1.0]


def test_one_number_is_the_first_layers_and_several_are_themselves() -> None:
    assert frozen_parts([2]) == frozen_parts(["2"]) == ("model.0", "model.1")
    assert frozen_parts(["model.24", 1]) == ("model.0", "model.24")
    assert frozen_parts([0, 3]) == ("model.0", "model.3")
    assert frozen_parts([0]) == frozen_parts([]) == ()


def test_ten_layers_of_yolov5_are_its_backbone() -> None:
    with torch.device("meta"):
        model = build_yolov5("yolov5n", 2)
    everything = set(dict(model.named_parameters()))
    freeze_parts(model, [10])
    layers = {int(name.split(".")[1]) for name in trained(model)}
    assert min(layers) == 10 and max(layers) == 24
    assert trained(model) == {name for name in everything if int(name.split(".")[1]) >= 10}
    record_batch_norm(model)
    frozen = {n for n, m in model.named_modules() if isinstance(m, FrozenBatchNorm2d)}
    moving = {n for n, m in model.named_modules() if isinstance(m, StepBatchNorm2d)}
    assert {int(name.split(".")[1]) < 10 for name in frozen} == {True}
    assert {int(name.split(".")[1]) >= 10 for name in moving} == {True}


@pytest.mark.parametrize(
    ("freeze", "message"),
    [
        (["model.99"], r"model.freeze: the model has no 'model.99'; near it: model.9"),
        (["modle"], r"model.freeze: the model has no 'modle'; near it: model"),
        ([26], r"model.freeze: the model has no 'model.25'; near it: model."),
        ([""], r"model.freeze: the model has no ''; near it: model"),
        (["model"], r"model.freeze must leave something to train, got model, "),
        ([25], r"model.freeze must leave something to train, got 25, "),
    ],
)
def test_no_such_part_or_nothing_left_is_an_error(freeze: list[int | str], message: str) -> None:
    with torch.device("meta"):
        model = build_yolov5("yolov5n", 2)
    with pytest.raises(ConfigError, match=message):
        freeze_parts(model, freeze)


def test_frozen_batch_norm_in_training_is_batch_norm_in_evaluation() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 2, 1))
    nn.init.uniform_(model[0].running_mean)
    keys, images = list(model.state_dict()), torch.rand(4, 3, 2, 2)
    expected = model.eval()(images)
    freeze_parts(model, ["0."])
    torch.testing.assert_close(model.train()(images), expected, rtol=0, atol=0)
    assert list(model.state_dict()) == keys


def test_training_moves_nothing_of_a_frozen_part_and_the_rest() -> None:
    training = make_training(make_tiny_config({"model.freeze": STEM}))
    before = flat_tensors(
        {"model": training.model.state_dict(), "ema": training.ema.model.state_dict()}
    )
    assert fit(training, Recorder(), CPU) == "finished"
    after = flat_tensors(training.tensors())
    for path, value in before.items():
        is_frozen = path.split("/")[2].startswith(("0.", "1."))
        assert torch.equal(after[path], value) == is_frozen, path


def test_a_frozen_run_resumed_equals_never_stopped(tmp_path: Path) -> None:
    config = make_tiny_config({"model.freeze": ("0.",), "optim.lr_factors": {"6": 0.1}})
    whole, first = make_training(config), make_training(config)
    fit(whole, Recorder(), CPU)
    folder = tmp_path / "checkpoint"
    fit(first, Recorder(stop_after=3, checkpoint=folder), CPU)
    resumed = make_training(config, checkpoint=folder)
    fit(resumed, Recorder(), CPU)
    found, expected = flat_tensors(resumed.tensors()), flat_tensors(whole.tensors())
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[path], expected[path]) for path in expected)


def test_a_run_may_go_on_with_other_parts_frozen(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    first = make_training(make_tiny_config({"model.freeze": STEM}))
    fit(first, Recorder(stop_after=3, checkpoint=folder), CPU)
    left = flat_tensors({"model": first.model.state_dict()})
    second = make_training(make_tiny_config({"model.freeze": ("6.",)}), checkpoint=folder)
    assert fit(second, Recorder(), CPU) == "finished"
    for path, value in flat_tensors({"model": second.model.state_dict()}).items():
        assert torch.equal(left[path], value) == path.split("/")[2].startswith("6."), path


def test_with_all_weights_frozen_the_learning_rate_told_is_that_of_what_is_trained() -> None:
    training = make_training(
        make_tiny_config({"model.freeze": ("0.", "1.", "6.weight")}), TinyTask()
    )
    fit(training, Recorder(), CPU)
    last = [step for epoch in range(3) for step in training.plan.steps(epoch)][-1]
    assert training.state.history[-1]["lr"] == training.schedule.at(last).bias_lr


# The first steps have fewer micro-batches than ranks, so a dummy takes part too.
@pytest.mark.parametrize("freeze", [STEM, ("6.",)])
def test_a_run_with_frozen_parts_does_not_depend_on_its_world_size(
    tmp_path: Path, freeze: tuple[str, ...]
) -> None:
    changes = {"model.freeze": freeze, "optim.schedule": "onecycle"}
    alone = train(0, 1, folder=tmp_path, changes=changes)
    for rank in run_on_ranks(2, train, folder=tmp_path, changes=changes):
        for name, values in rank["tensors"].items():
            wanted = alone["tensors"][name]
            assert values == pytest.approx(wanted, rel=TOLERANCE, abs=TOLERANCE), name
