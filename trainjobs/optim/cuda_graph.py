"""A network's forward and backward replayed as CUDA graphs: one launch each instead of hundreds.

A GPU is through with a small network, or a small micro-batch, before the host has launched its next
kernels. Source: torch's "CUDA semantics", section on partial-network capture.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from trainjobs.optim.precision import Precision


def replay_forwards(
    network: nn.Module, shape: tuple[int, int, int, int], precision: Precision
) -> None:
    """Make `network`, in training on images of this shape, replay what it does now on such images.

    On other shapes, and in evaluation, it goes on as before. A copy of the network would replay the
    forward of the original: copy before.

    Args:
        network: On its GPU, in the mode for training, without hooks, and not yet wrapped in DDP.
        shape: (B, 3, H, W) of the images, which are float32 and channels last.
        precision: Of the training; what is captured holds its casts.
    """
    names, parameters = zip(*network.named_parameters(), strict=True)
    images = torch.zeros(shape, device=parameters[0].device).to(memory_format=torch.channels_last)
    # What is recorded keeps its leaves' gradient nodes on the recording's stream. So the leaves are
    # others than the parameters, in the same memory.
    leaves = [p.detach().requires_grad_(p.requires_grad) for p in parameters]
    eager: Callable[[Tensor], Any] = network.forward

    def call(images: Tensor, *leaves: Tensor) -> Any:
        return functional_call(network, dict(zip(names, leaves, strict=True)), (images,))

    with precision.autocast(cache=False):  # a cached cast would be missing from a replay
        replay = torch.cuda.make_graphed_callables(call, (images, *leaves))

    def forward(images: Tensor) -> Any:
        if not network.training or images.shape != shape:
            return eager(images)
        _keep_gradients(parameters)
        return replay(images, *parameters)

    network.forward = forward


def _keep_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Give gradients of the micro-batch before, if it was of the same step, memory of their own.

    They lie where the graph writes gradients, and the next replay would write over them.
    """
    kept = [(p, p.grad) for p in parameters if p.grad is not None]
    if kept:
        copies = torch._foreach_mul([gradient for _, gradient in kept], 1.0)
        for (parameter, _), copy in zip(kept, copies, strict=True):
            parameter.grad = copy
