"""Which steps were taken, and who asked to stop: known on the device at once, here one step later.

Asking the device after each step would make this process wait for it, and then the device for this
process, which could not have prepared the next step meanwhile.
"""

import logging

import torch
from torch import Tensor

from cluster.errors import TrainingError
from trainjobs.checkpoint import TrainState
from trainjobs.distributed import all_reduce_max
from trainjobs.host_copy import HostCopy
from trainjobs.step_plan import Step

logger = logging.getLogger(__name__)

MAX_SKIPPED_IN_A_ROW = 20
"""Non-finite steps in a row that end a run. A GradScaler's start takes at most 16: 65,536 halved to 1."""


class TakenSteps:
    """Counts, in the state, the steps that were taken, each at the end of the step after it."""

    def __init__(self, state: TrainState, device: torch.device) -> None:
        """Nothing is open yet."""
        self._state = state
        self._open: Step | None = None
        self._taken = torch.ones((), dtype=torch.bool, device=device)
        self._flags = HostCopy(torch.zeros(2, dtype=torch.uint8))

    def before_step(self, *, stop: bool) -> None:
        """Tell all ranks how this one's last step went, and whether it wants to `stop`."""
        flags = torch.stack([~self._taken, torch.full_like(self._taken, stop)])
        self._flags = HostCopy(all_reduce_max(flags.to(torch.uint8)))

    def after_step(self, step: Step, taken: Tensor) -> bool:
        """Count the step before; this one, `taken` or not by a scalar on the device, stays open.

        Returns:
            Whether any rank wanted to stop before this step: ranks must agree, or some would wait
            for ever.

        Raises:
            TrainingError: Too many steps in a row were not finite.
        """
        was_skipped, stop = self._flags.read().tolist()
        self._count(taken=not was_skipped)
        self._open, self._taken = step, taken
        return bool(stop)

    def settle(self) -> None:
        """Count the last step, too; waits until it is done.

        Raises:
            TrainingError: See `after_step`.
        """
        self._count(taken=not all_reduce_max((~self._taken).to(torch.uint8)).item())

    def _count(self, *, taken: bool) -> None:
        step, state, self._open = self._open, self._state, None
        if step is None:
            return
        if taken:
            state.skipped_in_a_row = 0
            state.updates += 1
            return
        state.skipped_in_a_row += 1
        logger.warning(
            "epoch %d, step %d: gradients are not finite; the step is skipped (%d in a row)",
            step.epoch + 1, step.index + 1, state.skipped_in_a_row,
        )  # fmt: skip
        if state.skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW:
            raise TrainingError(
                f"{state.skipped_in_a_row} steps in a row had gradients that are not finite "
                f"(epoch {step.epoch + 1}): lower optim.lr, or set optim.precision to fp32"
            )
