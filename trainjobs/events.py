"""What rank 0 tells the driver while a run goes on. Plain data; crosses processes."""

from dataclasses import dataclass

from trainjobs.loop import Outcome


@dataclass(frozen=True, slots=True)
class GroupStarted:
    """All ranks are up; sent once per start of the group."""

    world_size: int


@dataclass(frozen=True, slots=True)
class StepProgress:
    """How far the current epoch is."""

    epoch: int
    """Counted from 1."""
    epochs: int
    fraction: float
    loss: float
    images_per_second: float


@dataclass(frozen=True, slots=True)
class EpochDone:
    """A row of metrics.csv."""

    row: dict[str, float]


@dataclass(frozen=True, slots=True)
class RunDone:
    """Training ended, for good or for now, and everything is written."""

    outcome: Outcome
    epochs: int
    """Completed."""
    best_epoch: int | None
    optimizer_steps: int
    images_per_second: float
    """Training images / training seconds; no start-up, no evaluation."""
    metrics: dict[str, float]
    """Of the best weights; empty if the run was interrupted."""
    metrics_yolov5: dict[str, float]
    steady_images_per_second: float
    """Over this launch's steps after its first ten; 0 if there were fewer."""
    training_images: int
    """Of an epoch."""
    peak_memory_bytes: int
    """Resident memory of the rank that needed most."""
    peak_gpu_memory_bytes: int
    """GPU memory of the rank that needed most; 0 on CPUs."""


Event = GroupStarted | StepProgress | EpochDone | RunDone
