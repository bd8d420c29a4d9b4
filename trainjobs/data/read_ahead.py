"""Shards in an object store, fetched to the node before the batches that need them are built."""

from collections import Counter, deque
from collections.abc import Iterable, Iterator
from queue import SimpleQueue
from threading import Event, Thread

import numpy as np

from trainjobs.data.ordering.sampler import SampleRef
from trainjobs.data.packed.joined import TrainingSplit

FETCH_THREADS = 4
"""Fetches of a rank at a time: one connection to an object store gives about 100 MB/s."""
AHEAD_BATCHES = 256
"""Micro-batches that a rank looks ahead: at 16 images each and 500 images/s 8 s, in which the threads
fetch some 30 shards of 100 MB; a stripe brings 8 into use together (see `order.py`)."""


class ReadAhead:
    """A rank's micro-batches, whose shards are on their way to the node when they are handed out.

    Partners of a mosaic come from near their image, in a striped order from its stripe, so that later
    batches of the same rank have asked for their shards; of a dataset that is shuffled as a whole all
    shards are soon in use.

    A fetch that fails here is not told of: who needs the shard makes it again, and says what is wrong.
    The threads are daemons: a process that ends does not wait for a fetch. A file that is not whole has
    another name.
    """

    def __init__(
        self, batches: Iterable[list[SampleRef]], split: TrainingSplit, room_bytes: int
    ) -> None:
        """Nothing is fetched before it is iterated.

        Args:
            batches: To hand out.
            split: That they are of.
            room_bytes: Of all shards that are asked for ahead at a time, but one batch's always are:
                a cache must not drop what is still to be used.
        """
        self._batches, self._split, self._room = batches, split, room_bytes
        self._ends = np.cumsum(split.shard_sizes)

    def __iter__(self) -> Iterator[list[SampleRef]]:
        """Yield the batches, in their order."""
        wanted: SimpleQueue[int | None] = SimpleQueue()
        closed = Event()
        for _ in range(FETCH_THREADS):
            Thread(target=self._fetch, args=(wanted, closed), name="fetch", daemon=True).start()
        try:
            yield from self._handed_out(wanted)
        finally:
            closed.set()
            for _ in range(FETCH_THREADS):
                wanted.put(None)

    def _handed_out(self, wanted: "SimpleQueue[int | None]") -> Iterator[list[SampleRef]]:
        window: deque[tuple[list[SampleRef], list[int]]] = deque()
        uses: Counter[int] = Counter()
        held = 0
        for batch in self._batches:
            shards = self._shards_of(batch)
            while window:
                needed = sum(self._split.fetched_bytes[s] for s in shards if not uses[s])
                if len(window) < AHEAD_BATCHES and held + needed <= self._room:
                    break
                oldest, its_shards = window.popleft()
                uses.subtract(its_shards)
                held -= sum(self._split.fetched_bytes[s] for s in its_shards if not uses[s])
                yield oldest
            for shard in shards:
                if not uses[shard]:
                    held += self._split.fetched_bytes[shard]
                    wanted.put(shard)
                uses[shard] += 1
            window.append((batch, shards))
        for batch, _ in window:
            yield batch

    def _shards_of(self, batch: list[SampleRef]) -> list[int]:
        """Numbers of the shards, each once, in the order of need."""
        numbers = np.searchsorted(self._ends, [ref.image for ref in batch], side="right")
        return [*dict.fromkeys(numbers.tolist())]

    def _fetch(self, wanted: "SimpleQueue[int | None]", closed: Event) -> None:
        while (number := wanted.get()) is not None and not closed.is_set():
            self._split.fetch(number)


def read_ahead(
    batches: Iterable[list[SampleRef]], split: TrainingSplit, room_bytes: int
) -> Iterable[list[SampleRef]]:
    """`ReadAhead` where shards are fetched at all; see there."""
    return ReadAhead(batches, split, room_bytes) if any(split.fetched_bytes) else batches
