"""Shards are asked for before the batches that need them are handed out: in order, once, within bounds."""

import threading
import time
from dataclasses import dataclass, field

import pytest

from trainjobs.data.ordering.sampler import SampleRef
from trainjobs.data.read_ahead import AHEAD_BATCHES, FETCH_THREADS, ReadAhead, read_ahead


@dataclass
class Shards:
    """Of two images each; notes what is fetched."""

    count: int
    num_bytes: int = 10
    fetched: list[int] = field(default_factory=list)

    @property
    def shard_sizes(self) -> tuple[int, ...]:
        return (2,) * self.count

    @property
    def fetched_bytes(self) -> tuple[int, ...]:
        return (self.num_bytes,) * self.count

    def fetch(self, number: int) -> None:
        self.fetched.append(number)


def batches_of(*shards: tuple[int, ...]) -> list[list[SampleRef]]:
    return [[SampleRef(0, 0, 2 * number) for number in batch] for batch in shards]


def fetched_by(split: Shards, count: int) -> list[int]:
    deadline = time.monotonic() + 5
    while len(split.fetched) < count:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    time.sleep(0.01)  # more would come now
    return sorted(split.fetched)


def test_batches_come_as_they_are_and_each_shard_once_while_it_is_in_use() -> None:
    batches, split = batches_of((0, 1), (1, 2), (0,), (3,)), Shards(4)
    stream = iter(ReadAhead(batches, split, room_bytes=1000))
    assert next(stream) == batches[0]
    assert fetched_by(split, 4) == [0, 1, 2, 3]
    assert [*stream] == batches[1:]


def test_no_more_is_asked_for_than_there_is_room() -> None:
    batches, split = batches_of((0,), (1,), (2,), (3, 4), (0,)), Shards(5)
    stream = iter(ReadAhead(batches, split, room_bytes=30))
    assert [next(stream), next(stream)] == batches[
        :2
    ]  # three fit, not two more until two have left
    assert fetched_by(split, 3) == [0, 1, 2]
    assert next(stream) == batches[2]
    assert fetched_by(split, 5) == [0, 1, 2, 3, 4]
    assert next(stream) == batches[3]
    assert fetched_by(split, 6) == [0, 0, 1, 2, 3, 4]
    assert [*stream] == batches[4:]


def test_a_batch_that_has_no_room_is_asked_for_alone() -> None:
    batches, split = batches_of((0, 1, 2), (3,)), Shards(4)
    stream = iter(ReadAhead(batches, split, room_bytes=5))
    assert next(stream) == batches[0]
    assert fetched_by(split, 3) == [0, 1, 2]
    assert next(stream) == batches[1]
    assert fetched_by(split, 4) == [0, 1, 2, 3]


def test_it_looks_ahead_by_a_bounded_number_of_batches() -> None:
    seen = 0

    def endless() -> object:
        nonlocal seen
        while True:
            seen += 1
            yield batches_of((seen % 9,))[0]

    next(iter(ReadAhead(endless(), Shards(9), room_bytes=10**9)))
    assert seen == AHEAD_BATCHES + 1


@pytest.mark.parametrize("ends_early", [True, False])
def test_its_threads_end_with_it(ends_early: bool) -> None:
    before = set(threading.enumerate())
    stream = iter(ReadAhead(batches_of(*[(0,)] * 5), Shards(1), room_bytes=100))
    next(stream)
    started = set(threading.enumerate()) - before
    assert {thread.name for thread in started} == {"fetch"} and len(started) == FETCH_THREADS
    if ends_early:
        stream.close()
    else:
        list(stream)
    for thread in started:
        thread.join(timeout=5)
    assert not any(thread.is_alive() for thread in started)


def test_what_lies_on_the_node_is_not_asked_for() -> None:
    batches = batches_of((0,), (1,))
    assert read_ahead(batches, Shards(2, num_bytes=0), room_bytes=100) is batches
