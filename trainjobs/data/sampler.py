"""Which image comes when: a pure function of (seed, epoch), the same for any number of ranks."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from trainjobs.step_plan import StepPlan

ORDER_STREAM = 0x5EED
"""Keeps the random stream of the order apart from those of augmentation."""


class SampleRef(NamedTuple):
    """One training image: its place in the order, and which image of the split that is."""

    epoch: int
    position: int
    image: int


def epoch_order(num_images: int, *, seed: int, epoch: int) -> NDArray[np.int64]:
    """A permutation of the split for one epoch, (num_images,)."""
    generator = np.random.Generator(np.random.Philox(key=[seed, (ORDER_STREAM << 32) | epoch]))
    return generator.permutation(num_images)


@dataclass(frozen=True, kw_only=True, slots=True)
class RankSampler:
    """A rank's micro-batches from a point of the run to its end; a DataLoader's batch sampler.

    One stream over all epochs, so that loading goes on while an epoch is evaluated.
    """

    plan: StepPlan
    rank: int
    seed: int
    epochs: int
    first_epoch: int = 0
    first_step: int = 0

    def __iter__(self) -> Iterator[list[SampleRef]]:
        """Yield one list of samples per micro-batch of this rank."""
        for epoch in range(self.first_epoch, self.epochs):
            order = epoch_order(self.plan.num_images, seed=self.seed, epoch=epoch)
            start = self.first_step if epoch == self.first_epoch else 0
            for step in self.plan.steps(epoch, start):
                for number in self.plan.mine(step, self.rank):
                    yield [SampleRef(epoch, p, int(order[p])) for p in step.positions(number)]
