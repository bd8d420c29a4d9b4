"""Collectives, and the one place that imports torch.distributed. Alone, each is the identity."""

import inspect
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

T = TypeVar("T")

_SYNC_BUFFERS = "forward_sync_buffers"  # torch 2.14's name for broadcast_buffers
if _SYNC_BUFFERS not in inspect.signature(DistributedDataParallel).parameters:
    _SYNC_BUFFERS = "broadcast_buffers"
DDP_OPTIONS: dict[str, Any] = {_SYNC_BUFFERS: False, "gradient_as_bucket_view": True}
"""BatchNorm's statistics are combined once a step (optim/batch_norm.py), not sent at each forward."""


def is_distributed() -> bool:
    """Whether this process has others to talk to.

    A group of one must not communicate: gloo copies large tensors in threads of its own, whose
    OpenMP teams make libgomp stop spinning in all of them. That halves the speed of a CPU rank.
    """
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def all_reduce_sum(tensor: Tensor) -> Tensor:
    """Sum of every rank's `tensor`, in place."""
    if is_distributed():
        dist.all_reduce(tensor)
    return tensor


def all_reduce_max(tensor: Tensor) -> Tensor:
    """Elementwise largest of every rank's `tensor`, in place."""
    if is_distributed():
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    return tensor


def gather_lists(mine: list[T]) -> list[T]:
    """Every rank's items, in rank order, on rank 0; an empty list elsewhere."""
    if not is_distributed():
        return mine
    parts: list[Any] | None = [None] * dist.get_world_size() if dist.get_rank() == 0 else None
    dist.gather_object(mine, parts)
    return [item for part in parts or [] for item in part]


def all_gather_lists(mine: list[T]) -> list[T]:
    """Every rank's items, in rank order, on every rank."""
    if not is_distributed():
        return mine
    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, mine)
    return [item for part in parts for item in part]


def broadcast_object(value: T) -> T:
    """Rank 0's `value`, on every rank."""
    if not is_distributed():
        return value
    box = [value]
    dist.broadcast_object_list(box)
    return box[0]


def gradient_sync(model: nn.Module, *, enabled: bool) -> AbstractContextManager[Any]:
    """Context for a forward and backward; gradients are averaged over ranks only if `enabled`."""
    if enabled or not isinstance(model, DistributedDataParallel):
        return nullcontext()
    return model.no_sync()


def restore_sum(model: nn.Module) -> None:
    """Make gradients that DDP averaged over ranks the sums that they were before.

    Losses that made up for it beforehand would overflow fp16 the sooner, the more ranks there are.
    """
    if isinstance(model, DistributedDataParallel):
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        torch._foreach_mul_(gradients, float(dist.get_world_size()))


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside a DDP wrapper, or `model` itself."""
    if isinstance(model, DistributedDataParallel):
        inner: nn.Module = model.module
        return inner
    return model
