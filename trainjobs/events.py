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


Event = GroupStarted | StepProgress | EpochDone | RunDone
