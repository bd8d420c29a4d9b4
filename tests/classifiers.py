"""A classification run on generated thumbnails that takes a second or two: config, data and task."""

from collections.abc import Mapping
from pathlib import Path

import torch

from cluster.config_io import replace_at
from tests.builders import CPU
from tests.contexts import make_context
from trainjobs.classifier.defaults import DEFAULTS
from trainjobs.classifier.task import ClassificationTask
from trainjobs.config import TrainConfig
from trainjobs.data.generated.thumbnails import generate_thumbnails
from trainjobs.data.mixture import prepare_datasets
from trainjobs.resolve import resolve_launch

SIDE_PX = 32


def write_thumbnails(
    folder: Path, *, num_train: int = 40, num_val: int = 20, seed: int = 0
) -> Path:
    """The generated dataset, in an image folder of its own."""
    folder.mkdir(parents=True)
    generate_thumbnails(folder, num_train=num_train, num_val=num_val, image_size=SIDE_PX, seed=seed)
    return folder


def make_classifier_config(changes: Mapping[str, object] | None = None) -> TrainConfig:
    """Two epochs of the small fast network in steps of 16, micro-batches of 8, no warmup; or as
    `changes` say."""
    settings: dict[str, object] = {
        "epochs": 2,
        "model.name": "fastnet_s",
        "batch_size_per_worker": 8,
        "optim.images_per_step": 16,
        "optim.nominal_batch_size": 16,
        "optim.warmup_epochs": 0.0,
        "optim.warmup_min_images": 0,
    }
    config = DEFAULTS
    for path, value in {**settings, **(changes or {})}.items():
        config = replace_at(config, path, value)
    return config


def make_classification_task(
    source: Path,
    changes: Mapping[str, object] | None = None,
    *,
    rank: int = 0,
    world_size: int = 1,
    device: torch.device = CPU,
) -> ClassificationTask:
    """The task of a rank on a dataset, whose cache lies beside it."""
    config = make_classifier_config({"data.source": str(source), **(changes or {})})
    config = resolve_launch(config, world_size=1)
    cache = source.parent / "cache"
    data = prepare_datasets(config.data, cache, seed=config.seed)
    context = make_context(cache, rank=rank, world_size=world_size, device=device)
    return ClassificationTask(config, data, context)
