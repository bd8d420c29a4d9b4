"""What a job brings to the loop. The loop knows losses and steps; a task knows what they mean."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

Batch = dict[str, Tensor]
"""`images` and `targets` of a micro-batch; what `targets` holds is between a task's loader and loss."""
Metrics = Mapping[str, float]
PrepareLoader = Callable[["DataLoader[Batch]"], Iterable[Batch]]
"""What a runtime does to a loader before it is iterated, for example moving batches to a device."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RankContext:
    """What a task needs to know of the process it runs in."""

    rank: int
    world_size: int
    ranks_on_node: int
    device: torch.device
    loader_workers: int
    prepare_loader: PrepareLoader
    cache: Path
    """Folder on this node that this service may fill."""


@dataclass(frozen=True, slots=True)
class Loss:
    """Loss of one micro-batch, normalized within it."""

    total: Tensor
    """Scalar with a gradient."""
    parts: Tensor
    """(P + F,) detached: terms of the total, in the order of `Task.loss_names`, then other figures of
    the micro-batch, in the order of `Task.figure_names`."""


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """What one forward sees."""

    images: Tensor
    """(B, 3, H, W) uint8."""
    targets: Tensor
    first_position: int
    """Of its first image, in the epoch's order."""
    num_images: int
    """0 for the dummy of a rank that has no micro-batch in a step."""
    is_my_last: bool
    """Whether this rank's gradients are complete, and so averaged over ranks, after it."""


class TrainingOrders(Protocol):
    """Which training image comes when; see `trainjobs.data.ordering.order.Orders`."""

    num_images: int
    """Images in the training split."""

    def images(self, epoch: int, positions: Iterable[int]) -> list[int]:
        """The images at these positions of an epoch's order."""
        ...


class Task(Protocol):
    """One kind of training: detection, classification."""

    @property
    def loss_names(self) -> tuple[str, ...]:
        """Names of the loss terms, in the order of `Loss.parts`."""
        ...

    @property
    def figure_names(self) -> tuple[str, ...]:
        """Names of what else is measured in training, such as its accuracy; means over images."""
        ...

    @property
    def key_metric(self) -> str:
        """The metric that decides which weights are best; higher is better."""
        ...

    @property
    def orders(self) -> TrainingOrders:
        """The training images, in the order of each epoch."""
        ...

    def build_model(self, *, continues: bool = False) -> nn.Module:
        """A new network, from the run's seed or its weights; equal on every rank.

        Args:
            continues: A checkpoint's values are to be loaded into it: `model.weights` may be gone.
        """
        ...

    def training_batches(self, batches: Iterable[list[Any]]) -> Iterable[Batch]:
        """Micro-batches on this rank's device, for lists of (epoch, position, image)."""
        ...

    def dummy_batch(self) -> Batch:
        """The smallest batch without targets that model and loss accept."""
        ...

    def compute_loss(self, model: nn.Module, images: Tensor, targets: Tensor) -> Loss:
        """Forward and loss of one micro-batch; `images` (B, 3, H, W) uint8."""
        ...

    def evaluate(self, model: nn.Module) -> Metrics:
        """Metrics of `model` on the validation split, sharded over ranks, the same on every rank."""
        ...

    def draw_plots(self, folder: Path) -> None:
        """Draw the last evaluation into PNG files; called on rank 0 alone."""
        ...

    def summary(self) -> dict[str, dict[str, float]]:
        """The last evaluation's figures by their key in result.json; the same on every rank."""
        ...

    def weights_header(self) -> dict[str, str]:
        """What a weights file says about the model: name, classes, image size, anchors."""
        ...
