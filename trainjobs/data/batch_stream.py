"""Batches built ahead of their use, in order, in threads."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import Any, Protocol

from torch.utils.data import IterableDataset

from cluster.errors import DatasetError, ServiceError
from trainjobs.task import Batch

AHEAD_BATCHES = 3
"""Batches that a rank's threads work ahead, together; more where these have fewer images than
AHEAD_PER_WORKER a thread. At 640 px a batch of 16 takes 20 MB."""
AHEAD_PER_WORKER = 2

Collate = Callable[[list[Any]], Batch]
"""Samples -> a batch."""


class Samples(Protocol):
    """Samples, made on demand, by any thread."""

    def __getitem__(self, reference: Any) -> Any:
        """What the batches' `collate` takes."""
        ...

    def name(self, reference: Any) -> str:
        """What to call a sample in an error: its image."""
        ...


class BatchStream(IterableDataset[Batch]):
    """An iterable of batches, each time anew.

    Threads, not processes: decoding and warping release the GIL, a process costs seconds and 300 MB
    of imports at every start, and forking a Ray worker would copy the locks of its gRPC threads.
    Threads share out images, not batches: then few batches ahead keep all of them busy.
    """

    def __init__(
        self, samples: Samples, batches: Iterable[list[Any]], workers: int, collate: Collate
    ) -> None:
        self.samples, self.batches = samples, batches
        self.workers, self.collate = workers, collate

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches; an error while building one is raised in its place."""
        if self.workers == 0:
            for references in self.batches:
                yield self.collate([make(self.samples, reference) for reference in references])
            return
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="loader")
        pending: deque[_BatchInWork] = deque()
        try:
            for references in self.batches:
                pending.append(_BatchInWork(self.samples, references, self.collate))
                for number in range(len(references)):
                    pool.submit(pending[-1].make, number)
                per_worker = -(-self.workers * AHEAD_PER_WORKER // len(references))
                if len(pending) > max(AHEAD_BATCHES, per_worker):
                    yield pending.popleft().done.result()
            while pending:
                yield pending.popleft().done.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def make(samples: Samples, reference: Any) -> Any:
    """One sample.

    Raises:
        ServiceError: It cannot be made; names its image.
    """
    try:
        return samples[reference]
    except ServiceError:
        raise  # names it already
    except Exception as error:
        reason = f"no sample can be made of it ({type(error).__name__}: {error})"
        raise DatasetError(samples.name(reference), reason) from error


class _BatchInWork:
    """A batch whose samples are made one by one, by any thread; who makes the last one collates."""

    def __init__(self, samples: Samples, references: list[Any], collate: Collate) -> None:
        self._samples, self._references, self._collate = samples, references, collate
        self._made: list[Any] = [None] * len(references)
        self._errors: dict[int, Exception] = {}
        self._left = len(references)
        self._lock = Lock()
        self.done: Future[Batch] = Future()
        """The batch, or the error of the first of its samples that failed."""

    def make(self, number: int) -> None:
        """Make one sample."""
        try:
            self._made[number] = make(self._samples, self._references[number])
        except Exception as error:  # noqa: BLE001  raised where the batch is asked for
            self._errors[number] = error
        with self._lock:
            self._left -= 1
            if self._left:
                return
        made, self._made = self._made, []
        try:
            if self._errors:
                raise self._errors[min(self._errors)]
            self.done.set_result(self._collate(made))
        except Exception as error:  # noqa: BLE001  likewise
            self.done.set_exception(error)
