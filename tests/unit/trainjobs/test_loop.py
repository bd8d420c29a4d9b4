"""Laws of training: resume equals never stopped, the gradient law, steps that are not finite."""

import copy
import json
import logging
import math
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

import trainjobs.training as training_module
from cluster.errors import TrainingError
from tests.builders import (
    CPU,
    Recorder,
    TinyTask,
    assert_same_tensors,
    flat_tensors,
    make_plan,
    make_tiny_config,
    make_training,
    without_timing,
)
from trainjobs.checkpoint import TrainState
from trainjobs.config import TrainConfig
from trainjobs.loop import Outcome, Training, fit
from trainjobs.optim.precision import Precision
from trainjobs.taken_steps import MAX_SKIPPED_IN_A_ROW

# Sums of a handful of float64 numbers in another order.
TOLERANCE = 1e-12


def run(training: Training, observer: Recorder | None = None) -> Outcome:
    return fit(training, observer or Recorder(), CPU)


def finished(config: TrainConfig, task: TinyTask | None = None) -> Training:
    training = make_training(config, task)
    assert run(training) == "finished"
    return training


def steps_per_epoch(config: TrainConfig) -> list[int]:
    plan = make_training(config).plan
    return [plan.num_steps(epoch) for epoch in range(config.epochs)]


def state_without_timing(training: Training) -> dict[str, object]:
    state = asdict(training.state)
    return {**state, "epoch_s": None, "history": without_timing(state["history"])}


@pytest.mark.parametrize("name", ["sgd", "adamw"])
@pytest.mark.parametrize("stop_after", [1, 3, 4, 5, 8])
def test_resume_equals_never_stopped(tmp_path: Path, name: str, stop_after: int) -> None:
    # Steps 1 and 3 are in warmup, 4 ends the first epoch, 5 begins and 8 is in a later one.
    config = make_tiny_config({"optim.name": name})
    assert steps_per_epoch(config) == [4, 2, 2]
    whole = finished(config)
    folder = tmp_path / "checkpoint"
    first = Recorder(stop_after=stop_after, checkpoint=folder)
    assert run(make_training(config), first) == "interrupted"
    resumed, second = make_training(config, checkpoint=folder), Recorder()
    assert run(resumed, second) == "finished"
    assert len(first.steps) == stop_after and len(first.steps) + len(second.steps) == 8
    assert_same_tensors(resumed.tensors(), whole.tensors())
    assert state_without_timing(resumed) == state_without_timing(whole)


@pytest.mark.parametrize(
    ("before", "after"), [("fp32", "fp16"), ("fp16", "fp32"), ("fp16", "fp16")]
)
def test_a_run_may_go_on_in_another_arithmetic(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str, after: str
) -> None:
    # As on GPUs, where these arithmetics are settled on; a CPU has fp16's scaler, too.
    config, folder = make_tiny_config(), tmp_path / "checkpoint"
    monkeypatch.setattr(training_module, "settle_precision", lambda *_: before)
    stopped = make_training(config, TinyTask(poisoned=range(1)))  # a step that halves the scale
    run(stopped, Recorder(stop_after=3, checkpoint=folder))
    monkeypatch.setattr(training_module, "settle_precision", lambda *_: after)
    resumed = make_training(config, checkpoint=folder)
    scales = [made.precision.scaler.state_dict() for made in (stopped, resumed)]
    assert bool(scales[1]) == (after == "fp16")
    if before == after:
        assert scales[0] == scales[1] != Precision(after, CPU).scaler.state_dict()
    assert run(resumed) == "finished"
    assert resumed.state.precision == after


def test_what_a_run_was_computed_in_is_what_it_goes_on_in(tmp_path: Path) -> None:
    config, folder = make_tiny_config({"optim.precision": "bf16"}), tmp_path / "checkpoint"
    run(make_training(config), Recorder(stop_after=3, checkpoint=folder))
    resumed = make_training(make_tiny_config(), checkpoint=folder)  # auto, which is fp32 on a CPU
    assert resumed.precision.name == "bf16"


def test_many_interruptions_equal_none(tmp_path: Path) -> None:
    config = make_tiny_config()
    folder: Path | None = None
    for attempt in range(20):
        training = make_training(config, checkpoint=folder)
        folder = tmp_path / str(attempt)
        if run(training, Recorder(stop_after=1, checkpoint=folder)) == "finished":
            break
    whole = finished(config)
    assert attempt == 8  # one step at a time
    assert_same_tensors(training.tensors(), whole.tensors())
    assert state_without_timing(training) == state_without_timing(whole)


def test_training_lowers_the_loss() -> None:
    history = finished(make_tiny_config({"epochs": 15, "optim.lr": 0.05})).state.history
    assert history[-1]["train_loss"] < 0.7 * history[0]["train_loss"]


def test_the_same_seed_gives_the_same_run_and_another_another() -> None:
    one, same = finished(make_tiny_config()), finished(make_tiny_config())
    other = finished(make_tiny_config({"seed": 1}))
    assert_same_tensors(one.tensors(), same.tensors())
    assert one.state.history[0]["train_loss"] != other.state.history[0]["train_loss"]


def step_gradients(world_size: int) -> dict[str, torch.Tensor]:
    """Sum over simulated ranks of the gradients each sums over its micro-batches of one step."""
    config = make_tiny_config({"optim.warmup_epochs": 0})
    total: dict[str, torch.Tensor] = {}
    for rank in range(world_size):
        training = make_training(config, rank=rank, world_size=world_size)
        step = next(training.plan.steps(0))
        assert step.sizes == (3, 3, 3, 3)
        for micro in training.loader.mine(step):
            loss = training.task.compute_loss(training.model, micro.images, micro.targets)
            (loss.total * micro.num_images).backward()
        for name, parameter in training.model.named_parameters():
            total[name] = total.get(name, 0) + parameter.grad
    return total


@pytest.mark.parametrize("world_size", [2, 3, 4, 6])
def test_gradient_of_a_step_does_not_depend_on_the_world_size(world_size: int) -> None:
    assert_same_tensors(step_gradients(world_size), step_gradients(1), TOLERANCE)


def test_gradient_of_a_step_is_the_sum_over_images_of_each_micro_batchs_mean() -> None:
    training = make_training(make_tiny_config({"optim.warmup_epochs": 0}))
    step = next(training.plan.steps(0))
    expected = [torch.zeros_like(p) for p in training.model.parameters()]
    for micro in training.loader.mine(step):
        model = copy.deepcopy(training.model)
        training.task.compute_loss(model, micro.images, micro.targets).total.backward()
        expected = [e + 3 * p.grad for e, p in zip(expected, model.parameters(), strict=True)]
    found = dict(enumerate(step_gradients(1).values()))
    assert_same_tensors(found, dict(enumerate(expected)), TOLERANCE)


def test_losses_and_figures_of_an_epoch_are_means_over_its_images_and_figures_are_no_loss() -> None:
    # Nothing is learned, so each micro-batch's loss can be computed afterwards.
    config = make_tiny_config({"epochs": 1, "optim.lr": 0, "optim.warmup_bias_lr": 0})
    row = finished(config).state.history[0]
    training = make_training(config)
    parts = torch.zeros(3, dtype=torch.float64)
    for step in training.plan.steps(0):
        for micro in training.loader.mine(step):
            loss = training.task.compute_loss(training.model, micro.images, micro.targets)
            parts += loss.parts * micro.num_images / 23
    assert row["train_error"] == pytest.approx(parts[0].item(), rel=TOLERANCE)
    assert row["train_size"] == pytest.approx(parts[1].item(), rel=TOLERANCE)
    assert row["train_largest"] == pytest.approx(parts[2].item(), rel=TOLERANCE)
    assert row["train_loss"] == pytest.approx(parts[:2].sum().item(), rel=TOLERANCE)


def test_a_row_says_where_the_run_stands() -> None:
    training = finished(make_tiny_config())
    for epoch, row in enumerate(training.state.history, start=1):
        assert (row["epoch"], row["images_seen"]) == (epoch, 23 * epoch)
        assert row["images_per_second"] == pytest.approx(23 / row["epoch_s"])
    assert [row["optimizer_steps"] for row in training.state.history] == [4, 6, 8]
    assert list(row)[-2:] == ["images_per_second", "epoch_s"]
    assert set(row) >= {"lr", "train_loss", "train_error", "train_size", "score"}


def test_the_key_metric_is_measured_on_the_averaged_weights() -> None:
    training = finished(make_tiny_config())
    again = training.task.evaluate(training.ema.model)
    assert training.state.history[-1]["score"] == again["score"]


def test_after_its_first_step_the_average_has_moved_by_what_one_update_does_not_keep() -> None:
    training, observer = make_training(make_tiny_config({"epochs": 1})), Snapshots()
    before = flat_tensors(training.tensors()["model"])
    run(training, observer)
    kept = 0.9999 * (1 - math.exp(-1 / 5))
    after = observer.rows[0]
    assert after["/model/1.num_batches_tracked"] == 1  # the first step of warmup
    for path in ("/0.weight", "/1.running_var", "/6.bias"):
        expected = kept * before[path] + (1 - kept) * after[f"/model{path}"]
        assert_same_tensors({path: after[f"/ema{path}"]}, {path: expected}, TOLERANCE)


def test_evaluation_comes_every_so_many_epochs_and_after_the_last() -> None:
    task = TinyTask()
    training = finished(make_tiny_config({"epochs": 5, "eval.every_epochs": 2}), task)
    assert ["score" in row for row in training.state.history] == [False, True, False, True, True]
    assert task.evaluations == 3


def test_patience_counts_epochs_since_the_best() -> None:
    task = TinyTask(scores=[0.1, 0.3, 0.2, 0.3, 0.9])
    training = make_training(make_tiny_config({"epochs": 5, "eval.patience": 2}), task)
    observer = Recorder()
    assert run(training, observer) == "stopped"
    assert training.state.epoch == 4 and training.state.best_epoch == 2
    assert observer.best == [True, True, False, False]


def test_without_patience_a_run_goes_to_its_end() -> None:
    task = TinyTask(scores=[0.3, 0.2, 0.1, 0.0, 0.0])
    training = finished(make_tiny_config({"epochs": 5, "eval.patience": 0}), task)
    assert training.state.epoch == 5 and training.state.best_epoch == 1


@pytest.mark.parametrize("max_steps", [1, 2, 3])  # an epoch has two
def test_a_run_of_so_many_steps_goes_on_as_if_it_had_never_stopped(
    tmp_path: Path, max_steps: int
) -> None:
    changes = {"optim.warmup_epochs": 0}
    whole = finished(make_tiny_config(changes))
    folder = tmp_path / "checkpoint"
    short = make_training(make_tiny_config({**changes, "max_steps": max_steps}))
    observer = Recorder(checkpoint=folder)
    assert run(short, observer) == "finished"
    assert len(observer.steps) == short.state.updates == max_steps
    assert run(short) == "finished" and short.state.updates == max_steps
    resumed = make_training(make_tiny_config(changes), checkpoint=folder)
    assert run(resumed) == "finished"
    assert_same_tensors(resumed.tensors(), whole.tensors())


def test_a_finished_run_trains_no_further() -> None:
    training = make_training(make_tiny_config())
    training.state.epoch = 3
    observer = Recorder()
    assert run(training, observer) == "finished"
    assert observer.steps == []


# Positions 12 to 22 of the first epoch: without warmup, its second and last step.
POISONED = range(12, 23)


class Snapshots(Recorder):
    """Notes all tensors after each step."""

    def step_done(self, training: Training, *told: object) -> None:
        super().step_done(training, *told)
        self.rows.append(flat_tensors(training.tensors()))


def poisoned_training(epochs: int = 3, poisoned: range = POISONED) -> Training:
    config = make_tiny_config({"epochs": epochs, "optim.warmup_epochs": 0})
    return make_training(config, TinyTask(poisoned=poisoned))


def test_a_step_that_is_not_finite_changes_neither_weights_momentum_statistics_nor_ema() -> None:
    training, observer = poisoned_training(epochs=1), Snapshots()
    run(training, observer)
    first, second = observer.rows[:2]
    assert any("momentum_buffer" in path for path in first)
    assert any("running_mean" in path for path in first)
    assert_same_tensors(first, second)
    assert training.state.updates == 1
    assert training.batch_norm.total is None  # nothing of it enters the next step


def test_a_step_that_is_not_finite_is_counted_and_named(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        run(poisoned_training(epochs=1))
    assert "epoch 1, step 2: gradients are not finite; the step is skipped (1 in a row)" in (
        caplog.text
    )


def test_a_step_that_is_not_finite_advances_the_schedule_and_the_images() -> None:
    training, observer = poisoned_training(), Recorder()
    run(training, observer)
    planned = [step for epoch in range(3) for step in training.plan.steps(epoch)]
    assert observer.steps == planned
    assert observer.lrs == [training.schedule.at(step).lr for step in planned]
    assert training.state.updates == len(planned) - 1
    assert training.state.skipped_in_a_row == 0


def test_training_after_a_step_that_is_not_finite_stays_finite() -> None:
    training = poisoned_training()
    run(training)
    assert all(t.isfinite().all() for t in flat_tensors(training.tensors()).values())


def test_resume_after_a_step_that_is_not_finite_equals_never_stopped(tmp_path: Path) -> None:
    whole = poisoned_training()
    run(whole)
    folder = tmp_path / "checkpoint"
    run(poisoned_training(), Recorder(stop_after=2, checkpoint=folder))
    config = make_tiny_config({"optim.warmup_epochs": 0})
    resumed = make_training(config, TinyTask(poisoned=POISONED), checkpoint=folder)
    run(resumed)
    assert_same_tensors(resumed.tensors(), whole.tensors())
    assert resumed.state.updates == whole.state.updates


def test_too_many_steps_in_a_row_that_are_not_finite_end_the_run() -> None:
    count = 12 * (MAX_SKIPPED_IN_A_ROW + 5)
    task = TinyTask(num_images=count, poisoned=range(12, count))
    training = make_training(make_tiny_config({"optim.warmup_epochs": 0}), task)
    with pytest.raises(TrainingError, match=r"20 steps in a row .*lower optim.lr"):
        run(training)
    assert training.state.updates == 1


def test_a_state_survives_json_whatever_the_history_holds() -> None:
    training = poisoned_training()
    run(training)
    raw = json.loads(json.dumps(asdict(training.state)))
    assert json.dumps(asdict(TrainState(**raw))) == json.dumps(asdict(training.state))


def test_the_poisoned_step_of_these_tests_is_the_second() -> None:
    plan = make_plan(num_images=23, images_per_step=12, batch_size_per_worker=3)
    _, second = plan.steps(0)
    assert range(second.first_position, second.first_position + second.num_images) == POISONED
