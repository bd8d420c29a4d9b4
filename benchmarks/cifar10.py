"""Test accuracy and time of the CIFAR-10 settings that come with the package, over seeds.

    python -m benchmarks.cifar10 --data D [--configs cifar10-fastnet-cpu ...] [--seeds 0 1 2] [--device cuda]
                                 [--epochs N]

Each run is the training loop as the only rank runs it, without Ray. Time is that of the training, from
the building of the network to the last epoch's evaluation, both included; images are decoded before. A
published figure stands beside ours where there is one. Ours are of the last epoch.
"""

import argparse
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from benchmarks.one_rank import Nobody, only_rank, train_alone
from cluster.config_io import load_yaml, merge
from cluster.places import dataset_cache
from trainjobs.classifier.defaults import DEFAULTS
from trainjobs.classifier.task import ClassificationTask
from trainjobs.config import DataConfig, TrainConfig
from trainjobs.data.prepare import prepare_dataset
from trainjobs.loop import Training
from trainjobs.resolve import resolve_launch

CONFIGS = Path(__file__).parents[1] / "trainjobs" / "configs"
PUBLISHED = {
    "cifar10-resnet18-published": "88.40 (one seed; 87.71 on several GPUs with DataParallel)",
    "cifar10-resnet18": "95.3 to 96.0 in 70 epochs, about 7 min on an A100",
    "cifar10-fastnet": "94.0 in 2.6 s on an A100 (arXiv:2404.00498)",
}
"""Test accuracy in per cent, on the original pixels."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finished:
    """What a run came to."""

    row: dict[str, float]
    wall_s: float
    cpu_s: float


class Watch(Nobody):
    """Prints each epoch."""

    def epoch_done(self, training: Training, row: dict[str, float], *, is_best: bool) -> None:
        """One line."""
        shown = ("train_loss", "train_top1", "top1", "top1_batch_statistics", "images_per_second")
        cells = [f"{name} {row[name]:.4g}" for name in shown if name in row]
        print(f"  epoch {row['epoch']:.0f}: {', '.join(cells)}", flush=True)


def train(config: TrainConfig, cache: Path, device: torch.device) -> Finished:
    """Train once."""
    data = prepare_dataset(config.data.source, cache, config.data, config.seed)
    task = ClassificationTask(config, data, only_rank(device, cache))
    # These decode both splits, and load what is loaded once.
    task.training_batches([])
    task.evaluate(task.build_model().to(device))
    wall, cpu = time.perf_counter(), time.process_time()
    training = train_alone(config, task, device, Watch())
    finished = Finished(
        row=training.state.history[-1],
        wall_s=time.perf_counter() - wall,
        cpu_s=time.process_time() - cpu,
    )
    print(f"  {finished.wall_s:.2f} s, test accuracy {finished.row['top1']:.4f}", flush=True)
    return finished


def line(name: str, runs: Sequence[Finished]) -> str:
    """Of the table."""
    found = {
        key: [100 * run.row[key] for run in runs]
        for key in ("top1", "top1_batch_statistics", "train_top1")
        if key in runs[0].row
    }
    cells = [name, f"{runs[0].row['epoch']:.0f}"]
    for key in ("top1", "top1_batch_statistics", "train_top1"):
        values = found.get(key, [])
        spread = f" (sd {statistics.stdev(values):.2f})" if len(values) > 1 else ""
        cells.append(f"{statistics.mean(values):.2f}{spread}" if values else "")
    cells += [
        " ".join(f"{value:.2f}" for value in found["top1"]),
        f"{statistics.median(run.wall_s for run in runs):.1f}",
        f"{statistics.mean(run.cpu_s for run in runs):.1f}",
        PUBLISHED.get(name, ""),
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Train and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    names = sorted(file.stem for file in CONFIGS.glob("cifar10-*.yaml"))
    parser.add_argument("--data", required=True)
    parser.add_argument("--configs", nargs="+", choices=names, default=["cifar10-fastnet-cpu"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--epochs", type=int, help="in place of those of the settings")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device, cache = torch.device(options.device), Path(dataset_cache()).expanduser()
    lines = [
        "| settings | epochs | test accuracy, % | with batches' own statistics | training accuracy | "
        "by seed | wall s (median) | CPU s | published |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name in options.configs:
        file = CONFIGS / f"{name}.yaml"
        base = replace(DEFAULTS, data=DataConfig(source=options.data))
        runs = []
        for seed in options.seeds:
            config = replace(merge(base, load_yaml(str(file)), str(file)), seed=seed)
            if options.epochs:
                config = replace(config, epochs=options.epochs)
            print(f"{name}, seed {seed}", flush=True)
            runs.append(train(resolve_launch(config, world_size=1), cache, device))
        lines.append(line(name, runs))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
