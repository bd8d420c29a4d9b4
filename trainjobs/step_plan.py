"""How an epoch is cut into optimizer steps and micro-batches, and who computes which. Integers only.

The micro-batch is the unit of work: its images, and so its loss and its BatchNorm statistics, do not
depend on the number of ranks. Ranks take micro-batches in turn. Source: recipe, section 4.
"""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass

from cluster.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One optimizer step: consecutive images of the epoch's order, cut into micro-batches."""

    epoch: int
    """Counted from 0."""
    index: int
    """Of the step within its epoch, from 0."""
    first_position: int
    """Position, in the epoch's order, of the step's first image."""
    sizes: tuple[int, ...]
    """Images in each micro-batch; they differ by at most one, larger ones first."""
    warmup_progress: float
    """0 at the start of training, 1 from the end of warmup on; taken when the step ends."""

    @property
    def num_images(self) -> int:
        """Images in this step."""
        return sum(self.sizes)

    def positions(self, micro_batch: int) -> range:
        """Positions in the epoch's order that micro-batch number `micro_batch` covers."""
        small, larger = divmod(self.num_images, len(self.sizes))
        start = self.first_position + small * micro_batch + min(micro_batch, larger)
        return range(start, start + self.sizes[micro_batch])


@dataclass(frozen=True, slots=True)
class _EqualSteps:
    """Steps of an epoch that follow each other and are cut alike."""

    first_index: int
    """Of the first."""
    first_position: int
    """Of the first."""
    num_steps: int
    num_images: int
    """In each step."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StepPlan:
    """The cut of every epoch of a run. Depends on the world size in `mine` alone."""

    num_images: int
    """Images in the training split."""
    images_per_step: int
    batch_size_per_worker: int
    warmup_images: int
    """Images over which lr, momentum and the size of a step ramp up."""
    warmup_micro_batches: int
    """Micro-batches of the very first step; more than a full step has are cut to a full step."""
    world_size: int

    @property
    def micro_batches_per_step(self) -> int:
        """Micro-batches of a full step."""
        return -(-self.images_per_step // self.batch_size_per_worker)

    def mine(self, step: Step, rank: int) -> range:
        """Numbers of the micro-batches of `step` that `rank` computes; may be empty."""
        return range(rank, len(step.sizes), self.world_size)

    def images_seen(self, step: Step) -> int:
        """Images of the run up to the end of `step`, over all its epochs."""
        return step.epoch * self.num_images + step.first_position + step.num_images

    def steps(self, epoch: int, start: int = 0) -> Iterator[Step]:
        """The steps of an epoch in order, from step `start` on. Every image is in exactly one."""
        for alike in self._equal_steps(epoch):
            num_images = alike.num_images
            sizes = _balanced(num_images, -(-num_images // self.batch_size_per_worker))
            for number in range(max(start - alike.first_index, 0), alike.num_steps):
                position = alike.first_position + number * num_images
                seen = epoch * self.num_images + position + num_images
                yield Step(
                    epoch=epoch,
                    index=alike.first_index + number,
                    first_position=position,
                    sizes=sizes,
                    warmup_progress=self._warmup_progress(seen),
                )

    def num_steps(self, epoch: int) -> int:
        """Optimizer steps in an epoch; fewer images per step make it more during warmup."""
        return sum(alike.num_steps for alike in self._equal_steps(epoch))

    def _equal_steps(self, epoch: int) -> Iterator[_EqualSteps]:
        """The steps of an epoch by size: one item for each size that warmup knows, and the last."""
        position = index = 0
        while position < self.num_images:
            seen, remaining = epoch * self.num_images + position, self.num_images - position
            count = self._micro_batches(seen)
            num_images = min(count * self.batch_size_per_worker, self.images_per_step)
            # An image left alone joins the step before: BatchNorm over a single 1x1 map is not defined.
            steps = (remaining - 2) // num_images
            if steps <= 0:
                yield _EqualSteps(index, position, 1, remaining)
                return
            starts = range(seen, seen + steps * num_images, num_images)
            steps = bisect_right(starts, count, key=self._micro_batches)
            yield _EqualSteps(index, position, steps, num_images)
            position, index = position + steps * num_images, index + steps

    def _warmup_progress(self, images_seen: int) -> float:
        return min(images_seen / self.warmup_images, 1.0) if self.warmup_images else 1.0

    def _micro_batches(self, images_seen: int) -> int:
        """Micro-batches of a step that begins here, of an epoch that does not end."""
        full = self.micro_batches_per_step
        start = min(self.warmup_micro_batches, full)
        return max(1, round(start + (full - start) * self._warmup_progress(images_seen)))


def _balanced(total: int, parts: int) -> tuple[int, ...]:
    """`total` in `parts` sizes that differ by at most one, larger ones first."""
    small, larger = divmod(total, parts)
    return (small + 1,) * larger + (small,) * (parts - larger)


def resolve_images_per_step(
    accumulate: int | str, *, batch_size_per_worker: int, world_size: int, nominal_batch_size: int
) -> int:
    """Images per optimizer step of a run that is launched for the first time.

    Args:
        accumulate: micro-batches per rank and step, or `auto`: as many as come nearest to
            `nominal_batch_size` (YOLOv5's rule, max(1, round(64 / total batch))).

    Raises:
        ConfigError: `accumulate` is neither `auto` nor a positive integer.
    """
    per_forward = batch_size_per_worker * world_size
    if accumulate == "auto":
        return per_forward * max(1, round(nominal_batch_size / per_forward))
    if not isinstance(accumulate, int) or accumulate < 1:
        raise ConfigError(f"optim.accumulate must be auto or >= 1, got {accumulate!r}")
    return per_forward * accumulate
