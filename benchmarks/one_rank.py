"""The training loop as the only rank runs it, in this process, without Ray; for benchmarks."""

from pathlib import Path

import torch

from trainjobs.config import TrainConfig
from trainjobs.loop import LossSums, Observer, Training, fit
from trainjobs.step_plan import Step
from trainjobs.task import RankContext, Task
from trainjobs.training import build_training


class Nobody:
    """An observer that is told everything and keeps nothing."""

    def stop_requested(self) -> bool:
        """Never."""
        return False

    def step_done(self, training: Training, step: Step, losses: LossSums) -> None:
        """Nothing."""

    def epoch_done(self, training: Training, row: dict[str, float], *, is_best: bool) -> None:
        """Nothing."""

    def interrupted(self, training: Training) -> None:
        """Nothing."""


def only_rank(device: torch.device, cache: Path, loader_workers: int = 0) -> RankContext:
    """What a task is told where there is one rank."""
    return RankContext(
        rank=0,
        world_size=1,
        ranks_on_node=1,
        device=device,
        loader_workers=loader_workers,
        prepare_loader=lambda loader: loader,
        cache=cache,
    )


def train_alone(
    config: TrainConfig, task: Task, device: torch.device, observer: Observer | None = None
) -> Training:
    """Train to the end.

    Args:
        config: Resolved.
        task: Of `only_rank`.
        device: Of the task.
        observer: Is told what happens. Default: nobody.
    """
    training = build_training(
        config,
        task,
        rank=0,
        world_size=1,
        device=device,
        prepare_model=lambda model: model.to(device),
    )
    fit(training, observer or Nobody(), device)
    return training
