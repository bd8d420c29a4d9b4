"""The settings below `optim.`: optimizer, schedule, and how many images one step sees."""

from dataclasses import dataclass, field
from typing import Literal

from cluster.errors import ConfigError
from trainjobs.ranges import check_range

Precision = Literal["auto", "fp32", "bf16", "fp16"]
ScheduleName = Literal[
    "linear", "cosine", "step", "multistep", "constant", "onecycle", "triangular"
]
MIN_LR_FACTOR = 1e-6
"""What should not learn at all is named in model.freeze."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimConfig:
    """Optimizer, learning rate, and how many images one optimizer step sees."""

    name: Literal["sgd", "adam", "adamw"] = "sgd"
    """adam and adamw use betas (momentum, 0.999)."""
    lr: float = 0.01
    """Learning rate after warmup, for nominal_batch_size images per step; the peak of onecycle and
    triangular."""
    lr_factors: dict[str, float] = field(default_factory=dict)
    """Factors on the learning rate by part of the model: `model.0: 0.1` is for every parameter whose
    name is model.0 or begins with model.0. (with the dot). The longest such part counts; default: 1."""
    final_lr_fraction: float = 0.01
    """Learning rate at the end, as a fraction of lr. Not for step, multistep and constant."""
    schedule: ScheduleName = "linear"
    """Shape of the learning rate. Set once an epoch: linear, cosine, step, multistep, constant. Set
    every step: onecycle (cosine up and down) and triangular (linear up and down); their way up is the
    warmup of the learning rate. (YOLOv5's "one_cycle" is the cosine.)"""
    step_epochs: int = 30
    """Epochs after which step multiplies the learning rate by gamma, again and again."""
    milestones: tuple[int, ...] = ()
    """Completed epochs, rising, after each of which multistep multiplies the learning rate by gamma."""
    gamma: float = 0.1
    """Factor of step and multistep."""
    start_lr_fraction: float = 0.04
    """Learning rate of the first step of onecycle and triangular, as a fraction of lr."""
    peak_fraction: float = 0.3
    """Part of the run's images after which onecycle and triangular are at lr."""
    momentum: float = 0.937
    """Momentum of SGD, first beta of Adam, after warmup."""
    nesterov: bool = True
    """Nesterov's momentum, for sgd."""
    weight_decay: float = 0.0005
    """For nominal_batch_size images per step; in force is weight_decay * images_per_step / 64.
    Weights only: no bias, no BatchNorm."""
    nominal_batch_size: int = 64
    """Images per step that lr and weight_decay are given for."""
    accumulate: int | Literal["auto"] = "auto"
    """Micro-batches per rank and optimizer step. `auto`: as many as come nearest to
    nominal_batch_size. Resolved to images_per_step at the first launch."""
    images_per_step: int | None = None
    """Images of one optimizer step; overrides accumulate. Kept over restarts and any number of
    workers."""
    lr_scaling: Literal["auto", "linear", "sqrt", "none"] = "auto"
    """How the update follows images_per_step / 64. `auto`: linear for sgd, none for adam(w), as
    YOLOv5 does implicitly."""
    warmup_epochs: float = 3.0
    """Epochs in which lr, momentum and images per step ramp up."""
    warmup_min_images: int | None = None
    """Warmup lasts at least this many images. Default: 100 forwards of the first launch."""
    warmup_micro_batches: int | None = None
    """Micro-batches of the first step; ramps to the full step. Default: the first launch's number
    of workers."""
    warmup_momentum: float = 0.8
    """Momentum at the start of warmup."""
    warmup_bias_lr: float = 0.1
    """Learning rate of the biases at the start of warmup; the other groups start at 0."""
    max_grad_norm: float = 10.0
    """Clip on the norm of the step's summed gradient. It is a sum over images, so with more than
    64 images per step it bites sooner. 0: no clipping."""
    ema_decay: float = 0.9999
    """Limit of the decay of the moving average of weights. 0: no averaging."""
    ema_warmup_steps: int = 2000
    """Time constant, in optimizer steps, with which the decay approaches ema_decay."""
    precision: Precision = "auto"
    """Arithmetic of forward and backward. `auto`: bf16 if all of the GPUs have it, else fp16 with a
    gradient scaler, fp32 on CPUs; a run that goes on keeps what it began in, if it can."""
    cuda_graph: bool = False
    """On GPUs, record forward and backward of a full micro-batch once and replay them. For networks
    and micro-batches so small that the GPU waits for the host; takes more of its memory."""

    def __post_init__(self) -> None:
        for name in ("lr", "warmup_bias_lr", "weight_decay", "warmup_epochs", "max_grad_norm"):
            check_range(f"optim.{name}", getattr(self, name), 0)
        for name in (
            "final_lr_fraction",
            "start_lr_fraction",
            "peak_fraction",
            "gamma",
            "ema_decay",
        ):
            check_range(f"optim.{name}", getattr(self, name), 0, 1)
        for name in ("momentum", "warmup_momentum"):
            check_range(f"optim.{name}", getattr(self, name), 0, 0.9999)
        for name in ("nominal_batch_size", "ema_warmup_steps", "step_epochs"):
            check_range(f"optim.{name}", getattr(self, name), 1)
        for name in ("images_per_step", "warmup_min_images", "warmup_micro_batches"):
            value = getattr(self, name)
            if value is not None:
                check_range(f"optim.{name}", value, 0 if name == "warmup_min_images" else 1)
        if self.accumulate != "auto":
            check_range("optim.accumulate", self.accumulate, 1)
        for part, factor in self.lr_factors.items():
            check_range(f"optim.lr_factors: {part}", factor, MIN_LR_FACTOR, 1 / MIN_LR_FACTOR)
        if list(self.milestones) != sorted({max(epoch, 1) for epoch in self.milestones}):
            raise ConfigError(
                f"optim.milestones must be rising epochs from 1 on, got {list(self.milestones)}"
            )
        if self.schedule == "multistep" and not self.milestones:
            raise ConfigError(
                "optim.schedule multistep needs optim.milestones, for example 30 60 80"
            )
