"""Split + order + augmentation -> batches. Images are uint8 until they are on the device.

A `Batch` is a dict of tensors because `ray.train.torch.prepare_data_loader` moves dicts to the device:
`images` (B, 3, H, W) uint8 and `targets` (N, 6) float32 [image in batch, class, cx, cy, w, h], boxes
normalized to the image.
"""

import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from trainjobs.config import AugmentConfig
from trainjobs.data.augmentation.augment import execute
from trainjobs.data.augmentation.mosaic import TrainingImages, plan_training_sample
from trainjobs.data.augmentation.sample_plan import ImageSource, SamplePlan, plan_letterbox
from trainjobs.data.batch_stream import BatchStream, Collate, Samples
from trainjobs.data.decoded import NODE_BYTES, DecodedWindow
from trainjobs.data.ordering.order import Orders
from trainjobs.data.ordering.sampler import SampleRef
from trainjobs.data.packed.joined import TrainingSplit
from trainjobs.step_plan import Step, StepPlan
from trainjobs.task import Batch, MicroBatch

Sample = tuple[NDArray[np.uint8], NDArray[np.float32]]
MAX_LOADER_WORKERS = 8
"""Upper end of `auto`, as in YOLOv5."""
THREADS_APART = 64
"""Positions of the order that lie between those that a rank's threads work on: by so many decoded
images it keeps more than the window of mosaic partners has."""


@dataclass(frozen=True, kw_only=True)
class TrainingSamples:
    """Augmented training images, addressed by their place in the order."""

    split: TrainingSplit
    orders: Orders
    augment: AugmentConfig
    image_size: int
    seed: int
    epochs: int
    ranks_on_node: int = 1
    """They share out the memory for decoded images."""
    one_class: bool = False
    """An image has its class whatever a warp leaves of it, and no place."""

    def name(self, ref: SampleRef) -> str:
        """What the image is called."""
        return self.split.id(ref.image)

    def __getitem__(self, ref: SampleRef) -> Sample:
        """Image (H, W, 3) uint8 and its labels (n, 5) [class, cx, cy, w, h] normalized."""
        image, labels = execute(self.plan(ref), self.source)
        return image, self.targets(ref, labels)

    def targets(self, ref: SampleRef, labels: NDArray[np.float32]) -> NDArray[np.float32]:
        """The labels (n, 5) of a sample, of those that its plan leaves."""
        if not self.one_class:
            return labels
        return np.array([[self.split.label(ref.image), 0.5, 0.5, 1, 1]], np.float32)

    def plan(self, ref: SampleRef) -> SamplePlan:
        """What is done to make a sample."""
        return plan_training_sample(
            seed=self.seed,
            epoch=ref.epoch,
            position=ref.position,
            index=ref.image,
            images=self._images(ref.epoch),
            # A shape has room for its images at their size and no more: that is its longest side.
            image_size=max(ref.shape) if ref.shape else self.image_size,
            config=self.augment,
            mosaic=ref.epoch < self.epochs - self.augment.close_mosaic,
            shape=ref.shape,
        )

    @functools.cached_property
    def source(self) -> ImageSource:
        """What plans are executed on: the split, of which some images are kept decoded."""
        # Without a window, what is kept serves again if the dataset is small: all of it fits.
        window = self.augment.mosaic_window
        max_images = window + THREADS_APART if window else None
        return DecodedWindow(self.split, max_images, NODE_BYTES // self.ranks_on_node)

    def _images(self, epoch: int) -> TrainingImages:
        return TrainingImages(
            size=self.split.size,
            near=functools.partial(self.orders.near, epoch, window=self.augment.mosaic_window),
            at=functools.partial(self.orders.images, epoch),
            labels=self.split,
        )


@dataclass(frozen=True, kw_only=True)
class EvaluationSamples:
    """Letterboxed images, addressed by (index, height, width of the batch)."""

    split: TrainingSplit
    image_size: int

    def name(self, ref: tuple[int, int, int]) -> str:
        """What the image is called."""
        return self.split.id(ref[0])

    def __getitem__(self, ref: tuple[int, int, int]) -> Sample:
        """Image (H, W, 3) uint8 and its labels (n, 5) [class, cx, cy, w, h] normalized."""
        index, height, width = ref
        source_height, source_width = self.split.size(index)
        plan = plan_letterbox(
            index,
            source_height,
            source_width,
            image_size=self.image_size,
            out_height=height,
            out_width=width,
        )
        return execute(plan, self.split)


def collate(samples: list[Sample]) -> Batch:
    """Samples of one shape -> a batch."""
    height, width = samples[0][0].shape[:2]
    images = np.empty((len(samples), 3, height, width), np.uint8)
    for planes, (image, _) in zip(images, samples, strict=True):
        planes[:] = image.transpose(2, 0, 1)
    counts = [len(labels) for _, labels in samples]
    targets = np.empty((sum(counts), 6), np.float32)
    targets[:, 0] = np.repeat(np.arange(len(samples)), counts)
    np.concatenate([labels for _, labels in samples], out=targets[:, 1:])
    return {"images": torch.from_numpy(images), "targets": torch.from_numpy(targets)}


def resolve_loader_workers(
    asked: int | str, *, node_cpus: float, ranks_on_node: int, batch_size: int
) -> int:
    """Loading threads of one rank; `auto` shares the node's CPUs out among its ranks."""
    if isinstance(asked, int):
        return asked
    if batch_size == 1:
        return 0
    return min(int(node_cpus // ranks_on_node), MAX_LOADER_WORKERS)


def build_loader(
    samples: Samples,
    batches: Iterable[list[Any]],
    *,
    workers: int,
    pin_memory: bool,
    collate: Collate = collate,
) -> "DataLoader[Batch]":
    """A DataLoader over `batches`, lists of references into `samples`.

    Args:
        samples: That batches are made of.
        batches: In their order.
        workers: Loading threads; 0: the one that asks for a batch.
        pin_memory: Whether batches lie in memory that a GPU reads by itself.
        collate: Samples -> a batch.
    """
    cv2.setNumThreads(0)  # one image a thread scales better than threads within an image
    if pin_memory:  # in the loading threads: DataLoader would do it in the training thread
        collate = functools.partial(_collate_pinned, collate)
    return DataLoader(BatchStream(samples, batches, workers, collate), batch_size=None)


def _collate_pinned(collate: Collate, samples: list[Any]) -> Batch:
    batch = collate(samples)
    return {name: t if t.is_cuda else t.pin_memory() for name, t in batch.items()}


class TrainingLoader:
    """Deals this rank's prefetched micro-batches out, step by step."""

    def __init__(
        self, batches: Iterable[Batch], *, plan: StepPlan, rank: int, dummy: Batch
    ) -> None:
        self.stream = iter(batches)
        self.plan, self.rank, self.dummy = plan, rank, dummy

    def mine(self, step: Step) -> Iterator[MicroBatch]:
        """This rank's micro-batches of `step`; a dummy that counts nothing if it has none.

        A rank without work must run a forward and backward all the same, or DDP waits for ever.
        """
        numbers = self.plan.mine(step, self.rank)
        if not numbers:
            dummy, first = self.dummy, step.first_position
            yield MicroBatch(dummy["images"], dummy["targets"], first, 0, is_my_last=True)
        for number in numbers:
            batch = next(self.stream)
            images = batch["images"]
            if len(images) != step.sizes[number]:
                raise AssertionError("the loader's stream is out of step with the plan")
            first, is_my_last = step.positions(number).start, number == numbers[-1]
            yield MicroBatch(images, batch["targets"], first, len(images), is_my_last)


def gray_batch(side: int, device: torch.device) -> Batch:
    """Two gray images without a box: BatchNorm needs more than one value a channel."""
    images = torch.full((2, 3, side, side), 114, dtype=torch.uint8, device=device)
    return {"images": images, "targets": torch.zeros(0, 6, device=device)}
