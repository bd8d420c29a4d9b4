"""Splits of several datasets as one: images are counted through them, classes are the first one's."""

import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from functools import cached_property
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from trainjobs.data.images import RgbImage
from trainjobs.data.packed.shards import Split


class JoinedSplit:
    """What training asks of a `Split`, of several. Safe to use from several threads."""

    def __init__(self, splits: Sequence[Split]) -> None:
        """Join splits; every class name of the others must be one of the first."""
        self._splits = tuple(splits)
        self.names = splits[0].names
        """Class names by class id."""
        self.shard_sizes = tuple(size for split in splits for size in split.shard_sizes)
        """Images in each shard."""
        self.fetched_bytes = tuple(size for split in splits for size in split.fetched_bytes)
        """See `Split.fetched_bytes`."""
        self._shards = [
            (split, number) for split in splits for number in range(len(split.shard_sizes))
        ]
        self._starts = [0, *accumulate(map(len, splits))]
        self._class_ids = [np.array([*map(self.names.index, split.names)]) for split in splits]

    def __len__(self) -> int:
        return self._starts[-1]

    @property
    def digest(self) -> str:
        """See `Split.digest`."""
        return hashlib.sha256("".join(split.digest for split in self._splits).encode()).hexdigest()

    def fetch(self, number: int) -> None:
        """See `Split.fetch`."""
        split, its_number = self._shards[number]
        split.fetch(its_number)

    def size(self, index: int) -> tuple[int, int]:
        """See `Split.size`."""
        number, inside = self._find(index)
        return self._splits[number].size(inside)

    @cached_property
    def sizes(self) -> NDArray[np.int32]:
        """See `Split.sizes`."""
        return np.concatenate([split.sizes for split in self._splits])

    def id(self, index: int) -> str:
        """See `Split.id`; unique within its dataset."""
        number, inside = self._find(index)
        return self._splits[number].id(inside)

    def labels(self, index: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """See `Split.labels`."""
        number, inside = self._find(index)
        classes, boxes = self._splits[number].labels(inside)
        return self._class_ids[number][classes], boxes

    def label(self, index: int) -> int:
        """See `Split.label`."""
        number, inside = self._find(index)
        return int(self._class_ids[number][self._splits[number].label(inside)])

    def outlines(self, index: int) -> tuple[NDArray[np.float32], NDArray[np.int32]] | None:
        """See `Split.outlines`."""
        number, inside = self._find(index)
        return self._splits[number].outlines(inside)

    def read_image(self, index: int, reduce: int = 1) -> RgbImage:
        """See `Split.read_image`."""
        number, inside = self._find(index)
        return self._splits[number].read_image(inside, reduce)

    def encoded(self, index: int) -> memoryview:
        """See `Split.encoded`."""
        number, inside = self._find(index)
        return self._splits[number].encoded(inside)

    def _find(self, index: int) -> tuple[int, int]:
        number = bisect_right(self._starts, index) - 1
        return number, index - self._starts[number]


TrainingSplit = Split | JoinedSplit
