"""Which arithmetic a device computes in, and the gradient scaler that fp16 needs."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from cluster.errors import ConfigError
from trainjobs.optim_config import Precision as PrecisionName

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def resolve_precision(asked: PrecisionName, device: torch.device) -> PrecisionName:
    """The arithmetic `auto` stands for on `device`: bf16, fp16 on GPUs without it, fp32 on CPUs.

    Raises:
        ConfigError: fp16 is asked for on a CPU.
    """
    if asked == "fp16" and device.type != "cuda":
        raise ConfigError("optim.precision fp16 needs a GPU; use bf16 or fp32 on a CPU")
    if asked != "auto":
        return asked
    if device.type != "cuda":
        return "fp32"
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"


class Precision:
    """Autocast for forwards, and loss scaling where gradients would underflow."""

    def __init__(self, name: PrecisionName, device: torch.device) -> None:
        self.name, self.device = resolve_precision(name, device), device
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.name == "fp16")

    def autocast(self, *, cache: bool = True) -> AbstractContextManager[Any]:
        """Context for a forward and its loss; `cache`: a weight is cast once for several uses."""
        if self.name == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=DTYPES[self.name], cache_enabled=cache)

    def backward(self, loss: Tensor) -> None:
        """Backpropagate `loss`, scaled if this arithmetic needs it."""
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]  # torch's stub

    def unscale(self, optimizer: Optimizer) -> None:
        """Bring gradients back to their own size, for clipping."""
        self.scaler.unscale_(optimizer)

    def step(self, optimizer: Optimizer, finite: Tensor) -> None:
        """Take the optimizer's step if gradients are `finite`; adapt the scale either way.

        Args:
            optimizer: A fused one, which looks at the flag on the device.
            finite: Scalar bool.
        """
        optimizer.found_inf = (~finite).float()  # type: ignore[attr-defined]  # as GradScaler does
        optimizer.step()
        del optimizer.found_inf  # type: ignore[attr-defined]
        self.scaler.update()
