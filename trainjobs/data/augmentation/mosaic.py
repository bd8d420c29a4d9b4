"""The random part of a training sample: which images, where, how bright. Numbers only, no pixels.

A plan is a function of (seed, epoch, position in the epoch's order), so it does not depend on
which rank or process makes the sample.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from trainjobs.config import AugmentConfig
from trainjobs.data.augmentation.paste import plan_pastes
from trainjobs.data.augmentation.random_warp import Draw, Projection, compose, random_warp, uniform
from trainjobs.data.augmentation.sample_plan import (
    NO_PERSPECTIVE,
    ColorPlan,
    LabelSource,
    PixelRect,
    Rect,
    SamplePlan,
    Shape,
    TilePlan,
    jpeg_reduction,
)
from trainjobs.data.augmentation.snapping import can_snap, snap

# Part of the random generator's counter, so that other users of the same key draw other numbers.
_STREAM = 0x415547  # "AUG"
_MAX_DRAWS = 160
"""More than any sample needs: two mosaics of nine and their warps, colors and holes."""

MIXUP_CONCENTRATION = 32.0
"""Of the Beta distribution that a mixup's share is drawn from. Source: recipe.md, section 2."""
BLUR_SIDES_PX = (3, 5, 7)
MAX_CLAHE_LIMIT = 4.0
HOLE_SIDES = (1 / 2, 1 / 4, 1 / 4, 1 / 8, 1 / 8, 1 / 8, 1 / 8)
"""Largest side of each of a cutout's holes, as a fraction of the image side."""


Size = Callable[[int], tuple[int, int]]
"""Height and width in px of an image of the split."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingImages:
    """The images of one epoch, and their order."""

    size: Size
    near: Callable[[int], Sequence[int]]
    """The positions of the order that the mosaic partners of one come from; they depend on no rank."""
    at: Callable[[Sequence[int]], list[int]]
    """The images at some positions of the order."""
    labels: LabelSource
    """Looked at for `augment.copy_paste` alone."""


@dataclass(frozen=True, slots=True)
class _Placed:
    """A source image on the canvas: its scale, its left and top edges and the cell it shows in."""

    index: int
    height: int
    width: int
    scale: float
    left: float
    top: float
    cell: Rect


def plan_training_sample(
    *,
    seed: int,
    epoch: int,
    position: int,
    index: int,
    images: TrainingImages,
    image_size: int,
    config: AugmentConfig,
    mosaic: bool,
    shape: Shape | None = None,
) -> SamplePlan:
    """Plan the augmentation of one training image.

    Args:
        seed: Of the run.
        epoch: Counted from 0.
        position: Of the image in the epoch's order.
        index: Of the image in the split.
        images: Of this epoch.
        image_size: Px that the longest side is scaled to, before the random zoom.
        config: Ranges and probabilities.
        mosaic: Whether mosaics are on in this epoch; `config.mosaic` is their probability.
        shape: Height and width of the output in px, in which the scaled image has room. Default: a
            square of `image_size`; a mosaic needs it.

    Source: recipe.md, section 2, "Augment order". Mosaic partners come from a window of the order
        (`augment.mosaic_window`), not from a rank's shard.
    """
    rng = np.random.Generator(
        np.random.Philox(key=[seed, epoch], counter=[0, 0, _STREAM, position])
    )
    draw: Draw = iter(rng.random(_MAX_DRAWS).tolist()).__next__
    is_mosaic = mosaic and draw() < config.mosaic
    height, width = shape = shape or (image_size, image_size)
    place_all = functools.partial(
        _plan_tiles, draw, position, images, image_size, shape, config=config
    )
    tiles = place_all(index=index, is_mosaic=is_mosaic)
    # What is off by default comes last: switching it on moves no number of what is on.
    color = _random_color(draw, config)
    holes = _random_holes(draw, shape) if draw() < config.cutout else ()
    mixed, share = None, 0.0
    if is_mosaic and draw() < config.mixup:
        (other,) = _partners(draw, position, images, 1)
        others = place_all(index=other, is_mosaic=True)
        mixed = SamplePlan(height=height, width=width, tiles=others, is_augmented=True)
        share = float(rng.beta(MIXUP_CONCENTRATION, MIXUP_CONCENTRATION))
    plan = SamplePlan(
        height=height,
        width=width,
        tiles=tiles,
        mixed=mixed,
        mixed_share=share,
        color=color,
        holes=holes,
        is_augmented=True,
    )
    if not config.copy_paste:
        return plan
    alone = replace(plan, mixed=None, holes=())
    return replace(plan, pastes=plan_pastes(alone, images.labels, rng, config.copy_paste))


def _partners(draw: Draw, position: int, images: TrainingImages, count: int) -> list[int]:
    """Random images of the window round a position."""
    positions = images.near(position)
    return images.at([positions[int(draw() * len(positions))] for _ in range(count)])


def _plan_tiles(
    draw: Draw,
    position: int,
    images: TrainingImages,
    image_size: int,
    shape: Shape,
    *,
    config: AugmentConfig,
    index: int,
    is_mosaic: bool,
) -> tuple[TilePlan, ...]:
    """An image, alone or among partners of a position, put through one random warp."""
    if not is_mosaic:
        placed = [_place_middle(index, images.size, image_size, shape)]
    else:
        count = 9 if config.mosaic_nine and draw() < config.mosaic_nine else 4
        members = _partners(draw, position, images, count - 1)
        members.insert(int(draw() * count), index)
        place = _place_four if count == 4 else _place_nine
        placed = place(draw, members, images.size, image_size)
    canvas = (2 * image_size, 2 * image_size) if is_mosaic else shape
    warp = random_warp(draw, canvas, shape, config)
    return tuple(_make_tile(tile, shape, warp) for tile in placed)


def _scaled(index: int, size: Size, image_size: int) -> tuple[int, int, float]:
    """Height and width of an image in px, and the scale that makes its longest side fit."""
    height, width = size(index)
    return height, width, image_size / max(height, width)


def _place_middle(index: int, size: Size, image_size: int, shape: Shape) -> _Placed:
    height, width, scale = _scaled(index, size, image_size)
    left, top = (shape[1] - width * scale) / 2, (shape[0] - height * scale) / 2
    return _Placed(index, height, width, scale, left, top, (0.0, 0.0, shape[1], shape[0]))


def _place_four(draw: Draw, members: Sequence[int], size: Size, image_size: int) -> list[_Placed]:
    """Four images that meet in one corner."""
    corner_x, corner_y = (uniform(draw, image_size / 2, image_size * 3 / 2) for _ in range(2))
    side = 2.0 * image_size
    placed = []
    for place, index in enumerate(members):
        height, width, scale = _scaled(index, size, image_size)
        left = corner_x if place % 2 else corner_x - width * scale
        top = corner_y if place >= 2 else corner_y - height * scale
        placed.append(_Placed(index, height, width, scale, left, top, (0.0, 0.0, side, side)))
    return placed


def _place_nine(draw: Draw, members: Sequence[int], size: Size, image_size: int) -> list[_Placed]:
    """Nine images in rows of three that touch the edges of the middle one."""
    side = 2.0 * image_size
    height, width, scale = _scaled(members[4], size, image_size)
    left, top = (uniform(draw, 0, image_size) for _ in range(2))
    columns = (0.0, left, left + width * scale, side)
    rows = (0.0, top, top + height * scale, side)
    placed = []
    for place, index in enumerate(members):
        row, column = divmod(place, 3)
        height, width, scale = _scaled(index, size, image_size)
        x = columns[column] if column else columns[1] - width * scale
        y = rows[row] if row else rows[1] - height * scale
        cell = (
            max(columns[column], 0.0),
            max(rows[row], 0.0),
            min(columns[column + 1], side),
            min(rows[row + 1], side),
        )
        placed.append(_Placed(index, height, width, scale, x, y, cell))
    return placed


def _make_tile(placed: _Placed, shape: Shape, warp: Projection) -> TilePlan:
    """A placed image put through the warp; it shows as far as it lies in its cell."""
    scale, left, top = placed.scale, placed.left, placed.top
    x1, y1, x2, y2 = placed.cell
    rect: Rect = (
        max((x1 - left) / scale, 0.0),
        max((y1 - top) / scale, 0.0),
        min((x2 - left) / scale, float(placed.width)),
        min((y2 - top) / scale, float(placed.height)),
    )
    matrix, depth = compose(warp, scale, left, top)
    reduce = jpeg_reduction(scale)
    window: PixelRect = (0, 0, shape[1], shape[0])
    crop = None
    if depth == NO_PERSPECTIVE and can_snap(matrix, reduce):
        matrix, window, crop = snap(
            matrix,
            rect,
            height=placed.height,
            width=placed.width,
            reduce=reduce,
            shape=shape,
        )
    return TilePlan(
        index=placed.index,
        height=placed.height,
        width=placed.width,
        reduce=reduce,
        matrix=matrix,
        depth=depth,
        source_rect=rect,
        window=window,
        crop=crop,
    )


def _random_color(draw: Draw, config: AugmentConfig) -> ColorPlan:
    hue, saturation, value = (
        1 + uniform(draw, -limit, limit) for limit in (config.hsv_h, config.hsv_s, config.hsv_v)
    )
    blurs, grays, equalizes = draw() < config.blur, draw() < config.gray, draw() < config.clahe
    side, limit = BLUR_SIDES_PX[int(draw() * len(BLUR_SIDES_PX))], uniform(draw, 1, MAX_CLAHE_LIMIT)
    return ColorPlan(
        blur_px=side if blurs else 0,
        is_gray=grays,
        clahe_limit=limit if equalizes else 0.0,
        hsv_gains=(hue, saturation, value),
    )


def _random_holes(draw: Draw, shape: Shape) -> tuple[PixelRect, ...]:
    """Rectangles of which the larger are few, cut at the image's edges."""
    holes = []
    across, down = shape[1], shape[0]
    for largest in HOLE_SIDES:
        width, height = (max(int(draw() * largest * side), 1) for side in (across, down))
        x, y = (int(draw() * side) for side in (across, down))
        x1, y1 = max(x - width // 2, 0), max(y - height // 2, 0)
        x2, y2 = min(x1 + width, across), min(y1 + height, down)
        holes.append((x1, y1, x2, y2))
    return tuple(holes)
