"""Our side of `benchmarks.loader`: the training loader as a rank builds it, without a model."""

import os
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import cv2
import torch

from benchmarks.loader_clock import IMAGES, cpu_ms_per_image, serve
from trainjobs.config import AugmentConfig, DataConfig
from trainjobs.data.loader import TrainingSamples, build_loader
from trainjobs.data.ordering.order import Orders
from trainjobs.data.ordering.sampler import RankSampler
from trainjobs.data.packed.shards import Split
from trainjobs.data.prepare import prepare_dataset
from trainjobs.step_plan import StepPlan

BATCH_SIZE = 16
EPOCHS = 100


def _batch_sizes(split: Split, image_size: int) -> Iterator[int]:
    plan = StepPlan(
        num_images=len(split),
        images_per_step=4 * BATCH_SIZE,
        batch_size_per_worker=BATCH_SIZE,
        warmup_images=0,
        warmup_micro_batches=1,
        world_size=1,
    )
    orders = Orders(split.shard_sizes, seed=0, batch_size=BATCH_SIZE, shuffle_shards=1)
    samples = TrainingSamples(
        split=split,
        orders=orders,
        augment=AugmentConfig(),
        image_size=image_size,
        seed=0,
        epochs=EPOCHS,
    )
    batches = RankSampler(plan=plan, orders=orders, rank=0, epochs=EPOCHS)
    loader = build_loader(samples, batches, workers=os.cpu_count() or 1, pin_memory=False)
    for batch in loader:
        yield len(batch["images"])


def _imread_ms(images: Path, flags: int) -> float:
    files = sorted(images.iterdir())[:IMAGES]
    start = time.process_time()
    for file in files:
        cv2.imread(str(file), flags)
    return 1000 * (time.process_time() - start) / len(files)


def _measure(split: Split, images: Path, what: str) -> float:
    if what == "imread":
        return _imread_ms(images, cv2.IMREAD_COLOR)
    if what == "imread_half":
        return _imread_ms(images, cv2.IMREAD_REDUCED_COLOR_2)
    return cpu_ms_per_image(_batch_sizes(split, int(what)))


if __name__ == "__main__":
    torch.set_num_threads(1)
    data = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as cache:
        prepared = prepare_dataset(str(data), Path(cache), DataConfig(), seed=0)
        split = prepared.open("train")
        serve(partial(_measure, split, data.parent / "images" / "train"))
