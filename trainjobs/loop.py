"""The training algorithm. No Ray, no MLflow, no question which rank this is.

One optimizer step is described in docs/recipe.md: micro-batches are the unit of work, ranks take them
in turn, gradients and BatchNorm statistics are combined over all of a step's micro-batches.
"""

import time
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from trainjobs.checkpoint import TrainState
from trainjobs.data.loader import TrainingLoader
from trainjobs.data.ordering.permutation import derive_key, derive_keys
from trainjobs.distributed import all_reduce_sum, gradient_sync, restore_sum, unwrapped
from trainjobs.optim.batch_norm import StepStatistics
from trainjobs.optim.ema import ModelEma
from trainjobs.optim.optimizer import apply_settings, clip_gradients, lr_in_force
from trainjobs.optim.precision import Precision
from trainjobs.optim.schedule import Schedule
from trainjobs.step_plan import Step, StepPlan
from trainjobs.taken_steps import TakenSteps
from trainjobs.task import Loss, Metrics, MicroBatch, Task

NETWORK_STREAM = 0x4E455457
"""Keeps this use of a seed apart from others."""

Outcome = Literal["finished", "stopped", "interrupted"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Training:
    """The parts of a run that the loop works with."""

    task: Task
    model: nn.Module
    ema: ModelEma
    optimizer: Optimizer
    precision: Precision
    batch_norm: StepStatistics
    plan: StepPlan
    seed: int
    schedule: Schedule
    loader: TrainingLoader
    state: TrainState
    epochs: int
    max_steps: int | None
    """Optimizer steps after which training stops, wherever it is."""
    max_grad_norm: float
    evaluate_every: int
    patience: int
    """Epochs without a better key metric after which training stops; 0: never."""

    def has_taken_all_steps(self) -> bool:
        """Whether it trained for as many steps as it was allowed to."""
        return self.max_steps is not None and self.state.updates >= self.max_steps

    def may_have_taken_all_steps(self) -> bool:
        """The same if the last step, of which that is not known yet, was taken."""
        return self.max_steps is not None and self.state.updates + 1 >= self.max_steps

    def tensors(self) -> dict[str, Any]:
        """What a checkpoint holds besides the state."""
        return {
            "model": unwrapped(self.model).state_dict(),
            "ema": self.ema.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.precision.scaler.state_dict(),
        }


class Observer(Protocol):
    """Who is told what happened. Every call is made on every rank."""

    def stop_requested(self) -> bool:
        """Whether somebody asked this rank to stop; one rank is enough."""
        ...

    def step_done(self, training: Training, step: Step, losses: "LossSums") -> None:
        """An optimizer step was taken."""
        ...

    def epoch_done(self, training: Training, row: dict[str, float], *, is_best: bool) -> None:
        """An epoch was trained and, where due, evaluated; `row` is its line of metrics.csv."""
        ...

    def interrupted(self, training: Training) -> None:
        """Training stops within an epoch and is to go on from here."""
        ...


class LossSums:
    """Loss terms and figures summed over the images of an epoch, kept on the device."""

    def __init__(self, num_parts: int, device: torch.device, start: list[float]) -> None:
        self.sums = torch.zeros(num_parts + 1, dtype=torch.float64, device=device)
        if start:
            self.sums += torch.tensor(start, dtype=torch.float64, device=device)

    def add(self, loss: Loss, num_images: int) -> None:
        """Count one micro-batch."""
        self.sums[:-1] += loss.parts * num_images
        self.sums[-1] += num_images

    def means(self) -> Tensor:
        """(P,) mean of each term over this rank's images."""
        return self.sums[:-1] / self.sums[-1].clamp(min=1)


def fit(training: Training, observer: Observer, device: torch.device) -> Outcome:
    """Train from `training.state` to the end, or until patience or a request stops it."""
    state, task = training.state, training.task
    while state.epoch < training.epochs and not training.has_taken_all_steps():
        epoch = state.epoch
        # An interrupted epoch's sums are those of all ranks, and they will be summed over ranks again.
        share = [value / training.plan.world_size for value in state.loss_sums]
        losses = LossSums(len(task.loss_names + task.figure_names), device, share)
        if not train_one_epoch(training, observer, losses):
            state.loss_sums = all_reduce_sum(losses.sums).tolist()
            observer.interrupted(training)
            return "finished" if training.has_taken_all_steps() else "interrupted"
        losses.sums = all_reduce_sum(losses.sums)
        due = (epoch + 1) % training.evaluate_every == 0 or epoch + 1 == training.epochs
        metrics = task.evaluate(training.ema.model) if due else {}
        row = epoch_row(training, losses, metrics)
        is_best = state.close_epoch(row, metrics.get(task.key_metric))
        observer.epoch_done(training, row, is_best=is_best)
        if 0 < training.patience <= state.epoch - (state.best_epoch or state.epoch):
            return "stopped"
    return "finished"


def train_one_epoch(training: Training, observer: Observer, losses: LossSums) -> bool:
    """Train the rest of the state's epoch. Returns False if it stopped on the way: a rank asked for
    it, or that were all the steps."""
    model, plan, state = training.model, training.plan, training.state
    started = time.perf_counter()
    taken_steps = TakenSteps(state, losses.sums.device)
    for step in plan.steps(state.epoch, start=state.step):
        taken_steps.before_step(stop=observer.stop_requested())
        apply_settings(training.optimizer, training.schedule.at(step))
        for micro in training.loader.mine(step):
            seed_network(training.seed, step.epoch, micro)
            with gradient_sync(model, enabled=micro.is_my_last):
                with training.precision.autocast():
                    loss = training.task.compute_loss(model, micro.images, micro.targets)
                # The step's gradient is a sum over its images.
                training.precision.backward(loss.total * micro.num_images)
            training.batch_norm.add(micro.num_images)
            losses.add(loss, micro.num_images)
        stop = taken_steps.after_step(step, take_step(training, step))
        state.step = step.index + 1
        if stop or training.may_have_taken_all_steps():
            taken_steps.settle()
        now = time.perf_counter()
        state.epoch_s, started = state.epoch_s + now - started, now
        observer.step_done(training, step, losses)
        if stop or training.has_taken_all_steps():
            return False
    taken_steps.settle()
    state.epoch_s += time.perf_counter() - started
    return True


def seed_network(seed: int, epoch: int, micro: MicroBatch) -> None:
    """Make what a network draws, such as dropout, belong to a micro-batch: the rank that computes it,
    and what was computed before, have no part in it."""
    key = derive_keys(derive_key(seed, epoch, NETWORK_STREAM), micro.first_position)
    generators, device = [torch.default_generator], micro.images.device
    if device.type == "cuda":
        generators.append(torch.cuda.default_generators[torch.cuda.current_device()])
    for generator in generators:  # torch.manual_seed takes a hundred times as long
        generator.manual_seed(int(key[0]))


def take_step(training: Training, step: Step) -> Tensor:
    """Update weights, BatchNorm and EMA from the step's gradients, unless these are not finite.

    Returns:
        Whether they were: a scalar on the device, equal on all ranks as gradients are.
    """
    restore_sum(training.model)
    training.precision.unscale(training.optimizer)
    norm = clip_gradients(training.model.parameters(), training.max_grad_norm)
    finite = norm.isfinite()
    training.precision.step(training.optimizer, finite)
    training.optimizer.zero_grad(set_to_none=True)
    training.batch_norm.commit(len(step.sizes), finite)
    training.ema.update(finite)
    return finite


def epoch_row(training: Training, losses: LossSums, metrics: Metrics) -> dict[str, float]:
    """One line of metrics.csv."""
    state, plan, task = training.state, training.plan, training.task
    parts = losses.means().tolist()
    names = task.loss_names + task.figure_names
    return {
        "epoch": state.epoch + 1,
        "optimizer_steps": state.updates,
        "images_seen": (state.epoch + 1) * plan.num_images,
        "lr": lr_in_force(training.optimizer),
        "train_loss": sum(parts[: len(task.loss_names)]),
        **{f"train_{n}": p for n, p in zip(names, parts, strict=True)},
        **metrics,
        "images_per_second": plan.num_images / max(state.epoch_s, 1e-9),
        "epoch_s": state.epoch_s,
    }
