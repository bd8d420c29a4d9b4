"""Learning rate and momentum of every step: warmup, then decay over epochs. Pure; stdlib only."""

import math
from dataclasses import dataclass
from typing import Literal

from trainjobs.optim_config import OptimConfig
from trainjobs.step_plan import Step


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
    images_per_step: int

    def at(self, step: Step) -> StepSettings:
        """Settings of `step`: the epoch's decayed lr, approached linearly during warmup."""
        config, progress = self.config, step.warmup_progress
        factor = lr_factor(config, self.images_per_step)
        decayed = config.lr * decay_factor(
            step.epoch, self.epochs, config.final_lr_fraction, config.schedule
        )
        return StepSettings(
            lr=factor * progress * decayed,
            bias_lr=factor * _lerp(config.warmup_bias_lr, decayed, progress),
            momentum=_lerp(config.warmup_momentum, config.momentum, progress),
        )


def _lerp(start: float, end: float, fraction: float) -> float:
    return start + (end - start) * fraction
