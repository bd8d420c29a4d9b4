"""The random part of a training sample: which images, where, how bright. Numbers only, no pixels.

A plan is a function of (seed, epoch, position in the epoch's order), so it does not depend on
which rank or process makes the sample.
"""

import math

import numpy as np
from numpy.typing import NDArray

from trainjobs.config import AugmentConfig
from trainjobs.data.augment import Matrix, Rect, SamplePlan, TilePlan

MOSAIC_TILES = 4

Placed = tuple[int, float, float, float]
"""A source image on the canvas: its index, its scale, and where its left and top edges are in px."""

# Part of the random generator's counter, so that other users of the same key draw other numbers.
_STREAM = 0x415547  # "AUG"


def plan_training_sample(
    *,
    seed: int,
    epoch: int,
    position: int,
    index: int,
    sizes: NDArray[np.int32],
    image_size: int,
    config: AugmentConfig,
    mosaic: bool,
) -> SamplePlan:
    """Plan the augmentation of one training image.

    Args:
        seed: Of the run.
        epoch: Counted from 0.
        position: Of the image in the epoch's order.
        index: Of the image in the split.
        sizes: (N, 2) height and width in px of the split's images.
        image_size: Side of the square output in px.
        config: Ranges and probabilities.
        mosaic: Whether mosaics are on in this epoch; `config.mosaic` is their probability.

    Source: recipe.md, section 2, "Augment order". Mosaic partners come from the whole dataset, not
        from a rank's shard.
    """
    rng = np.random.Generator(
        np.random.Philox(key=[seed, epoch], counter=[0, 0, _STREAM, position])
    )
    if mosaic and rng.random() < config.mosaic:
        placed, canvas_side = _place_mosaic(rng, index, sizes, image_size), 2 * image_size
    else:
        placed, canvas_side = [_place_middle(index, sizes, image_size)], image_size
    warp = _random_warp(rng, canvas_side, image_size, config)
    return SamplePlan(
        height=image_size,
        width=image_size,
        tiles=tuple(_make_tile(tile, sizes, canvas_side, warp) for tile in placed),
        hsv_gains=_random_hsv(rng, config),
        is_augmented=True,
    )


def _place_mosaic(
    rng: np.random.Generator, index: int, sizes: NDArray[np.int32], image_size: int
) -> list[Placed]:
    """Four images, in random order, that meet in one corner."""
    corner_x, corner_y = rng.uniform(image_size / 2, image_size * 3 / 2, 2)
    partners = rng.integers(0, len(sizes), MOSAIC_TILES - 1)
    members = rng.permutation([index, *partners]).tolist()
    placed = []
    for place, member in enumerate(members):
        height, width = sizes[member].tolist()
        scale = image_size / max(height, width)
        left = corner_x if place % 2 else corner_x - width * scale
        top = corner_y if place >= 2 else corner_y - height * scale
        placed.append((member, scale, left, top))
    return placed


def _place_middle(index: int, sizes: NDArray[np.int32], image_size: int) -> Placed:
    height, width = sizes[index].tolist()
    scale = image_size / max(height, width)
    return index, scale, (image_size - width * scale) / 2, (image_size - height * scale) / 2


def _random_warp(
    rng: np.random.Generator, canvas_side: int, image_size: int, config: AugmentConfig
) -> NDArray[np.float64]:
    """Map (3, 3) from the canvas to the output: rotation and zoom about the canvas' center, shear,
    shift, flips."""
    angle = math.radians(rng.uniform(-config.degrees, config.degrees))
    zoom = rng.uniform(1 - config.scale, 1 + config.scale)
    shears = np.tan(np.radians(rng.uniform(-config.shear, config.shear, 2)))
    shift_x, shift_y = image_size * rng.uniform(0.5 - config.translate, 0.5 + config.translate, 2)
    flip_x, flip_y = rng.random(2) < (config.flip_horizontal, config.flip_vertical)

    center = np.array([[1, 0, -canvas_side / 2], [0, 1, -canvas_side / 2], [0, 0, 1]])
    cos, sin = zoom * math.cos(angle), zoom * math.sin(angle)
    rotate = np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])
    shear = np.array([[1, shears[0], 0], [shears[1], 1, 0], [0, 0, 1]])
    shift = np.array([[1, 0, shift_x], [0, 1, shift_y], [0, 0, 1]])
    flip = np.eye(3)
    if flip_x:
        flip[0] = (-1, 0, image_size)
    if flip_y:
        flip[1] = (0, -1, image_size)
    warp: NDArray[np.float64] = flip @ shift @ shear @ rotate @ center
    return warp


def _make_tile(
    placed: Placed, sizes: NDArray[np.int32], canvas_side: int, warp: NDArray[np.float64]
) -> TilePlan:
    """A placed image put through the warp; it shows as far as it lies on the canvas."""
    index, scale, left, top = placed
    height, width = sizes[index].tolist()
    place = np.array([[scale, 0, left], [0, scale, top], [0, 0, 1]])
    rect: Rect = (
        max(-left / scale, 0.0),
        max(-top / scale, 0.0),
        min((canvas_side - left) / scale, float(width)),
        min((canvas_side - top) / scale, float(height)),
    )
    first, second = (warp @ place)[:2].tolist()
    matrix: Matrix = (tuple(first), tuple(second))
    return TilePlan(index=index, height=height, width=width, matrix=matrix, source_rect=rect)


def _random_hsv(
    rng: np.random.Generator, config: AugmentConfig
) -> tuple[float, float, float] | None:
    ranges = np.array([config.hsv_h, config.hsv_s, config.hsv_v])
    hue, saturation, value = (1 + rng.uniform(-1, 1, 3) * ranges).tolist()
    return (hue, saturation, value) if ranges.any() else None
