"""Learning rate and momentum of every step: warmup, then decay over epochs, or one cycle over all
steps. Pure; stdlib only."""

import math
from bisect import bisect_right
from dataclasses import dataclass
from typing import Literal

from trainjobs.optim_config import OptimConfig
from trainjobs.step_plan import Step, StepPlan

CYCLES = ("onecycle", "triangular")
"""Schedules that change every step and rise before they fall."""


@dataclass(frozen=True, slots=True)
class StepSettings:
    """What one optimizer step is taken with."""

    lr: float
    bias_lr: float
    momentum: float


def decay_factor(
    epoch: float, epochs: int, final_fraction: float, shape: Literal["linear", "cosine"]
) -> float:
    """Fraction of the learning rate in force in `epoch` (from 0).

    Source: YOLOv5's two schedules, recipe section 2; the cosine is that of Loshchilov and Hutter
    2017, "SGDR" (arXiv:1608.03983), equation 5.
    """
    if shape == "cosine":
        return (1 - math.cos(math.pi * epoch / epochs)) / 2 * (final_fraction - 1) + 1
    return (1 - epoch / epochs) * (1 - final_fraction) + final_fraction


def epoch_factor(config: OptimConfig, epoch: int, epochs: int) -> float:
    """Fraction of the learning rate in force in `epoch` (from 0), by a schedule over epochs.

    Source: step and multistep are torch's StepLR and MultiStepLR.
    """
    match config.schedule:
        case "linear" | "cosine" as shape:
            return decay_factor(epoch, epochs, config.final_lr_fraction, shape)
        case "step":
            return math.pow(config.gamma, epoch // config.step_epochs)
        case "multistep":
            return math.pow(config.gamma, bisect_right(config.milestones, epoch))
    return 1.0


def cycle_factor(config: OptimConfig, progress: float, first: float) -> float:
    """Fraction of the learning rate in force at a step, by onecycle or triangular.

    Args:
        config: With the shape, its two ends and its peak.
        progress: Part of the run's images that have been seen when the step ends.
        first: The same of the run's first step, which starts from start_lr_fraction.

    Source: Smith and Topin 2018, "Super-Convergence" (arXiv:1708.07120), with the steps of torch's
    OneCycleLR: the last one has final_lr_fraction. Momentum takes no part in the cycle.
    """
    peak = config.peak_fraction
    if progress > peak:
        start, end, part = 1.0, config.final_lr_fraction, (progress - peak) / (1 - peak)
    elif peak > first:
        start, end, part = config.start_lr_fraction, 1.0, (progress - first) / (peak - first)
    else:
        return 1.0
    if config.schedule == "onecycle":
        part = (1 - math.cos(math.pi * part)) / 2
    return _lerp(start, end, part)


def lr_factor(config: OptimConfig, images_per_step: int) -> float:
    """Factor on the learning rate that makes the update follow `images_per_step` as asked.

    The step's gradient is a sum over images, so plain SGD already scales linearly with them, while
    Adam does not scale at all: each needs the opposite correction. Source: recipe, section 4.2.
    """
    ratio = images_per_step / config.nominal_batch_size
    sums = config.name == "sgd"
    rule = config.lr_scaling if config.lr_scaling != "auto" else ("linear" if sums else "none")
    wanted = {"linear": 1.0, "sqrt": 0.5, "none": 0.0}[rule]
    return math.pow(ratio, wanted - 1.0 if sums else wanted)


def weight_decay_in_force(config: OptimConfig, images_per_step: int) -> float:
    """Weight decay for a gradient that is a sum over `images_per_step` images."""
    return config.weight_decay * images_per_step / config.nominal_batch_size


@dataclass(frozen=True, slots=True)
class Schedule:
    """Learning rate and momentum as a function of a step."""

    config: OptimConfig
    epochs: int
    plan: StepPlan

    def at(self, step: Step) -> StepSettings:
        """Settings of `step`: the lr of its schedule, approached linearly during warmup.

        A schedule with a way up of its own is its own warmup of the lr, of biases too.
        """
        config, progress = self.config, step.warmup_progress
        scale = lr_factor(config, self.plan.images_per_step)
        momentum = _lerp(config.warmup_momentum, config.momentum, progress)
        if config.schedule in CYCLES:
            first = next(self.plan.steps(0))
            factor = cycle_factor(config, self._progress(step), self._progress(first))
            lr = scale * config.lr * factor
            return StepSettings(lr=lr, bias_lr=lr, momentum=momentum)
        decayed = config.lr * epoch_factor(config, step.epoch, self.epochs)
        return StepSettings(
            lr=scale * progress * decayed,
            bias_lr=scale * _lerp(config.warmup_bias_lr, decayed, progress),
            momentum=momentum,
        )

    def _progress(self, step: Step) -> float:
        """Part of the run's images that have been seen when `step` ends."""
        return self.plan.images_seen(step) / (self.plan.num_images * self.epochs)


def _lerp(start: float, end: float, fraction: float) -> float:
    return start + (end - start) * fraction
