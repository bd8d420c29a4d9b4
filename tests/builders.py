"""Small parts that several test files need: plans, configs, and a training that takes milliseconds."""

import functools
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cluster.config_io import replace_at
from trainjobs.checkpoint import save_checkpoint
from trainjobs.config import TrainConfig
from trainjobs.data.loader import Sample, build_loader
from trainjobs.data.ordering.order import Orders
from trainjobs.data.ordering.sampler import SampleRef
from trainjobs.data.packed.cache import LocalShards
from trainjobs.data.packed.index import ShardEntry, SplitEntry
from trainjobs.data.packed.schema import ImageRecord, encode_shard
from trainjobs.data.packed.shards import Split
from trainjobs.data.scanning import Scanned, open_split
from trainjobs.data.sources import read_data_yaml
from trainjobs.distributed import DDP_OPTIONS
from trainjobs.loop import LossSums, Training
from trainjobs.optim.optimizer import lr_in_force
from trainjobs.step_plan import Step, StepPlan
from trainjobs.task import Batch, Loss, Metrics
from trainjobs.training import build_training

CPU = torch.device("cpu")
SIDE_PX = 6
"""Of the images that `TinyTask` trains on."""


def make_plan(**changes: int) -> StepPlan:
    """10 images in steps of 4, micro-batches of 2, no warmup, one rank; or as `changes` say."""
    settings = {
        "num_images": 10,
        "images_per_step": 4,
        "batch_size_per_worker": 2,
        "warmup_images": 0,
        "warmup_micro_batches": 1,
        "world_size": 1,
    }
    return StepPlan(**{**settings, **changes})


def make_orders(*shard_sizes: int, **changes: Any) -> Orders:
    """Orders of shards that are shuffled as a whole, by seed 7; or as `changes` say."""
    settings = {"seed": 7, "batch_size": 2, "shuffle_shards": 256}
    return Orders(shard_sizes, **{**settings, **changes})


def make_config(changes: Mapping[str, object] | None = None) -> TrainConfig:
    """The default config with settings, given by dotted path, changed."""
    config = TrainConfig()
    for path, value in (changes or {}).items():
        config = replace_at(config, path, value)
    return config


def make_tiny_config(changes: Mapping[str, object] | None = None) -> TrainConfig:
    """Three epochs of `TinyTask`, resolved: steps of 4 micro-batches of 3, warmup over half an epoch."""
    settings: dict[str, object] = {
        "epochs": 3,
        "batch_size_per_worker": 3,
        "optim.images_per_step": 12,
        "optim.nominal_batch_size": 12,
        "optim.warmup_epochs": 0.5,
        "optim.warmup_min_images": 0,
        "optim.warmup_micro_batches": 1,
        "optim.ema_warmup_steps": 5,
    }
    return make_config({**settings, **(changes or {})})


@dataclass(frozen=True)
class TinySamples:
    """Noise images, each with one number to predict; NaN at the positions of epoch 0 in `poisoned`."""

    poisoned: range = range(0)

    def name(self, ref: SampleRef) -> str:
        """Its number."""
        return str(ref.image)

    def __getitem__(self, ref: SampleRef) -> Sample:
        """Image (6, 6, 3) uint8; the number stands in the place of the class."""
        rng = np.random.default_rng([ref.epoch, ref.position, ref.image])
        image = rng.integers(0, 256, (SIDE_PX, SIDE_PX, 3), dtype=np.uint8)
        is_poisoned = ref.epoch == 0 and ref.position in self.poisoned
        number = np.nan if is_poisoned else rng.random()
        return image, np.array([[number, 0.5, 0.5, 1, 1]], np.float32)


@dataclass
class TinyTask:
    """A regression that meets `trainjobs.task.Task`, in float64 so that laws hold to the last digits."""

    seed: int = 0
    num_images: int = 23
    poisoned: range = range(0)
    scores: Sequence[float] = ()
    """Scores of successive evaluations. Default: minus the error on fixed images."""
    loss_names = ("error", "size")
    figure_names = ("largest",)
    key_metric = "score"
    evaluations: int = 0

    @functools.cached_property
    def orders(self) -> Orders:
        """Of the seed."""
        return make_orders(self.num_images, seed=self.seed)

    def build_model(self, *, continues: bool = False) -> nn.Module:
        """Convolution, BatchNorm, linear layer."""
        torch.manual_seed(self.seed)
        layers = (
            nn.Conv2d(3, 4, 3),
            nn.BatchNorm2d(4, momentum=0.03),
            nn.SiLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(0),
            nn.Unflatten(0, (-1, 4)),
            nn.Linear(4, 1),
        )
        return nn.Sequential(*layers).double()

    def training_batches(self, batches: Iterable[list[SampleRef]]) -> Iterable[Batch]:
        """Noise images by (epoch, position, image)."""
        return build_loader(TinySamples(self.poisoned), batches, workers=0, pin_memory=False)

    def dummy_batch(self) -> Batch:
        """Two black images without a number."""
        images = torch.zeros(2, 3, SIDE_PX, SIDE_PX, dtype=torch.uint8)
        return {"images": images, "targets": torch.zeros(0, 6)}

    def compute_loss(self, model: nn.Module, images: Tensor, targets: Tensor) -> Loss:
        """Mean squared error and a little of the mean squared prediction."""
        predicted: Tensor = model(images.double() / 255)[:, 0]
        wanted = torch.zeros_like(predicted)
        wanted[targets[:, 0].long()] = targets[:, 1].double()
        parts = torch.stack([(predicted - wanted).square().mean(), predicted.square().mean() / 10])
        figures = predicted.abs().amax(0, keepdim=True)
        return Loss(parts.sum(), torch.cat([parts, figures]).detach())

    def evaluate(self, model: nn.Module) -> Metrics:
        """The next of `scores`, or one that depends on every weight and running statistic."""
        self.evaluations += 1
        if self.scores:
            return {"score": self.scores[self.evaluations - 1]}
        images = torch.arange(2 * 3 * SIDE_PX**2).view(2, 3, SIDE_PX, SIDE_PX).double() / 108
        with torch.no_grad():
            return {"score": -float(model(images).square().mean())}

    def draw_plots(self, folder: Path) -> None:
        """Nothing to draw."""

    def summary(self) -> dict[str, dict[str, float]]:
        """Nothing to sum up."""
        return {}

    def weights_header(self) -> dict[str, str]:
        """Name of the model."""
        return {"model": "tiny"}


@dataclass
class Recorder:
    """An observer that notes what it is told, and asks for a stop after `stop_after` steps."""

    stop_after: int | None = None
    checkpoint: Path | None = None
    """Where an interrupted run is saved."""
    steps: list[Step] = field(default_factory=list)
    lrs: list[float] = field(default_factory=list)
    """Of each step, of the decayed weights."""
    rows: list[dict[str, float]] = field(default_factory=list)
    best: list[bool] = field(default_factory=list)

    def stop_requested(self) -> bool:
        """Asked once a step, before `step_done`."""
        return len(self.steps) + 1 == self.stop_after

    def step_done(self, training: Training, step: Step, losses: LossSums) -> None:
        """Note the step."""
        self.steps.append(step)
        self.lrs.append(lr_in_force(training.optimizer))

    def epoch_done(self, training: Training, row: dict[str, float], *, is_best: bool) -> None:
        """Note the row."""
        self.rows.append(row)
        self.best.append(is_best)

    def interrupted(self, training: Training) -> None:
        """Save the run."""
        if self.checkpoint is not None:
            self.checkpoint.mkdir()
            save_checkpoint(self.checkpoint, training.state, training.tensors())


def make_training(
    config: TrainConfig,
    task: TinyTask | None = None,
    *,
    rank: int = 0,
    world_size: int = 1,
    checkpoint: Path | None = None,
    wrap: type[nn.Module] | None = None,
) -> Training:
    """A training of `TinyTask`; from a checkpoint if one is given."""
    return build_training(
        config,
        task or TinyTask(config.seed),
        rank=rank,
        world_size=world_size,
        device=CPU,
        checkpoints=[checkpoint] if checkpoint is not None else [],
        prepare_model=lambda network: wrap(network, **DDP_OPTIONS) if wrap else network,
    )


def flat_tensors(tree: Any, path: str = "") -> dict[str, Tensor]:
    """Every tensor in nested dicts and lists, copied, by its path."""
    if isinstance(tree, Tensor):
        return {path: tree.detach().clone()}
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    found: dict[str, Tensor] = {}
    for key, value in items:
        if isinstance(value, (Tensor, dict, list)):
            found |= flat_tensors(value, f"{path}/{key}")
    return found


def assert_same_tensors(one: Any, other: Any, tolerance: float = 0.0) -> None:
    """The same tensors under the same paths, to the last bit unless a relative tolerance is given."""
    first, second = flat_tensors(one), flat_tensors(other)
    assert first.keys() == second.keys()
    for path, tensor in first.items():
        note = f"{path}: {{}}".format  # around torch's own message
        torch.testing.assert_close(tensor, second[path], rtol=tolerance, atol=tolerance, msg=note)


def without_timing(history: Sequence[Mapping[str, float]]) -> list[dict[str, float]]:
    """Rows of metrics.csv without what depends on the clock."""
    clock = ("epoch_s", "images_per_second")
    return [{k: v for k, v in row.items() if k not in clock} for row in history]


def make_split(
    folder: Path,
    records: Sequence[ImageRecord],
    images: Sequence[bytes] = (),
    names: Sequence[str] = ("cat", "dog"),
    images_per_shard: int = 1000,
) -> Split:
    """A packed split. Default: images without a byte."""
    images = images or [b""] * len(records)
    shards = []
    for first in range(0, len(records), images_per_shard):
        rows = slice(first, first + images_per_shard)
        data = encode_shard(records[rows], images[rows], names)
        file = f"train-{len(shards):05d}.arrow"
        (folder / file).write_bytes(data)
        shards.append(
            ShardEntry(
                file=file,
                num_images=len(records[rows]),
                num_bytes=len(data),
                sha256=hashlib.sha256(data).hexdigest(),
            )
        )
    entry = SplitEntry(
        shards=tuple(shards),
        num_background=0,
        num_boxes=(0,) * len(names),
        num_skipped=0,
        largest_px=(0, 0),
    )
    return Split(entry, tuple(names), LocalShards(folder))


def scan_split(source: Path, split: str) -> Scanned:
    """All of a split, as packing reads it.

    Raises:
        DatasetError: As packing does.
    """
    opened = open_split(read_data_yaml(source), split)
    scanned, strays = opened.scan(opened.images), opened.strays()
    quarantine = scanned.quarantine + strays.quarantine
    num_skipped = scanned.num_skipped + strays.num_skipped
    opened.check_usable(
        num_images=len(scanned.records),
        num_background=sum(not record.classes for record in scanned.records),
        num_skipped=num_skipped,
        first=next(iter(quarantine), None),
    )
    return Scanned(
        images=scanned.images,
        records=scanned.records,
        quarantine=quarantine,
        num_skipped=num_skipped,
    )
