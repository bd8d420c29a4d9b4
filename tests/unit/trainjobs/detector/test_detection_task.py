"""Detection as a task: what its settings make of the training batches, for any number of ranks."""

from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from tests.detectors import make_detection_task
from trainjobs.config import TrainConfig
from trainjobs.data.generated.shapes import generate_shapes
from trainjobs.data.images import shrink_image
from trainjobs.data.ordering.sampler import RankSampler
from trainjobs.detector.task import DetectionTask
from trainjobs.resolve import build_plan
from trainjobs.task import Batch

MODES = [
    {"data.rect": True},
    {"data.multi_scale": 0.5},
    {"data.rect": True, "data.multi_scale": 0.5, "data.image_weights": True},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two datasets: of squares, and of the same cut to rectangles."""
    folder = tmp_path_factory.mktemp("data")
    for name, count in (("main", 10), ("other", 6)):
        (folder / name).mkdir()
        generate_shapes(folder / name, num_train=count, num_val=2, image_size=64, seed=count)
    for number, file in enumerate(sorted((folder / "other" / "images" / "train").iterdir())):
        size = (32, 64) if number % 2 else (64, 40)
        file.write_bytes(shrink_image(file.read_bytes(), file.name, *size))
    return folder


def make_task(
    folder: Path, changes: dict[str, object], *, rank: int = 0, world_size: int = 1
) -> tuple[DetectionTask, TrainConfig]:
    changes = {"data.also": [f"{folder / 'other'}#1.5"], **changes}
    task = make_detection_task(folder / "main", changes, rank=rank, world_size=world_size)
    return task, task.config


def batches_of(
    folder: Path, changes: dict[str, object], rank: int = 0, world_size: int = 1
) -> list[Batch]:
    task, config = make_task(folder, changes, rank=rank, world_size=world_size)
    plan = build_plan(config, num_images=task.orders.num_images, world_size=world_size)
    sampler = RankSampler(plan=plan, orders=task.orders, rank=rank, epochs=config.epochs)
    return list(task.training_batches(sampler))


def key(batch: Batch) -> tuple[object, ...]:
    return (
        tuple(batch["images"].shape),
        batch["images"].numpy().tobytes(),
        batch["targets"].tolist(),
    )


@pytest.mark.parametrize("changes", MODES, ids=str)
def test_two_ranks_train_on_the_batches_of_one(folder: Path, changes: dict[str, object]) -> None:
    alone = batches_of(folder, changes)
    shared = [batch for rank in range(2) for batch in batches_of(folder, changes, rank, 2)]
    assert sum(len(batch["images"]) for batch in alone) == 2 * (10 + 9)
    assert sorted(map(key, alone)) == sorted(map(key, shared))
    assert len({tuple(batch["images"].shape[2:]) for batch in alone}) > 1


def test_rectangles_hold_single_images_without_mosaic(folder: Path) -> None:
    changes = {"data.rect": True, "augment.translate": 0, "augment.scale": 0, "augment.mosaic": 1.0}
    batches = batches_of(folder, changes)
    assert {tuple(batch["images"].shape[2:]) for batch in batches} <= {(32, 64), (64, 64)}
    # Unmoved, an image has its own boxes and no others, where four together would have more.
    task, _ = make_task(folder, changes)
    most = max(len(task.train.labels(index)[0]) for index in range(len(task.train)))
    counts = [np.bincount(batch["targets"][:, 0].long()).max() for batch in batches]
    assert max(counts) <= most


@pytest.mark.parametrize("changes", MODES, ids=str)
def test_the_loss_of_a_rectangle_has_a_gradient(folder: Path, changes: dict[str, object]) -> None:
    task, _ = make_task(folder, changes)
    model = task.build_model().train()
    oblong = [b for b in batches_of(folder, changes) if b["images"].shape[2] != 64]
    for batch in islice(oblong, 2):
        loss = task.compute_loss(model, batch["images"], batch["targets"])
        loss.total.backward()
        assert loss.parts.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
