"""BatchNorm whose running statistics are combined over the micro-batches of an optimizer step.

A forward normalizes by its own micro-batch and leaves the running statistics alone; they move once a
step, by the mean over the step's micro-batches on all ranks. So they depend neither on the number of
ranks nor on the order of forwards. Source: recipe, section 4.6.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainjobs.distributed import all_reduce_sum


class StepBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d that records its last micro-batch's mean and unbiased variance when training."""

    batch_mean: Tensor | None = None
    """(C,) of the last micro-batch; each is written over the one before."""
    batch_var: Tensor | None = None

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  nn.BatchNorm2d's name
        """Normalize (B, C, H, W); in training by the batch's own statistics."""
        if not self.training:
            return super().forward(input)
        if self.batch_mean is None or self.batch_mean.device != input.device:
            with torch.inference_mode(mode=False):  # or training could not write into them later
                self.batch_mean = torch.zeros_like(self.running_mean)  # type: ignore[arg-type]  # tracked
                self.batch_var = torch.zeros_like(self.running_var)  # type: ignore[arg-type]  # tracked
        assert self.batch_var is not None
        # With momentum 1 torch writes the batch's statistics, computed anyway, into these tensors.
        # They are the same every time, where a CUDA graph writes too; 0 times what is no number would
        # be no number.
        self.batch_mean.zero_()
        self.batch_var.zero_()
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
        self._running: list[Tensor] = []
        """All layers' means, then all layers' variances."""
        for name in ("running_mean", "running_var"):
            self._running += [getattr(layer, name) for layer in self.layers]
        self._counts: list[Any] = [layer.num_batches_tracked for layer in self.layers]
        self._weights: dict[int, Tensor] = {}
        self.total: Tensor | None = None

    @torch.no_grad()
    def add(self, num_images: int) -> None:
        """Count the last forward, of `num_images` images; 0 for a dummy that must not count."""
        if not self.layers:
            return
        found: list[Any] = [layer.batch_mean for layer in self.layers]
        found += [layer.batch_var for layer in self.layers]
        row = torch.cat(found).double()
        weighted = torch.cat([row, row.new_ones(1)]) * num_images
        self.total = weighted if self.total is None else self.total + weighted

    @torch.no_grad()
    def commit(self, num_micro_batches: int, taken: Tensor) -> None:
        """Move the running statistics by one step of `num_micro_batches` micro-batches, all ranks'.

        running <- (1 - r)^m running + (1 - (1 - r)^m) mean, r the layer's momentum.

        Args:
            num_micro_batches: m.
            taken: Scalar bool on the model's device; if it is false, the step leaves no trace.
        """
        if self.total is None:
            return
        total = all_reduce_sum(self.total)
        self.total = None
        before = torch.cat(self._running)
        mean = (total[:-1] / total[-1]).to(before.dtype)
        # Of a step that is not taken, the mean may be no number, which no factor of 0 would hide.
        after = torch.where(taken, before.lerp(mean, self._weights_of(num_micro_batches)), before)
        torch._foreach_copy_(self._running, torch.split(after, [len(r) for r in self._running]))
        # A list: the host would ask the device what a single addend is.
        torch._foreach_add_(self._counts, [taken * num_micro_batches] * len(self._counts))

    def _weights_of(self, num_micro_batches: int) -> Tensor:
        """Weight of a step's mean for each value of the running statistics; few sizes of steps occur."""
        if num_micro_batches not in self._weights:
            weights = [
                torch.full_like(running, 1 - (1 - (layer.momentum or 0.0)) ** num_micro_batches)
                for running, layer in zip(self._running, self.layers * 2, strict=True)
            ]
            self._weights[num_micro_batches] = torch.cat(weights)
        return self._weights[num_micro_batches]
