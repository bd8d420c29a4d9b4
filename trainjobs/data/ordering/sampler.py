"""Who loads which images, and when: micro-batches of a rank, the same images for any number of ranks."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from trainjobs.step_plan import StepPlan
from trainjobs.task import TrainingOrders


class SampleRef(NamedTuple):
    """One training image: its place in the order, and which image of the split that is."""

    epoch: int
    position: int
    image: int
    shape: tuple[int, int] | None = None
    """Height and width of its micro-batch in px. None: all have the same."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RankSampler:
    """A rank's micro-batches from a point of the run to its end; a DataLoader's batch sampler.

    One stream over all epochs, so that loading goes on while an epoch is evaluated.
    """

    plan: StepPlan
    orders: TrainingOrders
    rank: int
    epochs: int
    first_epoch: int = 0
    first_step: int = 0

    def __iter__(self) -> Iterator[list[SampleRef]]:
        """Yield one list of samples per micro-batch of this rank."""
        for epoch in range(self.first_epoch, self.epochs):
            start = self.first_step if epoch == self.first_epoch else 0
            for step in self.plan.steps(epoch, start):
                for number in self.plan.mine(step, self.rank):
                    positions = step.positions(number)
                    images = self.orders.images(epoch, positions)
                    pairs = zip(positions, images, strict=True)
                    yield [SampleRef(epoch, position, image) for position, image in pairs]
