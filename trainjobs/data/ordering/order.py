"""Which image comes when: a function of (seed, epoch) and of the dataset, whoever asks for it.

Nothing is stored per image: a position is turned into an image when it is asked for. A dataset of
many shards is shuffled in levels, so that a node needs few of them at a time (docs/data.md):

    shards, in an order of the epoch's own, end to end
      -> stripes of equal length        micro-batches are drawn from them in turn
        -> windows of some shards       shuffled as a whole
"""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from trainjobs.data.ordering.copies import Copies, Indices, Share
from trainjobs.data.ordering.nearby import StripePositions, round_about
from trainjobs.data.ordering.permutation import Bits, derive_key, derive_keys, permute

ORDER_STREAM = 0x5EED
"""Keeps the random stream of the order apart from those of augmentation."""
GROUP_STREAM = 0x52454354
"""The same for the order of groups."""
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
CHUNK = 2**16
"""Positions that are turned into images together where all are: numpy's memory stays small."""


class EpochOrder(Protocol):
    """The order of one epoch."""

    def images(self, positions: Indices) -> Indices:
        """The images at these positions, (n,); images are counted through the shards."""
        ...

    def near(self, position: int, window: int) -> Sequence[int]:
        """So many positions round one, or all there are: in a striped order, those of its stripe."""
        ...


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
        return StripePositions(offsets, stripe, self._stripes, self._batch)

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


class MixedEpoch:
    """Images of several datasets, each as often as its dataset's weight says; see `Copies`."""

    def __init__(self, copies: Copies, *, seed: int, epoch: int, **shuffle: int) -> None:
        """As `ShuffledEpoch`, which shuffles the copies of the shards."""
        sizes = copies.sizes(epoch)
        self._copies, self._epoch, self._ends = copies, epoch, np.cumsum(sizes)
        self._shuffled = ShuffledEpoch(sizes, seed=seed, epoch=epoch, **shuffle)

    def images(self, positions: Indices) -> Indices:
        """See `EpochOrder`."""
        return self._copies.images(self._shuffled.images(positions), self._epoch, self._ends)

    def near(self, position: int, window: int) -> Sequence[int]:
        """See `EpochOrder`."""
        return self._shuffled.near(position, window)


class WeightedEpoch:
    """Images as often as their weights say, rounded up or down.

    Draws are spread evenly over the weights, not independent: equal weights give each image once.
    """

    def __init__(self, shares: NDArray[np.float64], *, seed: int, epoch: int) -> None:
        """Takes no time by the number of images.

        Args:
            shares: (N,) cumulated weights, scaled so that the last is the number of draws.
            seed: Of the run.
            epoch: Counted from 0.
        """
        self._shares, self._num_draws = shares, round(shares[-1])
        self._key: Bits = derive_key(seed, epoch, ORDER_STREAM)
        self._start = float(derive_keys(self._key, _SHARDS)[0]) / 2**64

    def images(self, positions: Indices) -> Indices:
        """See `EpochOrder`."""
        draws = permute(positions, self._num_draws, derive_keys(self._key, _REST))
        found = np.searchsorted(self._shares, draws + self._start, side="right")
        return np.minimum(found, len(self._shares) - 1)  # 2**-64 more than a float can tell from N

    def near(self, position: int, window: int) -> Sequence[int]:
        """See `EpochOrder`."""
        return round_about(position, self._num_draws, window)


class GroupedEpoch:
    """The images of another order, those of one kind together: `batch_size` of them in a row.

    Kinds follow each other as their numbers do, so a group that has two has neighbors. Which images
    of a kind make a group, and where in the epoch it comes, is the epoch's own.
    """

    def __init__(
        self,
        order: EpochOrder,
        kinds: NDArray[np.int16],
        *,
        num_images: int,
        seed: int,
        epoch: int,
        batch_size: int,
    ) -> None:
        """Takes time and memory by the number of images.

        Args:
            order: Of the epoch.
            kinds: (N,) the kind of each image, by image.
            num_images: Positions of `order`.
            seed: Of the run.
            epoch: Counted from 0.
            batch_size: Images of a group.
        """
        starts = range(0, num_images, CHUNK)
        parts = [order.images(np.arange(at, min(at + CHUNK, num_images))) for at in starts]
        images = np.concatenate(parts)
        images = images[np.argsort(kinds[images], kind="stable")]
        key = derive_key(seed, epoch, GROUP_STREAM)
        self._batch, self._groups = batch_size, num_images // batch_size
        # What fills no group comes last, and from another place each time, which shifts the groups.
        rest = num_images % batch_size
        cut = int(derive_keys(key, _REST)[0] % np.uint64(self._groups + 1)) * batch_size
        self._images = np.concatenate(
            [images[:cut], images[cut + rest :], images[cut : cut + rest]]
        )
        self._keys = derive_keys(key, _SHARDS)

    def images(self, positions: Indices) -> Indices:
        """See `EpochOrder`."""
        group, inside = np.divmod(positions, self._batch)
        is_whole = group < self._groups
        group[is_whole] = permute(group[is_whole], self._groups, self._keys)
        found: Indices = self._images[group * self._batch + inside]
        return found

    def near(self, position: int, window: int) -> Sequence[int]:
        """See `EpochOrder`."""
        return round_about(position, len(self._images), window)


class Orders:
    """The orders of a run's epochs. What was asked for last is kept, in blocks: many ask for it again."""

    def __init__(
        self,
        shard_sizes: Sequence[int] | Indices,
        *,
        seed: int,
        batch_size: int,
        shuffle_shards: int,
        shares: Sequence[Share] = (),
        weights: NDArray[np.float64] | None = None,
        kinds: NDArray[np.int16] | None = None,
    ) -> None:
        """Of the training split: see `ShuffledEpoch`.

        Args:
            shard_sizes: Images in each shard.
            seed: Of the run.
            batch_size: See `ShuffledEpoch`.
            shuffle_shards: See `ShuffledEpoch`.
            shares: See `Copies`; none: every image once an epoch.
            weights: (N,) how often each image is drawn, in proportion; not all 0. See
                `WeightedEpoch`; `shares` then counts for the number of draws alone.
            kinds: (N,) see `GroupedEpoch`. None: no groups.
        """
        sizes = np.asarray(shard_sizes, np.int64)
        copies = Copies(sizes, shares or [(len(sizes), 1.0)], seed=seed)
        shuffle = {"batch_size": batch_size, "shuffle_shards": shuffle_shards}
        self.num_images = copies.num_images
        self._open: Callable[..., EpochOrder]
        if weights is not None:
            cumulated = np.cumsum(weights)
            scaled = cumulated * (self.num_images / cumulated[-1])
            self._open = functools.partial(WeightedEpoch, scaled)
        elif shares:
            self._open = functools.partial(MixedEpoch, copies, **shuffle)
        else:
            self._open = functools.partial(ShuffledEpoch, sizes, **shuffle)
        self._seed, self._kinds, self._batch_size = seed, kinds, batch_size
        self._epoch = functools.lru_cache(KEPT_EPOCHS)(self._open_epoch)
        self._block = functools.lru_cache(KEPT_BLOCKS)(self._open_block)

    def images(self, epoch: int, positions: Iterable[int]) -> list[int]:
        """The images at these positions of an epoch's order."""
        if isinstance(positions, range) and len(positions) >= BLOCK:  # once, for a whole batch
            found: list[int] = self._epoch(epoch).images(np.array(positions)).tolist()
            return found
        return [self._block(epoch, at // BLOCK)[at % BLOCK] for at in positions]

    def near(self, epoch: int, position: int, window: int) -> Sequence[int]:
        """So many positions round one of an epoch, as near in the shards; 0: all positions."""
        if not window:
            return range(self.num_images)
        return self._epoch(epoch).near(position, window)

    def _open_epoch(self, epoch: int) -> EpochOrder:
        order = self._open(seed=self._seed, epoch=epoch)
        if self._kinds is None:
            return order
        return GroupedEpoch(
            order,
            self._kinds,
            num_images=self.num_images,
            seed=self._seed,
            epoch=epoch,
            batch_size=self._batch_size,
        )

    def _open_block(self, epoch: int, number: int) -> list[int]:
        positions = np.arange(number * BLOCK, min((number + 1) * BLOCK, self.num_images))
        images: list[int] = self._epoch(epoch).images(positions).tolist()
        return images
