"""A job's training images on their way to a rank: their order, and the stream of augmented batches."""

import functools
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from trainjobs.config import TrainConfig
from trainjobs.data.device.batches import DrawnBatches, build_device_samples, draws_on_device
from trainjobs.data.loader import TrainingSamples, build_loader
from trainjobs.data.ordering.class_weights import class_weights
from trainjobs.data.ordering.copies import Share
from trainjobs.data.ordering.order import Orders
from trainjobs.data.ordering.sampler import SampleRef
from trainjobs.data.packed.joined import TrainingSplit
from trainjobs.data.prepare import Prepared
from trainjobs.data.read_ahead import read_ahead
from trainjobs.task import Batch, RankContext


def build_orders(
    config: TrainConfig,
    data: Prepared,
    split: TrainingSplit,
    kinds: NDArray[np.int16] | None = None,
) -> Orders:
    """The orders of a run's training images.

    Args:
        config: Of the run.
        data: Its datasets.
        split: Of `data.open_train`.
        kinds: (N,) kind of each image, of which a micro-batch has one. Default: all are alike.
    """
    shares: Sequence[Share] = data.shares if data.also else ()
    return Orders(
        np.array(split.shard_sizes),
        seed=config.seed,
        batch_size=config.batch_size_per_worker,
        shuffle_shards=config.data.shuffle_shards,
        shares=shares,
        weights=class_weights(split, shares) if config.data.image_weights else None,
        kinds=kinds,
    )


def fetched_ahead(
    batches: Iterable[list[SampleRef]],
    split: TrainingSplit,
    config: TrainConfig,
    context: RankContext,
) -> Iterable[list[SampleRef]]:
    """A rank's micro-batches, whose shards are on their way to the node; see `ReadAhead`."""
    # Half of the cache, as other runs may use it too, and partners of mosaics come on top.
    room = round(config.data.cache_gib * 2**30) // 2 // context.ranks_on_node
    return read_ahead(batches, split, room)


def drawn_batches(
    samples: TrainingSamples, batches: Iterable[list[SampleRef]], context: RankContext
) -> Iterable[Batch]:
    """Augmented micro-batches on the rank's device, drawn where `augment.execute` says."""
    device = context.device
    build = functools.partial(
        build_loader,
        batches=batches,
        workers=context.loader_workers,
        pin_memory=device.type == "cuda",
    )
    if not draws_on_device(samples.augment.execute, device):
        return context.prepare_loader(build(samples))
    prepared = build_device_samples(samples, device)
    loader = build(prepared, collate=prepared.collate)
    return DrawnBatches(context.prepare_loader(loader), device)
