"""Planned tiles as rows of numbers, from which `augment.py` draws all samples of a batch at once.

A row says where a tile shows, and which pixel of which image each output pixel reads there. Windows
and averaging are those of `augment.execute`; what differs is the rounding of interpolated pixels.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from trainjobs.data.augmentation.augment import bounds, middle_scale, overlap
from trainjobs.data.augmentation.sample_plan import PixelRect, Rect, SamplePlan, TilePlan

EVERYWHERE: Rect = (-math.inf, -math.inf, math.inf, math.inf)
IDENTITY = np.array([[1.0, 0.0, -0.5], [0.0, 1.0, -0.5], [0.0, 0.0, 1.0]])
"""From continuous output px to the pixel that lies there; pixel i has its center at i + 1/2."""
NUM_COLUMNS = 21
"""Of a row: matrix 0:9, inside 9:13, rect 13:17, window 17:21."""


class PixelKey(NamedTuple):
    """Pixels that tiles read; tiles with equal keys share them."""

    image: int
    """By its index in the split."""
    reduce: int
    """By which a JPEG is shrunk while it is decoded."""
    crop: PixelRect | None = None
    """Part, in decoded px, that is averaged down. None: all of it."""
    size: tuple[int, int] | None = None
    """Height and width in px that it is averaged down to. None: it stays as it was decoded."""
    finished: SamplePlan | None = None
    """A whole sample, made by `augment.execute`. None: an image."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TileRow:
    """Where one tile shows and what it reads."""

    key: PixelKey
    rect: PixelRect
    """The part of these pixels that it reads; beyond, the nearest one counts."""
    matrix: NDArray[np.float64]
    """(3, 3) from output px to pixels, homogeneous."""
    inside: Rect = EVERYWHERE
    """In pixels; what reads outside of it does not show."""
    window: PixelRect
    """Part of the output that it may cover."""

    def numbers(self) -> list[float]:
        """The row, NUM_COLUMNS long."""
        return [*self.matrix.ravel().tolist(), *self.inside, *self.rect, *self.window]


def finished_row(plan: SamplePlan) -> TileRow:
    """The row that shows a finished sample."""
    everything = (0, 0, plan.width, plan.height)
    key = PixelKey(plan.tiles[0].index, 1, finished=plan)
    return TileRow(key=key, rect=everything, matrix=IDENTITY, window=everything)


def decoded_step(tile: TilePlan, decoded: tuple[int, ...]) -> int:
    """Source px that a decoded px spans, by the decoded image's height and width."""
    return 1 if decoded == (tile.height, tile.width) else tile.reduce


def visible_window(tile: TilePlan) -> PixelRect | None:
    """The part of the output round what shows of a tile; None if nothing does."""
    window = tile.window
    if tile.crop is None:
        window = overlap(bounds(tile.source_rect, np.array([*tile.matrix, tile.depth])), window)
    return None if window[0] >= window[2] or window[1] >= window[3] else window


def make_row(
    tile: TilePlan, window: PixelRect, decoded: tuple[int, ...], min_scale: float
) -> TileRow:
    """The row of a tile.

    Args:
        tile: Planned.
        window: Its `visible_window`.
        decoded: Height and width in px of its image as it comes from the decoder.
        min_scale: Output px to a decoded px below which pixels are averaged first.
    """
    if tile.crop is not None:
        return _resized(tile, tile.crop, decoded_step(tile, decoded), min_scale)
    return _warped(tile, window, decoded, min_scale)


def _resized(tile: TilePlan, crop: PixelRect, step: int, min_scale: float) -> TileRow:
    """Whole pixels fill the window; see `augment._resize_tile`."""
    key = PixelKey(tile.index, tile.reduce)
    left, top, right, bottom = part = _divided(crop, step)
    x1, y1, x2, y2 = tile.window
    width, height = x2 - x1, y2 - y1
    if width * height < min_scale**2 * (right - left) * (bottom - top):
        key = key._replace(crop=part, size=(height, width))
        left, top, right, bottom = part = (0, 0, width, height)
    across, down = (right - left) / width, (bottom - top) / height
    x = (-across, right + across * x1) if tile.matrix[0][0] < 0 else (across, left - across * x1)
    y = (-down, bottom + down * y1) if tile.matrix[1][1] < 0 else (down, top - down * y1)
    matrix = np.array([[x[0], 0, x[1] - 0.5], [0, y[0], y[1] - 0.5], [0, 0, 1]])
    return TileRow(key=key, rect=part, matrix=matrix, window=tile.window)


def _divided(rect: PixelRect, step: int) -> PixelRect:
    x1, y1, x2, y2 = rect
    return x1 // step, y1 // step, x2 // step, y2 // step


def _warped(
    tile: TilePlan, window: PixelRect, decoded: tuple[int, ...], min_scale: float
) -> TileRow:
    """Pixels between pixels; see `augment._warp_tile`."""
    to_output = np.array([*tile.matrix, tile.depth])
    key = PixelKey(tile.index, tile.reduce)
    step = decoded_step(tile, decoded)
    height, width = decoded
    scale = middle_scale(tile, to_output) * step
    if scale < min_scale:
        size = (max(round(height * scale), 1), max(round(width * scale), 1))
        key = key._replace(size=size)
    else:
        size = (height, width)
    step_x, step_y = step * width / size[1], step * height / size[0]
    to_pixel = np.array([[1 / step_x, 0, -0.5], [0, 1 / step_y, -0.5], [0, 0, 1]])
    matrix = to_pixel @ np.linalg.inv(to_output)
    x1, y1, x2, y2 = tile.source_rect
    inside = (x1 / step_x - 0.5, y1 / step_y - 0.5, x2 / step_x - 0.5, y2 / step_y - 0.5)
    is_upright = to_output[0, 1] == to_output[1, 0] == 0 and not tile.has_perspective
    return TileRow(
        key=key,
        rect=_read_part(tile, matrix, inside, window, size),
        matrix=matrix,
        inside=EVERYWHERE if is_upright else inside,
        window=window,
    )


def _read_part(
    tile: TilePlan,
    matrix: NDArray[np.float64],
    inside: Rect,
    window: PixelRect,
    size: tuple[int, int],
) -> PixelRect:
    """The pixels, of `size`, that may be read: those of the window's corners and between."""
    low, high = np.array(inside[:2]), np.array(inside[2:])
    if not tile.has_perspective:  # else a corner of the window may lie beyond the horizon
        x1, y1, x2, y2 = window
        corners = matrix[:2] @ np.array([[x1, x2, x1, x2], [y1, y1, y2, y2], [1, 1, 1, 1]])
        low, high = np.maximum(low, corners.min(axis=1)), np.minimum(high, corners.max(axis=1))
    last = np.array([size[1], size[0]]) - 1
    first = np.clip(np.floor(low), 0, last).astype(int).tolist()
    end = (np.clip(np.ceil(high), first, last) + 1).astype(int).tolist()
    return first[0], first[1], end[0], end[1]


def spread(
    parts: Iterable[tuple[PixelKey, PixelRect]],
) -> tuple[int, dict[PixelKey, tuple[int, int]]]:
    """Lay parts of images out one after the other.

    Returns:
        How many pixels they take, and per key where pixel (0, 0) of the whole image would lie, and
        the pixels of a row.
    """
    places, used, widest = {}, 0, 1  # of no part, pixels 0 and 1 are read where nothing shows
    for key, (x1, y1, x2, y2) in parts:
        width = x2 - x1
        places[key] = (used - y1 * width - x1, width)
        used += width * (y2 - y1)
        widest = max(widest, width)
    # Interpolation on the last pixel reads, with no weight, what lies right of it and below.
    return used + widest + 1, places
