"""Batches: built ahead in threads, in order; dealt out step by step."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from cluster.errors import DatasetError
from tests.builders import CPU, TinySamples, make_orders, make_plan, make_split
from trainjobs.config import AugmentConfig
from trainjobs.data.batch_stream import BatchStream
from trainjobs.data.loader import (
    EvaluationSamples,
    Sample,
    TrainingLoader,
    TrainingSamples,
    build_loader,
    collate,
    gray_batch,
    resolve_loader_workers,
)
from trainjobs.data.ordering.sampler import RankSampler, SampleRef
from trainjobs.data.packed.schema import ImageRecord
from trainjobs.data.packed.shards import Split
from trainjobs.step_plan import StepPlan
from trainjobs.task import Batch


class Numbers:
    """Image number i is filled with i; it has i boxes. Low numbers take longest; 99 fails."""

    def __init__(self, slow: int = 0) -> None:
        self.slow, self.asked = slow, 0

    def name(self, number: int) -> str:
        return f"{number}.jpg"

    def __getitem__(self, number: int) -> Sample:
        self.asked += 1
        if number == 99:
            raise ValueError("not to be warped")
        if number < self.slow:
            time.sleep(0.01 * (self.slow - number))
        return np.full((4, 6, 3), number, np.uint8), np.full((number, 5), number, np.float32)


def firsts(stream: Iterator[Batch]) -> list[int]:
    return [int(batch["images"][0, 0, 0, 0]) for batch in stream]


def test_collate_stacks_images_channels_first_and_numbers_the_rows() -> None:
    samples = Numbers()
    batch = collate([samples[2], samples[0], samples[1]])
    assert batch["images"].shape == (3, 3, 4, 6) and batch["images"].dtype == torch.uint8
    assert batch["targets"].dtype == torch.float32
    assert batch["targets"].tolist() == [[0] + [2] * 5, [0] + [2] * 5, [2] + [1] * 5]


def test_collate_of_images_without_boxes_has_no_rows() -> None:
    assert collate([Numbers()[0]])["targets"].shape == (0, 6)


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_batches_come_in_order_however_long_each_takes(workers: int) -> None:
    stream = BatchStream(Numbers(slow=4), [[i] for i in range(12)], workers, collate)
    assert firsts(iter(stream)) == list(range(12))


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_is_raised_in_the_place_of_its_batch_with_its_images_name(workers: int) -> None:
    stream = iter(BatchStream(Numbers(), [[1, 3], [4, 99, 99, 5], [2]], workers, collate))
    assert next(stream)["images"][0, 0, 0, 0] == 1
    with pytest.raises(DatasetError, match=r"99\.jpg: .*ValueError: not to be warped") as caught:
        next(stream)
    assert isinstance(caught.value.__cause__, ValueError)


def test_threads_work_ahead_by_a_bounded_number_of_batches() -> None:
    samples = Numbers()
    stream = iter(BatchStream(samples, ([i] for i in range(1000)), 2, collate))
    next(stream)
    time.sleep(0.05)
    assert 1 < samples.asked <= 2 * 2 + 1


def test_a_stream_left_early_ends_its_threads() -> None:
    stream = iter(BatchStream(Numbers(), [[i % 9] for i in range(50)], 2, collate))
    next(stream)
    stream.close()
    deadline = time.monotonic() + 5
    while any(t.name.startswith("loader") for t in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_loader_is_a_stream_of_dicts() -> None:
    loader = build_loader(Numbers(), [[1, 2], [3]], workers=0, pin_memory=False)
    assert firsts(iter(loader)) == [1, 3]
    assert firsts(iter(loader)) == [1, 3]


def test_batches_are_copied_for_the_gpu_in_the_loading_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    threads = []

    def pin_memory(tensor: torch.Tensor) -> torch.Tensor:  # the real one needs a GPU
        threads.append(threading.current_thread().name)
        return tensor

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin_memory)
    loader = build_loader(Numbers(), [[1, 2], [3]], workers=2, pin_memory=True)
    assert firsts(iter(loader)) == [1, 3]
    assert threads and all(name.startswith("loader") for name in threads)


@pytest.mark.parametrize(
    ("asked", "cpus", "ranks", "batch", "expected"),
    [
        (5, 1.0, 1, 16, 5),
        (0, 64.0, 1, 16, 0),
        ("auto", 64.0, 2, 16, 8),
        ("auto", 8.0, 2, 16, 4),
        ("auto", 0.5, 1, 16, 0),
        ("auto", 8.0, 2, 1, 0),
    ],
)
def test_auto_shares_the_cpus_of_a_node_up_to_eight_threads_a_rank(
    asked: int | str, cpus: float, ranks: int, batch: int, expected: int
) -> None:
    found = resolve_loader_workers(asked, node_cpus=cpus, ranks_on_node=ranks, batch_size=batch)
    assert found == expected


def make_training_loader(plan: StepPlan, rank: int) -> TrainingLoader:
    batches = build_loader(
        TinySamples(),
        RankSampler(plan=plan, orders=make_orders(plan.num_images), rank=rank, epochs=1),
        workers=0,
        pin_memory=False,
    )
    return TrainingLoader(batches, plan=plan, rank=rank, dummy=gray_batch(32, CPU))


def test_a_rank_gets_its_micro_batches_and_knows_the_last() -> None:
    plan = make_plan(num_images=10, images_per_step=10, world_size=2)
    (step,) = plan.steps(0)
    dealt = {rank: list(make_training_loader(plan, rank).mine(step)) for rank in range(2)}
    assert [micro.is_my_last for micro in dealt[0]] == [False, False, True]
    assert [micro.is_my_last for micro in dealt[1]] == [False, True]
    assert [micro.num_images for micro in dealt[0] + dealt[1]] == [2] * 5


def test_a_rank_without_a_micro_batch_gets_one_dummy_that_counts_nothing() -> None:
    plan = make_plan(world_size=3)
    loader = make_training_loader(plan, rank=2)
    for step in plan.steps(0):
        (micro,) = loader.mine(step)
        assert micro.num_images == 0 and micro.is_my_last
        assert micro.images.shape == (2, 3, 32, 32) and micro.targets.shape == (0, 6)


def test_a_stream_out_of_step_with_the_plan_is_noticed() -> None:
    first, *_ = make_plan(batch_size_per_worker=3, images_per_step=3).steps(0)
    with pytest.raises(AssertionError, match="out of step"):
        list(make_training_loader(make_plan(), rank=0).mine(first))


def make_noise(folder: Path) -> Split:
    """Four noise images of 48 x 64 px with a box each."""
    records, images = [], []
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 256, (48, 64, 3), dtype=np.uint8)
        images.append(cv2.imencode(".png", pixels)[1].tobytes())
        records.append(
            ImageRecord(
                id=f"{number}.png",
                height=48,
                width=64,
                classes=[number],
                boxes_cxcywh_norm=[(0.5, 0.5, 0.5, 0.5)],
            )
        )
    return make_split(folder, records, images, names="abcd")


def make_training_samples(split: Split, close_mosaic: int = 1) -> TrainingSamples:
    augment = AugmentConfig(close_mosaic=close_mosaic, scale=0, translate=0)
    orders = make_orders(len(split))
    return TrainingSamples(
        split=split, orders=orders, augment=augment, image_size=64, seed=0, epochs=3
    )


def test_a_training_sample_is_a_function_of_its_reference(tmp_path: Path) -> None:
    ref, split = SampleRef(1, 2, 3), make_noise(tmp_path)
    image, labels = make_training_samples(split)[ref]
    again, same = make_training_samples(split)[ref]
    assert image.shape == (64, 64, 3) and labels.shape[1] == 5
    assert np.array_equal(image, again) and np.array_equal(labels, same)
    assert not np.array_equal(image, make_training_samples(split)[SampleRef(2, 2, 3)][0])


@pytest.mark.parametrize("shape", [(96, 96), (32, 32), (48, 64)])
def test_a_training_sample_has_the_shape_of_its_micro_batch(
    tmp_path: Path, shape: tuple[int, int]
) -> None:
    samples = make_training_samples(make_noise(tmp_path))
    image, labels = samples[SampleRef(2, 2, 3, shape)]  # alone, and neither shifted nor zoomed
    assert image.shape == (*shape, 3)
    # The box is half of an image of 48 x 64 px that fills the longest side.
    side = max(shape)
    expected = [3, 0.5, 0.5, side / 2 / shape[1], side * 3 / 8 / shape[0]]
    np.testing.assert_allclose(labels, [expected], atol=0.02)


def test_the_last_epochs_are_without_mosaic(tmp_path: Path) -> None:
    samples = make_training_samples(make_noise(tmp_path), close_mosaic=1)
    # Without mosaic, shift and zoom, one box a quarter of its image stays; its class is the image.
    alone = [samples[SampleRef(2, position, 3)][1] for position in range(4)]
    assert all(labels[:, 0].tolist() == [3] for labels in alone)
    mosaics = [samples[SampleRef(1, position, 3)][1] for position in range(4)]
    assert any(len(labels) > 1 for labels in mosaics)


def test_an_evaluation_sample_is_letterboxed_to_its_batchs_shape(tmp_path: Path) -> None:
    samples = EvaluationSamples(split=make_noise(tmp_path), image_size=64)
    image, labels = samples[1, 64, 96]
    # 48 x 64 in 64 x 96: 8 rows above and below, 16 columns left and right.
    assert image.shape == (64, 96, 3)
    assert (image[:8] == 114).all() and (image[:, :16] == 114).all()
    np.testing.assert_allclose(labels, [[1, 0.5, 0.5, 32 / 96, 24 / 64]], rtol=1e-6)
