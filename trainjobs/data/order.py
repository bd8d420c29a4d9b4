"""Which image comes when: a function of (seed, epoch) and of the dataset, whoever asks for it.

Nothing is stored per image: a position is turned into an image when it is asked for. A dataset of
many shards is shuffled in levels, so that a node needs few of them at a time (docs/data.md):

    shards, in an order of the epoch's own, end to end
      -> stripes of equal length        micro-batches are drawn from them in turn
        -> windows of some shards       shuffled as a whole
"""

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from trainjobs.data.permutation import Bits, derive_key, derive_keys, permute

Indices = NDArray[np.int64]

ORDER_STREAM = 0x5EED
"""Keeps the random stream of the order apart from those of augmentation."""
WINDOW_SHARDS = 8
"""Shards of a window: in so many places of the dataset a micro-batch has its images."""
BLOCK = 128
"""Positions that are turned into images together: it costs little more than for one."""
KEPT_BLOCKS = 64
"""For the threads of a rank, which work on different batches, and for the partners of a mosaic."""
KEPT_EPOCHS = 2
"""Around the end of an epoch, threads work on both."""
_SHARDS, _REST, _FIRST_WINDOW = range(3)
"""What keys are derived for; windows are numbered from the last one on."""


class EpochOrder(Protocol):
    """The order of one epoch."""

    def images(self, positions: Indices) -> Indices:
        """The images at these positions, (n,); images are counted through the shards."""
        ...

    def near(self, position: int, window: int) -> Sequence[int]:
        """So many positions round one, or all there are: in a striped order, those of its stripe."""
        ...


def round_about(position: int, length: int, window: int) -> range:
    """So many of `length` positions, half on either side of one; near an end, moved inside."""
    start = max(min(position - window // 2, length - window), 0)
    return range(start, min(start + window, length))


@dataclass(frozen=True, slots=True)
class _StripePositions(Sequence[int]):
    """The positions of a stripe's images, by their offset in it."""

    offsets: range
    stripe: int
    stripes: int
    batch: int

    def __len__(self) -> int:
        return len(self.offsets)

    def __getitem__(self, index: Any) -> Any:
        turn, inside = divmod(self.offsets[index], self.batch)
        return (turn * self.stripes + self.stripe) * self.batch + inside


class ShuffledEpoch:
    """Every image once."""

    def __init__(
        self,
        sizes: Indices,
        *,
        seed: int,
        epoch: int,
        batch_size: int,
        shuffle_shards: int,
    ) -> None:
        """Takes time and memory by the number of shards.

        Args:
            sizes: Images in each shard.
            seed: Of the run.
            epoch: Counted from 0.
            batch_size: Images that are drawn from a stripe in one go.
            shuffle_shards: So many shards are shuffled as a whole, and of more, so many at a time.
        """
        self._key = derive_key(seed, epoch, ORDER_STREAM)
        num_shards, self._num_images = len(sizes), int(sizes.sum())
        order = permute(np.arange(num_shards), num_shards, derive_keys(self._key, _SHARDS))
        self._ends = np.cumsum(sizes[order])
        self._shifts = (np.cumsum(sizes) - sizes)[order] - (self._ends - sizes[order])
        self._batch = batch_size
        self._stripes = max(shuffle_shards // WINDOW_SHARDS, 1)
        is_whole = num_shards <= shuffle_shards
        rounds = 0 if is_whole else self._num_images // (self._stripes * batch_size)
        self._stripe = rounds * batch_size  # images in each
        wanted = round(self._stripe * num_shards / self._num_images / WINDOW_SHARDS)
        self._windows = max(wanted, 1)  # in each stripe
        self._window = max(self._stripe // self._windows, 1)

    def images(self, positions: Indices) -> Indices:
        """See `EpochOrder`."""
        places = self._shuffle(positions)
        return places + self._shifts[np.searchsorted(self._ends, places, side="right")]

    def near(self, position: int, window: int) -> Sequence[int]:
        """See `EpochOrder`."""
        striped = self._stripe * self._stripes
        if position >= striped:
            rest = round_about(position - striped, self._num_images - striped, window)
            return range(striped + rest.start, striped + rest.stop)
        turn, stripe = divmod(position // self._batch, self._stripes)
        offset = turn * self._batch + position % self._batch
        offsets = round_about(offset, self._stripe, window)
        return _StripePositions(offsets, stripe, self._stripes, self._batch)

    def _shuffle(self, positions: Indices) -> Indices:
        """Places in the shards, laid end to end in this epoch's order."""
        turn, stripe = np.divmod(positions // self._batch, self._stripes)
        offset = turn * self._batch + positions % self._batch
        # Windows of different stripes end at different times, or all nodes would fetch at once. So a
        # stripe's first window is up to a half shorter, its last longer.
        shift = stripe * (self._window // 2) // self._stripes
        number = np.minimum((offset + shift) // self._window, self._windows - 1)
        start = np.maximum(number * self._window - shift, 0)
        is_last = number == self._windows - 1
        end = np.where(is_last, self._stripe, (number + 1) * self._window - shift)
        key = _FIRST_WINDOW + stripe * self._windows + number
        # What does not fill a round of the stripes is a window of its own: all, of a small dataset.
        striped = self._stripe * self._stripes
        in_rest = positions >= striped
        base = np.where(in_rest, striped, stripe * self._stripe + start)
        inside = np.where(in_rest, positions - striped, offset - start)
        length = np.where(in_rest, self._num_images - striped, end - start)
        keys = derive_keys(self._key, np.where(in_rest, _REST, key))
        return base + permute(inside, length, keys)


class WeightedEpoch:
    """As many draws as there are images, each image as often as its weight says, rounded up or down.

    Draws are spread evenly over the weights, not independent: equal weights give each image once.
    """

    def __init__(self, shares: NDArray[np.float64], *, seed: int, epoch: int) -> None:
        """Takes no time by the number of images.

        Args:
            shares: (N,) cumulated weights, scaled so that the last is N.
            seed: Of the run.
            epoch: Counted from 0.
        """
        self._shares = shares
        self._key: Bits = derive_key(seed, epoch, ORDER_STREAM)
        self._start = float(derive_keys(self._key, _SHARDS)[0]) / 2**64

    def images(self, positions: Indices) -> Indices:
        """See `EpochOrder`."""
        draws = permute(positions, len(self._shares), derive_keys(self._key, _REST))
        found = np.searchsorted(self._shares, draws + self._start, side="right")
        return np.minimum(found, len(self._shares) - 1)  # 2**-64 more than a float can tell from N

    def near(self, position: int, window: int) -> Sequence[int]:
        """See `EpochOrder`."""
        return round_about(position, len(self._shares), window)


class Orders:
    """The orders of a run's epochs. What was asked for last is kept, in blocks: many ask for it again."""

    def __init__(
        self,
        shard_sizes: Sequence[int] | Indices,
        *,
        seed: int,
        batch_size: int,
        shuffle_shards: int,
        weights: NDArray[np.float64] | None = None,
    ) -> None:
        """Of the training split: see `ShuffledEpoch`. With weights: see `WeightedEpoch`.

        Args:
            shard_sizes: Images in each shard.
            seed: Of the run.
            batch_size: See `ShuffledEpoch`.
            shuffle_shards: See `ShuffledEpoch`.
            weights: (N,) how often each image is drawn, in proportion; not all 0.
        """
        sizes = np.asarray(shard_sizes, np.int64)
        self.num_images = int(sizes.sum())
        self._open: Callable[..., EpochOrder] = functools.partial(
            ShuffledEpoch, sizes, batch_size=batch_size, shuffle_shards=shuffle_shards
        )
        if weights is not None:
            shares = np.cumsum(weights)
            self._open = functools.partial(WeightedEpoch, shares * (self.num_images / shares[-1]))
        self._seed = seed
        self._epoch = functools.lru_cache(KEPT_EPOCHS)(self._open_epoch)
        self._block = functools.lru_cache(KEPT_BLOCKS)(self._open_block)

    def images(self, epoch: int, positions: Iterable[int]) -> list[int]:
        """The images at these positions of an epoch's order."""
        return [self._block(epoch, at // BLOCK)[at % BLOCK] for at in positions]

    def near(self, epoch: int, position: int, window: int) -> Sequence[int]:
        """So many positions round one of an epoch, as near in the shards; 0: all positions."""
        if not window:
            return range(self.num_images)
        return self._epoch(epoch).near(position, window)

    def _open_epoch(self, epoch: int) -> EpochOrder:
        return self._open(seed=self._seed, epoch=epoch)

    def _open_block(self, epoch: int, number: int) -> list[int]:
        positions = np.arange(number * BLOCK, min((number + 1) * BLOCK, self.num_images))
        images: list[int] = self._epoch(epoch).images(positions).tolist()
        return images
