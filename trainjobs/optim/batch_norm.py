"""BatchNorm whose running statistics are combined over the micro-batches of an optimizer step.

A forward normalizes by its own micro-batch and leaves the running statistics alone; they move once a
step, by the mean over the step's micro-batches on all ranks. So they depend neither on the number of
ranks nor on the order of forwards. Source: recipe, section 4.6.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainjobs.distributed import all_reduce_sum


class StepBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d that records its last micro-batch's mean and unbiased variance when training."""

    batch_mean: Tensor
    batch_var: Tensor

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  nn.BatchNorm2d's name
        """Normalize (B, C, H, W); in training by the batch's own statistics."""
        if not self.training:
            return super().forward(input)
        # With momentum 1 torch writes the batch's statistics, computed anyway, into these buffers.
        self.batch_mean = torch.zeros_like(self.running_mean)  # type: ignore[arg-type]  # always tracked
        self.batch_var = torch.zeros_like(self.running_var)  # type: ignore[arg-type]  # always tracked
        return functional.batch_norm(
            input,
            self.batch_mean,
            self.batch_var,
            self.weight,
            self.bias,
            training=True,
            momentum=1.0,
            eps=self.eps,
        )


class FrozenBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d that normalizes by its running statistics in training too, and keeps them."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  nn.BatchNorm2d's name
        """Normalize (B, C, H, W)."""
        return functional.batch_norm(
            input,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            training=False,
            eps=self.eps,
        )


def freeze_batch_norm(module: nn.Module) -> None:
    """Make `module` a `FrozenBatchNorm2d` if it is a BatchNorm2d; state and keys stay as they are."""
    if type(module) is nn.BatchNorm2d:
        module.__class__ = FrozenBatchNorm2d


def record_batch_norm(model: nn.Module) -> None:
    """Turn every BatchNorm2d of `model`, but frozen ones, into a `StepBatchNorm2d`; state and keys
    stay as they are."""
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = StepBatchNorm2d


class StepStatistics:
    """Collects the statistics of a step's micro-batches and moves the running ones once."""

    def __init__(self, model: nn.Module) -> None:
        self.layers = [m for m in model.modules() if isinstance(m, StepBatchNorm2d)]
        self.running = [layer.running_mean for layer in self.layers]
        self.running += [layer.running_var for layer in self.layers]
        self.counts = [layer.num_batches_tracked for layer in self.layers]
        self.total: Tensor | None = None

    @torch.no_grad()
    def add(self, num_images: int) -> None:
        """Count the last forward, of `num_images` images; 0 for a dummy that must not count."""
        if not self.layers:
            return
        means = [layer.batch_mean for layer in self.layers]
        row = torch.cat([*means, *(layer.batch_var for layer in self.layers)]).double()
        weighted = torch.cat([row, row.new_ones(1)]) * num_images
        self.total = weighted if self.total is None else self.total + weighted

    def discard(self) -> None:
        """Forget what was added: the step was not taken."""
        self.total = None

    @torch.no_grad()
    def commit(self, num_micro_batches: int) -> None:
        """Move the running statistics by one step of `num_micro_batches` micro-batches, all ranks'.

        running <- (1 - r)^m running + (1 - (1 - r)^m) mean, r the layer's momentum.
        """
        if self.total is None:
            return
        total = all_reduce_sum(self.total)
        self.total = None
        mean = (total[:-1] / total[-1]).to(self.running[0].dtype)  # type: ignore[union-attr]  # tracked
        targets = torch.split(mean, [len(r) for r in self.running])  # type: ignore[arg-type]  # tracked
        momenta = [layer.momentum or 0.0 for layer in self.layers] * 2
        for running, target, momentum in zip(self.running, targets, momenta, strict=True):
            running.lerp_(target, 1 - (1 - momentum) ** num_micro_batches)  # type: ignore[union-attr]  # tracked
        for count in self.counts:
            count.add_(num_micro_batches)  # type: ignore[union-attr]  # tracked
