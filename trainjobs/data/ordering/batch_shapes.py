"""Height and width of each training micro-batch: the same for any number of ranks.

Images are planned at that size; nothing is resized afterwards.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainjobs.data.augmentation.sample_plan import Shape, fitting_shape
from trainjobs.data.ordering.permutation import derive_key, derive_keys
from trainjobs.data.ordering.sampler import SampleRef

SIDE_STREAM = 0x53494445
"""Keeps the sides of micro-batches apart from other uses of the seed."""
TRAIN_MARGIN = -1e-6
"""Strides: none besides what the images need, and rounding must not cost one."""


@dataclass(frozen=True, kw_only=True)
class BatchShapes:
    """The shape of a micro-batch: a function of (seed, epoch, its first position) and its images."""

    image_size: int
    """Px of the longest side."""
    stride: int
    """Of which sides are multiples, in px."""
    seed: int
    multi_scale: float = 0.0
    """Sides are drawn from image_size times [1 - multi_scale, 1 + multi_scale]."""
    sizes: NDArray[np.int32] | None = None
    """(N, 2) height and width in px of every image, for rectangles. None: squares."""

    def shaped(self, batches: Iterable[list[SampleRef]]) -> Iterator[list[SampleRef]]:
        """The micro-batches, each reference with the shape of its own."""
        for references in batches:
            shape = self.shape(references)
            yield [reference._replace(shape=shape) for reference in references]

    def shape(self, references: list[SampleRef]) -> Shape:
        """Height and width in px of a micro-batch; the longer one is its side."""
        side = self.side(references[0].epoch, references[0].position)
        if self.sizes is None:
            return side, side
        members = [reference.image for reference in references]
        return fitting_shape(self.sizes[members], side, self.stride, TRAIN_MARGIN)

    def side(self, epoch: int, position: int) -> int:
        """The side in px of the micro-batch that begins at a position."""
        lowest, highest = scaled_sides(self.image_size, self.stride, self.multi_scale)
        key = derive_keys(derive_key(self.seed, epoch, SIDE_STREAM), position)
        steps = int(key[0] % np.uint64((highest - lowest) // self.stride + 1))
        return lowest + steps * self.stride


def scaled_sides(image_size: int, stride: int, multi_scale: float) -> tuple[int, int]:
    """The least and the greatest side in px: multiples of the stride, within the range."""
    steps = image_size / stride
    lowest = math.ceil(steps * (1 - multi_scale) + TRAIN_MARGIN)
    highest = math.floor(steps * (1 + multi_scale) - TRAIN_MARGIN)
    return max(lowest, 1) * stride, highest * stride


def kinds_by_shape(sizes: NDArray[np.int32], image_size: int, stride: int) -> NDArray[np.int16]:
    """(N,) images that need the same shape have the same kind; it grows with height over width.

    Together they have no padding but to the next multiple of the stride.

    Args:
        sizes: (N, 2) height and width in px of each image.
        image_size: Px of the longest side.
        stride: Px.
    """
    aspects = sizes[:, 0] / sizes[:, 1]
    ratios = np.minimum(aspects, 1), np.minimum(1 / aspects, 1)
    down, across = (np.ceil(ratio * image_size / stride + TRAIN_MARGIN) for ratio in ratios)
    return (down - across).astype(np.int16)
