"""What a run takes: images a second once it is warm, and the memory of its ranks."""

import resource
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from trainjobs.distributed import all_reduce_max

WARM_STEPS = 10
"""First steps of a launch that a steady rate leaves out: loaders fill up, kernels are chosen."""


class SteadyRate:
    """Images per second over the steps of a launch after its first ones."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.clock = clock
        self.started = clock()
        self.steps, self.images, self.seconds = 0, 0, 0.0

    def resume(self) -> None:
        """Training goes on after something that is not training."""
        self.started = self.clock()

    def step_done(self, num_images: int) -> None:
        """A step of so many images was taken, by all ranks together."""
        now = self.clock()
        self.steps += 1
        if self.steps > WARM_STEPS:
            self.images += num_images
            self.seconds += now - self.started
        self.started = now

    @property
    def images_per_second(self) -> float:
        """0 if there were too few steps to say."""
        return self.images / self.seconds if self.seconds else 0.0


@dataclass(frozen=True, slots=True)
class PeakMemory:
    """Bytes that the rank with most has held at once."""

    host: int
    """Resident memory of its process."""
    gpu: int
    """Of PyTorch's tensors; 0 on CPUs."""


def peak_memory(device: torch.device) -> PeakMemory:
    """Peak over all ranks, which must all ask."""
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts KiB
    gpu = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
    # float64 holds every number of bytes below 2^53.
    together = torch.tensor([host, gpu], dtype=torch.float64, device=device)
    return PeakMemory(*(int(value) for value in all_reduce_max(together).tolist()))
