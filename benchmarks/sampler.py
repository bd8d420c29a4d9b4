"""The order of images at 10**9 images, 10**5 shards, 1,024 ranks: time, memory, traffic, quality.

    python -m benchmarks.sampler

prints the tables of docs/data.md. Times and memory are measured here, against the limits of 1 ms a
step and 10 MB and against a permutation in memory; traffic and quality are counted in a simulation.
"""

import functools
import time
import tracemalloc
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from trainjobs.config import AugmentConfig
from trainjobs.data.ordering.nearby import round_about
from trainjobs.data.ordering.order import BLOCK, WINDOW_SHARDS, Orders, ShuffledEpoch
from trainjobs.data.ordering.sampler import RankSampler
from trainjobs.step_plan import StepPlan

LIMIT_MS, LIMIT_MB = 1.0, 10.0
NUM_IMAGES, NUM_SHARDS, NUM_RANKS = 10**9, 10**5, 1024
BATCH, RANKS_PER_NODE = 16, 8
STEPS = 200
FITS = 10**7
"""Images of which a permutation in memory is measured, too: 80 MB."""

# The simulation is smaller by as much in every direction: shards for each rank, and images in each.
SIM_SHARDS, SIM_SHARD_IMAGES, SIM_RANKS = 4096, 64, 64
SIM_NODES = SIM_RANKS // RANKS_PER_NODE
SIM_CLASSES = 16
"""Shards are sorted by class: each shard holds one class."""

MOSAIC_PARTNERS = 3

Images = NDArray[np.int64]
Near = Callable[[int], Sequence[int]]


def plan_of(num_images: int, ranks: int) -> StepPlan:
    """Steps of one micro-batch for each rank."""
    return StepPlan(
        num_images=num_images,
        images_per_step=ranks * BATCH,
        batch_size_per_worker=BATCH,
        warmup_images=0,
        warmup_micro_batches=ranks,
        world_size=ranks,
    )


def huge_sampler() -> RankSampler:
    """Of the last rank, in the middle of an epoch."""
    plan = plan_of(NUM_IMAGES, NUM_RANKS)
    orders = Orders(
        np.full(NUM_SHARDS, NUM_IMAGES // NUM_SHARDS),
        seed=0,
        batch_size=BATCH,
        shuffle_shards=WINDOW_SHARDS * NUM_RANKS,
    )
    middle = plan.num_steps(0) // 2
    return RankSampler(plan=plan, orders=orders, rank=NUM_RANKS - 1, epochs=2, first_step=middle)


def seconds(work: Callable[[], object]) -> float:
    """Wall time of a call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def measure_huge() -> str:
    """Start, step time and memory of one rank's sampler."""
    stream = iter(huge_sampler())
    start_ms = 1000 * seconds(lambda: next(stream))
    steps = sorted(1000 * seconds(lambda: next(stream)) for _ in range(STEPS))
    tracemalloc.start()
    kept = iter(huge_sampler())
    list(islice(kept, 5))
    now, peak = (size / 1e6 for size in tracemalloc.get_traced_memory())
    tracemalloc.stop()
    return (
        f"one of {NUM_RANKS} ranks, {NUM_IMAGES:.0e} images, {NUM_SHARDS:.0e} shards:\n"
        f"  a step: median {steps[STEPS // 2]:.2f} ms, 95th percentile "
        f"{steps[STEPS * 95 // 100]:.2f} ms (limit {LIMIT_MS} ms)\n"
        f"  first step, in the middle of the epoch: {start_ms:.0f} ms\n"
        f"  memory: {now:.1f} MB, at the epoch's start {peak:.1f} MB (limit {LIMIT_MB} MB)"
    )


def measure_against_memory() -> str:
    """An epoch's images, once each: a stored permutation against the computed one."""
    generator = np.random.default_rng(0)
    draw_s = seconds(lambda: generator.permutation(FITS))
    order = ShuffledEpoch(np.array([FITS]), seed=0, epoch=0, batch_size=BATCH, shuffle_shards=1)
    block = np.arange(BLOCK)
    block_s = min(seconds(lambda: order.images(block)) for _ in range(STEPS))
    compute_s = block_s * FITS / len(block)
    return (
        f"{FITS:.0e} images, one shard: np.random permutation {draw_s:.2f} s and {8 * FITS / 1e6:.0f} MB "
        f"before the first image, on every rank;\n"
        f"  computed, in blocks of {len(block)}: {1e6 * block_s / len(block):.2f} us an image, no start "
        f"(all images on one rank: {compute_s:.1f} s, ratio {compute_s / draw_s:.0f})"
    )


def shards_read(
    images: Images, node: int, near: Near | None = None, partners: int = 0
) -> Iterable[list[int]]:
    """Shards that a node reads, one list a step; for mosaics, of some partners near each image too."""
    shards = images // SIM_SHARD_IMAGES
    ranks = slice(node * RANKS_PER_NODE, (node + 1) * RANKS_PER_NODE)
    generator = np.random.default_rng(0)
    for step in np.arange(len(images)).reshape(-1, SIM_RANKS, BATCH)[:, ranks]:
        positions = step.ravel().tolist()
        if near is not None:
            places = generator.random((len(positions), partners)).tolist()
            windows = [
                (near(position), own) for position, own in zip(positions, places, strict=True)
            ]
            positions += [window[int(x * len(window))] for window, own in windows for x in own]
        yield shards[positions].tolist()


def fetches(reads: Iterable[list[int]], capacity: int) -> int:
    """Shards fetched into a cache that drops what was used longest ago."""
    cache: OrderedDict[int, None] = OrderedDict()
    count = 0
    for shard in (shard for step in reads for shard in step):
        if shard in cache:
            cache.move_to_end(shard)
            continue
        count += 1
        cache[shard] = None
        if len(cache) > capacity:
            cache.popitem(last=False)
    return count


def class_spread(images: Images) -> tuple[float, float]:
    """Variance of a class's share in a micro-batch and in a step, over what chance alone gives."""
    classes = images // SIM_SHARD_IMAGES * SIM_CLASSES // SIM_SHARDS
    expected = (1 - 1 / SIM_CLASSES) / SIM_CLASSES
    ratios = []
    for size in (BATCH, BATCH * SIM_RANKS):
        share = (classes.reshape(-1, size, 1) == np.arange(SIM_CLASSES)).mean(axis=1)
        ratios.append(float(share.var(axis=0).mean() * size / expected))
    return ratios[0], ratios[1]


def neighbors_in_a_step(images: Images) -> float:
    """Of two images next to each other in the dataset, how often both are in a step; 1: by chance."""
    place = np.empty_like(images)
    place[images] = np.arange(len(images)) // (BATCH * SIM_RANKS)
    return float((place[1:] == place[:-1]).mean() * len(images) / (BATCH * SIM_RANKS))


def simulate(name: str, images: Images, near: Near) -> str:
    """A row of the table."""
    share = SIM_SHARDS // SIM_NODES
    traffic = [
        fetches(shards_read(images, node=0), capacity) / share for capacity in (96, 192, SIM_SHARDS)
    ]
    traffic.append(fetches(shards_read(images, 0, near, MOSAIC_PARTNERS), 192) / share)
    micro, step = class_spread(images)
    moved = np.abs(images - np.arange(len(images))).mean() / (len(images) / 3)
    cells = [f"{t:.1f}" for t in traffic]
    cells += [f"{micro:.2f}", f"{step:.2f}", f"{neighbors_in_a_step(images):.1f}", f"{moved:.2f}"]
    return f"| {name} | " + " | ".join(cells) + " |"


def simulation() -> str:
    """Traffic and quality, by the number of shards in use at a time."""
    total, window = SIM_SHARDS * SIM_SHARD_IMAGES, AugmentConfig().mosaic_window
    lines = [
        f"{SIM_SHARDS} shards of {SIM_SHARD_IMAGES} images, sorted by class ({SIM_CLASSES}); {SIM_NODES} "
        f"nodes of {RANKS_PER_NODE} ranks. Fetches: shards a node fetches an epoch / its share of all\n"
        f"({SIM_SHARDS // SIM_NODES}), by shards in its cache.",
        "",
        f"| order | fetches, cache 96 | 192 | {SIM_SHARDS} | 192, mosaics | class share's variance, micro-batch | "
        "step | neighbors in a step | distance |",
        "|---" * 9 + "|",
    ]
    for shuffle in (SIM_RANKS, 256, WINDOW_SHARDS * SIM_RANKS, 2 * WINDOW_SHARDS * SIM_RANKS):
        order = ShuffledEpoch(
            np.full(SIM_SHARDS, SIM_SHARD_IMAGES),
            seed=0,
            epoch=0,
            batch_size=BATCH,
            shuffle_shards=shuffle,
        )
        near = functools.partial(order.near, window=window)
        lines.append(simulate(f"`shuffle_shards` {shuffle}", order.images(np.arange(total)), near))
    full = np.random.default_rng(0).permutation(total)
    lines.append(simulate("full shuffle", full, lambda at: round_about(at, total, window)))
    return "\n".join(lines)


if __name__ == "__main__":
    print(measure_huge(), measure_against_memory(), simulation(), sep="\n\n")
