"""Exponential moving average of a model's weights; identical on every rank by construction."""

import copy
import math

import torch
from torch import nn


class ModelEma:
    """A float32 copy of `model` that follows it, slowly at the end and fast at the start.

    After the u-th update the average keeps d(u) = decay * (1 - exp(-u / warmup_steps)) of itself.
    Floating-point state (weights and BatchNorm statistics) is averaged, the rest copied.
    Source: recipe, section 2.
    """

    def __init__(self, model: nn.Module, *, decay: float, warmup_steps: int) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(requires_grad=False)
        self.decay, self.warmup_steps = decay, warmup_steps
        # Both modules update their tensors in place, so the pairs stay valid.
        followed = model.state_dict()
        pairs = [(average, followed[name]) for name, average in self.model.state_dict().items()]
        self.averaged = [pair for pair in pairs if pair[0].is_floating_point()]
        self.copied = [pair for pair in pairs if not pair[0].is_floating_point()]

    @torch.no_grad()
    def update(self, num_updates: int) -> None:
        """Follow the model by one step; `num_updates` counts this one."""
        keep = self.decay * (1 - math.exp(-num_updates / self.warmup_steps))
        averages, values = zip(*self.averaged, strict=True)
        torch._foreach_lerp_(averages, values, 1 - keep)
        for average, value in self.copied:
            average.copy_(value)
