"""Both executions of augmentation, in one run on the same images: how fast, and what the threads cost.

    python -m benchmarks.device_augment [--data D] [--image-size PX] [--batch N] [--images N] [--rounds N]

prints, for the CPU's execution and the device's: images/s as a rank gets them on its device, and what
the loader's threads alone take, in CPU milliseconds an image. The two take turns. On a GPU, nvJPEG
decodes in the second. Without one, that both run is all that the first figure shows: the CPU then
computes what it is not meant to.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch

from trainjobs.config import AugmentConfig, DataConfig
from trainjobs.data.device.batches import DrawnBatches, build_device_samples
from trainjobs.data.loader import TrainingSamples, build_loader
from trainjobs.data.ordering.order import Orders
from trainjobs.data.ordering.sampler import RankSampler
from trainjobs.data.packed.shards import Split
from trainjobs.data.prepare import prepare_dataset
from trainjobs.step_plan import StepPlan
from trainjobs.task import Batch

EPOCHS = 10_000
WARM_UP_BATCHES = 4


def open_loader(
    split: Split, execution: str, device: torch.device, args: argparse.Namespace
) -> Iterable[Batch]:
    """What the threads make, as `DetectionTask.training_batches` has it."""
    plan = StepPlan(
        num_images=len(split),
        images_per_step=args.batch,
        batch_size_per_worker=args.batch,
        warmup_images=0,
        warmup_micro_batches=1,
        world_size=1,
    )
    orders = Orders(split.shard_sizes, seed=0, batch_size=args.batch, shuffle_shards=256)
    samples = TrainingSamples(
        split=split,
        orders=orders,
        augment=AugmentConfig(),
        image_size=args.image_size,
        seed=0,
        epochs=EPOCHS,
    )
    batches = RankSampler(plan=plan, orders=orders, rank=0, epochs=EPOCHS)
    is_cuda, workers = device.type == "cuda", min(os.cpu_count() or 1, 8)
    if execution == "cpu":
        return build_loader(samples, batches, workers=workers, pin_memory=is_cuda)
    prepared = build_device_samples(samples, device)
    return build_loader(
        prepared, batches, workers=workers, pin_memory=is_cuda, collate=prepared.collate
    )


def open_batches(loader: Iterable[Batch], execution: str, device: torch.device) -> Iterable[Batch]:
    """The images, on the device."""
    moved = _moved(loader, device)
    return moved if execution == "cpu" else DrawnBatches(moved, device)


def _moved(batches: Iterable[Batch], device: torch.device) -> Iterator[Batch]:
    for batch in batches:
        yield {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}


def measure(batches: Iterable[Batch], device: torch.device, images: int) -> tuple[float, float]:
    """Images/s, and CPU milliseconds of the process an image, of batches that come steadily."""
    stream = iter(batches)
    for _ in range(WARM_UP_BATCHES):
        next(stream)
    _wait(device)
    start, cpu_start, drawn = time.perf_counter(), time.process_time(), 0
    while drawn < images:
        batch = next(stream)
        drawn += len(batch["images"] if "images" in batch else batch["tiles"])
    _wait(device)
    wall_s, cpu_s = time.perf_counter() - start, time.process_time() - cpu_start
    return drawn / wall_s, 1000 * cpu_s / drawn


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def compare(split: Split, device: torch.device, args: argparse.Namespace) -> str:
    """The table, of medians over the rounds."""
    seen: dict[str, list[tuple[float, float]]] = {"cpu": [], "device": []}
    for _ in range(args.rounds):
        for execution, figures in seen.items():
            loader = open_loader(split, execution, device, args)
            _, threads_ms = measure(loader, device, args.images)
            rate, _ = measure(open_batches(loader, execution, device), device, args.images)
            figures.append((rate, threads_ms))
    lines = ["| augment.execute | images/s | threads, CPU ms an image |", "|---|---|---|"]
    medians = {}
    for execution, figures in seen.items():
        medians[execution] = [statistics.median(column) for column in zip(*figures, strict=True)]
        rate, cpu_ms = medians[execution]
        lines.append(f"| {execution} | {rate:.0f} | {cpu_ms:.2f} |")
    rate, cpu_ms = (d / c for d, c in zip(medians["device"], medians["cpu"], strict=True))
    return "\n".join([*lines, f"| device / cpu | {rate:.2f} | {cpu_ms:.2f} |"])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", help="as for training; default: generated shapes")
    parser.add_argument("--image-size", type=int, default=640, help="px")
    parser.add_argument("--batch", type=int, default=16, help="images in a micro-batch")
    parser.add_argument("--images", type=int, default=512, help="images a measurement")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each")
    args = parser.parse_args()
    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "no GPU"
    with tempfile.TemporaryDirectory() as cache:
        data = prepare_dataset(args.data, Path(cache), DataConfig(), seed=0)
        table = compare(data.open("train"), device, args)
    print(f"{name}, {os.cpu_count()} CPUs, {args.image_size} px, micro-batches of {args.batch}")
    print(table)


if __name__ == "__main__":
    main()
