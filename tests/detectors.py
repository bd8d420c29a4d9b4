"""A detection run on a small dataset: its task on one rank."""

from collections.abc import Mapping
from pathlib import Path

import torch

from tests.builders import CPU, make_config
from tests.contexts import make_context
from trainjobs.data.mixture import prepare_datasets
from trainjobs.detector.task import DetectionTask
from trainjobs.resolve import resolve_launch


def make_detection_task(
    source: Path,
    changes: Mapping[str, object] | None = None,
    *,
    rank: int = 0,
    world_size: int = 1,
    device: torch.device = CPU,
) -> DetectionTask:
    """Two epochs of YOLOv5n at 64 px, in steps of 8 and micro-batches of 4; or as `changes` say. The
    dataset's cache lies beside it."""
    config = make_config(
        {
            "model.name": "yolov5n",
            "data.image_size": 64,
            "data.source": str(source),
            "batch_size_per_worker": 4,
            "optim.images_per_step": 8,
            "epochs": 2,
            **(changes or {}),
        }
    )
    config = resolve_launch(config, world_size=2)
    cache = source.parent / "cache"
    data = prepare_datasets(config.data, cache, seed=0)
    context = make_context(cache, rank=rank, world_size=world_size, device=device)
    return DetectionTask(config, data, context)
