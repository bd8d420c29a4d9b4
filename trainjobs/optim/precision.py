"""Which arithmetic a device computes in, and the gradient scaler that fp16 needs."""

import logging
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from cluster.errors import ConfigError
from trainjobs.distributed import all_reduce_max
from trainjobs.optim_config import Precision as PrecisionName

logger = logging.getLogger(__name__)

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
ARITHMETICS: tuple[PrecisionName, ...] = ("bf16", "fp16", "fp32")
"""On a GPU the first that it has is the best."""


def settle_precision(
    asked: PrecisionName, device: torch.device, before: PrecisionName | None = None
) -> PrecisionName:
    """The arithmetic of a run, on all of its ranks, each of which makes this call.

    `auto` stands for bf16, fp16 on GPUs of which one has no bf16, and fp32 on CPUs. A run that goes on
    keeps what it has computed in, where all of its ranks still have that.

    Args:
        asked: What the config says.
        device: Of this rank.
        before: What the run has computed in so far.

    Raises:
        ConfigError: fp16 is asked for on a CPU.
    """
    if asked == "fp16" and device.type != "cuda":
        raise ConfigError("optim.precision fp16 needs a GPU; use bf16 or fp32 on a CPU")
    if asked != "auto":
        return asked
    lacked = torch.tensor(lacked_by(device), dtype=torch.uint8, device=device)
    flags = all_reduce_max(lacked).tolist()
    found = [name for name, is_lacked in zip(ARITHMETICS, flags, strict=True) if not is_lacked]
    usual = found[0] if device.type == "cuda" else "fp32"
    if before is None or before == usual:
        return usual
    if before in found:
        logger.info("the run goes on in %s as it began; a new one would take %s", before, usual)
        return before
    logger.warning(
        "the run was computed in %s, which not every rank's device has: it goes on in %s, and its "
        "curve may differ from the one that it would have drawn", before, usual,
    )  # fmt: skip
    return usual


def lacked_by(device: torch.device) -> list[bool]:
    """Which of `ARITHMETICS` a device does not have."""
    is_gpu = device.type == "cuda"
    has_bf16 = not is_gpu or torch.cuda.is_bf16_supported(including_emulation=False)
    return [not has_bf16, not is_gpu, False]


class Precision:
    """Autocast for forwards, and loss scaling where gradients would underflow."""

    def __init__(self, name: PrecisionName, device: torch.device) -> None:
        """Compute in what `settle_precision` returned."""
        self.name, self.device = name, device
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
