"""Boxes put through a plan: exactly where the pixels go, without those of which too little is left."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from trainjobs.data.augmentation.outlines import visible_bounds
from trainjobs.data.augmentation.sample_plan import LabelSource, SamplePlan, TilePlan

# When a box survives an augmentation. Source: recipe.md, section 2, "Augment order".
MIN_BOX_SIDE_PX = 2.0
MIN_AREA_KEPT = 0.1
MIN_OUTLINED_AREA_KEPT = 0.01
"""Of a box that follows an outline, which is smaller than the warped box."""
MAX_BOX_ASPECT = 100.0

MAX_HOLE_COVER = 0.6
"""A box of which a hole covers more than this is dropped, as in YOLOv5."""

Floats = NDArray[np.float64]


def place_labels(plan: SamplePlan, source: LabelSource) -> NDArray[np.float32]:
    """Labels (n, 5) [class, cx, cy, w, h] as fractions of the output, of all tiles of a plan.

    In training, an object that has an outline gets the box round what shows of that.
    """
    tiles = plan.tiles if plan.mixed is None else plan.tiles + plan.mixed.tiles
    found = [source.labels(tile.index) for tile in tiles]
    counts = [len(classes) for classes, _ in found]
    boxes = np.concatenate([boxes for _, boxes in found]).T.astype(np.float64)  # (4, n)
    # Per box its tile's numbers, see `_tile_row`; axes lead, so that each row is contiguous.
    table = np.array([_tile_row(tile) for tile in tiles]).T.repeat(counts, axis=1)  # (19, n)
    centers, halves = boxes[:2] * table[:2], boxes[2:] * table[:2] / 2
    low, high = np.maximum(centers - halves, table[2:4]), np.minimum(centers + halves, table[4:6])
    high = np.maximum(low, high)
    if any(tile.has_perspective for tile in tiles):
        low, high, area = _map_corners(low, high, table)
    else:
        low, high, area = _map_affine(low, high, table)
    low, high = np.maximum(low, table[15:17]), np.minimum(high, table[17:19])

    min_share = np.full(boxes.shape[1], MIN_AREA_KEPT)
    classes = [classes for classes, _ in found]
    if plan.is_augmented:
        _follow_outlines(tiles, counts, source, (low, high), min_share)
    kept = _is_kept(high - low, area, plan, min_share)
    if plan.pastes:
        pasted = np.array([paste.box for paste in plan.pastes]).T
        low, high = np.hstack([low, pasted[:2]]), np.hstack([high, pasted[2:]])
        kept = np.append(kept, np.ones(len(plan.pastes), np.bool_))
        classes.append(np.array([paste.class_id for paste in plan.pastes]))
    for hole in plan.holes:
        kept &= _covered(low, high, hole) <= MAX_HOLE_COVER
    rows = np.empty((low.shape[1], 5), np.float32)
    rows[:, 0] = np.concatenate(classes)
    output = np.array([[plan.width], [plan.height]])
    rows[:, 1:3] = ((low + high) / (2 * output)).T
    rows[:, 3:] = ((high - low) / output).T
    return rows[kept]


def _tile_row(tile: TilePlan) -> tuple[float, ...]:
    """Size (0:2), rectangle (2:6), matrix (6:12), depth (12:15) and window (15:19)."""
    (a, b, x), (c, d, y) = tile.matrix
    size = (tile.width, tile.height)
    return (*size, *tile.source_rect, a, b, x, c, d, y, *tile.depth, *tile.window)


def _map_affine(low: Floats, high: Floats, table: Floats) -> tuple[Floats, Floats, Floats]:
    """Upright boxes round mapped ones: the center is mapped, half sides by absolute values."""
    a, b, x, c, d, y = table[6:12]
    area = (high - low).prod(axis=0) * np.abs(a * d - b * c)
    (center_x, center_y), (half_x, half_y) = (low + high) / 2, (high - low) / 2
    centers = np.stack([a * center_x + b * center_y + x, c * center_x + d * center_y + y])
    a, b, c, d = np.abs((a, b, c, d))
    halves = np.stack([a * half_x + b * half_y, c * half_x + d * half_y])
    return centers - halves, centers + halves, area


def _map_corners(low: Floats, high: Floats, table: Floats) -> tuple[Floats, Floats, Floats]:
    """The same where parallel lines meet: upright boxes round four mapped corners."""
    a, b, shift_x, c, d, shift_y, g, h, k = table[6:15, None]
    x = np.stack([low[0], high[0], high[0], low[0]])  # (4, n), round the box
    y = np.stack([low[1], low[1], high[1], high[1]])
    depth = g * x + h * y + k
    corners = np.stack([a * x + b * y + shift_x, c * x + d * y + shift_y]) / depth  # (2, 4, n)
    after = np.roll(corners, -1, axis=1)
    area = np.abs((corners[0] * after[1] - corners[1] * after[0]).sum(axis=0)) / 2
    return corners.min(axis=1), corners.max(axis=1), area


def _follow_outlines(
    tiles: Sequence[TilePlan],
    counts: Sequence[int],
    source: LabelSource,
    corners: tuple[Floats, Floats],
    min_share: Floats,
) -> None:
    """In place: corners (2, n) of the boxes of objects with outlines, and what must be left of them."""
    low, high = corners
    start = 0
    for tile, count in zip(tiles, counts, strict=True):
        outlines = source.outlines(tile.index)
        if outlines is not None:
            points, sizes = outlines
            where = start + np.flatnonzero(sizes)
            low[:, where], high[:, where] = visible_bounds(tile, points, sizes[sizes > 0])
            min_share[where] = MIN_OUTLINED_AREA_KEPT
        start += count


def _is_kept(
    sides_px: Floats, area: Floats, plan: SamplePlan, min_share: Floats
) -> NDArray[np.bool_]:
    """Which boxes stay, by their sides (2, n) in the output, their area (n,) before it cut them, and
    how much of that (n,) must be left."""
    shortest, longest = sides_px.min(axis=0), sides_px.max(axis=0)
    kept: NDArray[np.bool_] = (shortest > 0) & (area > 0)
    if plan.is_augmented:
        kept &= shortest > MIN_BOX_SIDE_PX
        kept &= shortest * longest > min_share * area
        kept &= longest < MAX_BOX_ASPECT * shortest
    return kept


def _covered(low: Floats, high: Floats, hole: tuple[int, int, int, int]) -> Floats:
    """Share of each box (2, n) that a hole covers; kept boxes alone have a defined one."""
    x1, y1, x2, y2 = hole
    sides = np.minimum(high, [[x2], [y2]]) - np.maximum(low, [[x1], [y1]])
    area = np.maximum((high - low).prod(axis=0), np.finfo(float).tiny)
    share: Floats = np.maximum(sides, 0).prod(axis=0) / area
    return share
