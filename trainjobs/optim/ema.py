"""Exponential moving average of a model's weights; identical on every rank by construction."""

import copy
import itertools
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn


class ModelEma:
    """A float32 copy of `model` that follows it, slowly at the end and fast at the start.

    After the u-th update the average keeps d(u) = decay * (1 - exp(-u / warmup_steps)) of itself.
    Floating-point state (weights and BatchNorm statistics) is averaged, the rest copied.
    Source: recipe, section 2.
    """

    def __init__(self, model: nn.Module, *, decay: float, warmup_steps: int) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(requires_grad=False)
        self.decay, self.warmup_steps = decay, warmup_steps
        # Both modules update their tensors in place, so the lists stay valid.
        followed = model.state_dict()
        pairs = [(average, followed[name]) for name, average in self.model.state_dict().items()]
        is_averaged = [decay > 0 and average.is_floating_point() for average, _ in pairs]
        self._averages, self._values = _lists(itertools.compress(pairs, is_averaged))
        self._copies, self._copied = _lists(
            p for p, a in zip(pairs, is_averaged, strict=True) if not a
        )
        device = pairs[0][0].device
        self._num_updates = torch.zeros((), dtype=torch.float64, device=device)

    def resume(self, state: Mapping[str, Any], num_updates: int) -> None:
        """Go on from a saved state of `self.model`, after so many updates."""
        self.model.load_state_dict(state)
        self._num_updates.fill_(num_updates)

    @torch.no_grad()
    def update(self, taken: Tensor) -> None:
        """Follow the model by one step if it was `taken`: a scalar bool on the model's device."""
        self._num_updates += taken
        if self._copies:
            torch._foreach_copy_(self._copies, self._copied)
        if not self._averages:
            return
        keep = self.decay * (1 - torch.exp(-self._num_updates / self.warmup_steps))
        weight = ((1 - keep) * taken).to(self._averages[0].dtype)
        changes = torch._foreach_sub(self._values, self._averages)
        torch._foreach_mul_(changes, weight)
        torch._foreach_add_(self._averages, changes)


def _lists(pairs: Iterable[tuple[Tensor, Tensor]]) -> tuple[list[Tensor], list[Tensor]]:
    found = list(pairs)
    return [first for first, _ in found], [second for _, second in found]
