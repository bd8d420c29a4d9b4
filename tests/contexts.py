"""A rank without Ray: what a task is told of it, and batches on their way to its device."""

from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

import torch

from tests.builders import CPU
from trainjobs.task import Batch, RankContext


def make_context(
    cache: Path, *, rank: int = 0, world_size: int = 1, device: torch.device = CPU
) -> RankContext:
    """Of a rank that loads its images itself."""
    return RankContext(
        rank=rank,
        world_size=world_size,
        ranks_on_node=world_size,
        device=device,
        loader_workers=0,
        cache=cache,
        prepare_loader=partial(MovedBatches, device=device),
    )


class MovedBatches:
    """Batches moved to a device; to a GPU as Ray Train does it: one ahead, on a stream of its own."""

    def __init__(self, batches: Iterable[Batch], device: torch.device) -> None:
        self._batches, self._device = batches, device

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches."""
        if self._device.type != "cuda":
            yield from self._batches
            return
        stream = torch.cuda.Stream(self._device)
        batches = iter(self._batches)
        ahead = self._moved(next(batches, None), stream)
        while ahead is not None:
            asking = torch.cuda.current_stream(self._device)
            asking.wait_stream(stream)
            for tensor in ahead.values():
                tensor.record_stream(asking)
            ready, ahead = ahead, self._moved(next(batches, None), stream)
            yield ready

    def _moved(self, batch: Batch | None, stream: torch.cuda.Stream) -> Batch | None:
        if batch is None:
            return None
        with torch.cuda.stream(stream):
            return {name: t.to(self._device, non_blocking=True) for name, t in batch.items()}
