"""What a window of mosaic partners does to mAP, over seeds, against partners from the whole dataset.

    python -m benchmarks.mosaic_window [--data D] [--windows 0 64 256] [--seeds 0 1 2] [--jobs 2] ...

Each run is the training loop as a rank runs it, in a process with one thread and without Ray. Prints
mAP of the last epoch's averaged weights for each window and seed, the means, and their ratio to that
of the first window. Without --data: the demo and its recipe, evaluated once.
"""

import argparse
import dataclasses
import itertools
import os
import statistics
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch

from benchmarks.one_rank import only_rank, train_alone
from cluster.places import dataset_cache
from trainjobs.config import DataConfig, EvalConfig, ModelConfig, TrainConfig
from trainjobs.data.prepare import prepare_dataset
from trainjobs.detector.task import DetectionTask
from trainjobs.resolve import resolve_launch
from trainjobs.trainer import WORKER_ENVIRONMENT
from trainjobs.yolo import DEMO


def train(config: TrainConfig, cache: Path) -> dict[str, float]:
    """The last epoch's metrics of one run on this process' single thread."""
    torch.set_num_threads(1)
    device = torch.device("cpu")
    data = prepare_dataset(config.data.source, cache, config.data, config.seed)
    task = DetectionTask(config, data, only_rank(device, cache))
    training = train_alone(config, task, device)
    return training.state.history[-1]


def configured(
    base: TrainConfig, windows: Sequence[int], seeds: Sequence[int]
) -> list[TrainConfig]:
    """A config for each window and seed."""
    return [
        dataclasses.replace(
            base, seed=seed, augment=dataclasses.replace(base.augment, mosaic_window=window)
        )
        for window, seed in itertools.product(windows, seeds)
    ]


def base_config(options: argparse.Namespace) -> TrainConfig:
    """The demo's recipe, or YOLOv5's on a dataset."""
    once = EvalConfig(every_epochs=10**6)  # the last epoch is always evaluated
    config = dataclasses.replace(DEMO.config, eval=once)
    if options.data:
        config = TrainConfig(
            epochs=options.epochs,
            data=DataConfig(source=str(options.data), image_size=options.image_size),
            model=ModelConfig(name="yolov5n"),
            eval=once,
        )
    return resolve_launch(config, world_size=1)


def table(configs: Sequence[TrainConfig], rows: Sequence[dict[str, float]]) -> str:
    """A line for each window."""
    found: dict[int, list[dict[str, float]]] = {}
    for config, row in zip(configs, rows, strict=True):
        found.setdefault(config.augment.mosaic_window, []).append(row)
    lines = [
        "| window | map50_95, by seed | mean | sd | over the first | map50, by seed | mean |",
        "|---|---|---|---|---|---|---|",
    ]
    first = None
    for window, seen in found.items():
        strict, loose = ([row[name] for row in seen] for name in ("map50_95", "map50"))
        mean, first = statistics.mean(strict), first or statistics.mean(strict)
        spread = statistics.stdev(strict) if len(strict) > 1 else 0.0
        cells = [
            str(window or "all"), " ".join(f"{value:.3f}" for value in strict), f"{mean:.3f}",
            f"{spread:.3f}", f"{mean / first:.2f}", " ".join(f"{value:.3f}" for value in loose),
            f"{statistics.mean(loose):.3f}",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Train and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--windows", type=int, nargs="+", default=[0, 64, 256])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=30, help="with --data")
    parser.add_argument("--image-size", type=int, default=256, help="with --data")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    options = parser.parse_args()
    os.environ |= WORKER_ENVIRONMENT | {"OMP_NUM_THREADS": "1"}
    configs = configured(base_config(options), options.windows, options.seeds)
    with (
        tempfile.TemporaryDirectory() as scratch,
        ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool,
    ):
        cache = Path(dataset_cache()).expanduser() if options.data is None else Path(scratch)
        rows = []
        for config, row in zip(
            configs, pool.map(train, configs, itertools.repeat(cache)), strict=True
        ):
            print(
                f"window {config.augment.mosaic_window}, seed {config.seed}: "
                f"map50_95 {row['map50_95']:.3f}, map50 {row['map50']:.3f}",
                flush=True,
            )
            rows.append(row)
    print(table(configs, rows))


if __name__ == "__main__":
    main()
