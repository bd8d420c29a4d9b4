"""How often an epoch has each image, where datasets are trained on together. Integers only.

Of a dataset of weight 2.5, each shard stands in the list of those that are shuffled twice whole and
once in part. A part has each image in the same share of the epochs, to within one, and once at most.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trainjobs.data.ordering.permutation import derive_key, derive_keys, permute

Indices = NDArray[np.int64]
Share = tuple[int, float]
"""Of a dataset: its number of shards, and how often each of its images comes in an epoch."""

PART_STREAM = 0x50415254
"""Keeps the choice of images for parts apart from other uses of the seed."""


def images_in_all(weights: ArrayLike, totals: ArrayLike) -> Indices:
    """Images that an epoch has of the first datasets; sums are rounded, to the nearest."""
    products = np.multiply(weights, totals)
    return np.floor(np.cumsum(products) + 0.5).astype(np.int64)


def weights_of_images(sizes: Sequence[int], shares: Sequence[Share]) -> NDArray[np.float64]:
    """(N,) how often each image comes in an epoch, by the sizes of all shards."""
    weights = np.repeat([weight for _, weight in shares], [count for count, _ in shares])
    return np.repeat(weights, sizes)


class Copies:
    """The shards of all datasets, as often as their weights say."""

    def __init__(self, sizes: Indices, shares: Sequence[Share], *, seed: int) -> None:
        """Takes time and memory by the number of shards, times the weights.

        Args:
            sizes: Images in each shard, dataset after dataset.
            shares: Of the datasets; positive weights.
            seed: Of the run.
        """
        owners = np.repeat(np.arange(len(shares)), [count for count, _ in shares])
        totals = np.bincount(owners, sizes, minlength=len(shares)).astype(np.int64)
        weights = np.array([weight for _, weight in shares])
        ends = images_in_all(weights, totals)
        taken = np.diff(ends, prepend=0) - weights.astype(np.int64) * totals
        self.num_images = int(ends[-1])
        """Of an epoch; the same in each."""
        self._sizes, self._starts = sizes, np.cumsum(sizes) - sizes
        # Of each shard: its first image within its dataset, and what a part takes of the dataset.
        self._firsts = self._starts - (np.cumsum(totals) - totals)[owners]
        self._taken, self._totals = taken[owners], totals[owners]
        shards = np.arange(len(sizes))
        whole, part = shards.repeat(weights.astype(np.int64)[owners]), shards[self._taken > 0]
        self._num_whole = len(whole)
        self._shards = np.concatenate([whole, part])
        self._key = derive_key(seed, 0, PART_STREAM)

    def sizes(self, epoch: int) -> Indices:
        """Images in each copy of a shard in an epoch; the sum is `num_images`."""
        sizes: Indices = self._sizes[self._shards]
        part = self._shards[self._num_whole :]
        ends = self._count(part, epoch, self._sizes[part])
        sizes[self._num_whole :] = ends - self._count(part, epoch)
        return sizes

    def images(self, places: Indices, epoch: int, ends: Indices) -> Indices:
        """The images at some places of the copies, laid end to end.

        Args:
            places: (n,), each in range(num_images).
            epoch: Counted from 0.
            ends: The cumulated `sizes` of that epoch.

        Returns:
            (n,), counted through the shards.
        """
        copies = np.searchsorted(ends, places, side="right")
        shards = self._shards[copies]
        rows = places - np.concatenate([[0], ends])[copies]
        in_part = np.flatnonzero(copies >= self._num_whole)
        rows[in_part] = self._part_rows(rows[in_part], shards[in_part], epoch)
        found: Indices = self._starts[shards] + rows
        return found

    def _count(self, shards: Indices, epoch: int, rows: Indices | int = 0) -> Indices:
        """Images taken of the dataset, since its first epoch's first, before a row of a shard.

        Image number i of N is taken where i + epoch makes i M / N pass a whole number, with M images
        of an epoch: a fixed part of all epochs for each image, of all images for each epoch.
        """
        totals = self._totals[shards]
        at = self._firsts[shards] + rows + epoch % totals
        counts: Indices = at * self._taken[shards] // totals
        return counts

    def _part_rows(self, numbers: Indices, shards: Indices, epoch: int) -> Indices:
        """The rows of the images that are number so much among those taken of their shards."""
        totals = self._totals[shards]
        wanted = self._count(shards, epoch) + 1 + numbers
        found = (wanted * totals - 1) // self._taken[shards] - epoch % totals
        keys = derive_keys(self._key, shards)
        return permute(found - self._firsts[shards], self._sizes[shards], keys)
