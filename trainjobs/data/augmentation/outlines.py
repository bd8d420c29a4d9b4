"""Outlines of objects put through a tile: the bounds, and the shape, of what shows of them.

What shows of a tile is where eight half planes meet: inside of its part of the source, and inside of
its window. All eight are straight in source px, with and without perspective, so outlines are cut
there and only then mapped.
"""

import numpy as np
from numpy.typing import NDArray

from trainjobs.data.augmentation.sample_plan import TilePlan

Floats = NDArray[np.float64]
Points = list[tuple[float, float]]

SLACK_PX = 1e-6
"""An outline that reaches no further out of what shows is not cut: rounding does as much."""


def visible_bounds(
    tile: TilePlan, points_norm: NDArray[np.float32], counts: NDArray[np.int32]
) -> tuple[Floats, Floats]:
    """Upright boxes, in output px, round what shows of outlines.

    A line that an outline runs along both ways, such as a bridge between its parts, has no width
    and does not show.

    Args:
        tile: Where the image goes.
        points_norm: (m, 2), as fractions of the image, of all outlines, one after the other.
        counts: (n,) points of each outline, none of them 0.

    Returns:
        Left top corners (2, n) and right bottom ones; both 0 where nothing shows.
    """
    points = _to_source_px(tile, points_norm)
    starts = np.cumsum(counts) - counts
    sides = _half_planes(tile) @ points  # (8, m), not negative: inside
    is_cut = np.minimum.reduceat(sides.min(axis=0), starts) < -SLACK_PX
    low, high = np.empty((2, 2, len(counts)))
    if not is_cut.all():
        mapped = _to_output(tile, points if not is_cut.any() else points[:, ~is_cut.repeat(counts)])
        whole = counts[~is_cut]
        starts = np.cumsum(whole) - whole
        low[:, ~is_cut] = np.minimum.reduceat(mapped, starts, axis=1)
        high[:, ~is_cut] = np.maximum.reduceat(mapped, starts, axis=1)
    if is_cut.any():
        of_cut = is_cut.repeat(counts)
        low[:, is_cut], high[:, is_cut] = _cut_bounds(
            tile, points[:, of_cut], sides[:, of_cut], counts[is_cut]
        )
    return low, high


def visible_outline(tile: TilePlan, points_norm: NDArray[np.float32]) -> Points:
    """The corners, in output px, of what shows of one outline (m, 2); [] if nothing does.

    Parts that are cut off from each other stay connected, by lines that are run along both ways.
    """
    points = _to_source_px(tile, points_norm)[:2].T.tolist()
    clipped = _clip([(x, y) for x, y in points], _half_planes(tile))
    if not clipped:
        return []
    return [(x, y) for x, y in _to_output(tile, _homogeneous(clipped)).T.tolist()]


def _to_source_px(tile: TilePlan, points_norm: NDArray[np.float32]) -> Floats:
    """(3, m) homogeneous."""
    points = np.ones((3, len(points_norm)))
    np.multiply(points_norm.T, [[tile.width], [tile.height]], out=points[:2])
    return points


def _homogeneous(points: Points) -> Floats:
    return np.array([(x, y, 1.0) for x, y in points]).T


def _to_output(tile: TilePlan, points: Floats) -> Floats:
    """(3, ...) source px to (2, ...) output px; for points before the camera."""
    mapped = np.tensordot(np.array(tile.matrix), points, axes=1)
    if tile.has_perspective:
        mapped /= np.tensordot(np.array(tile.depth), points, axes=1)
    return mapped


def _half_planes(tile: TilePlan) -> Floats:
    """(8, 3) factors of (x, y, 1) in source px, whose sums are nowhere negative in what shows."""
    left, top, right, bottom = tile.source_rect
    x1, y1, x2, y2 = tile.window
    x, y, depth = np.array([*tile.matrix, tile.depth])
    source = [[1, 0, -left], [-1, 0, right], [0, 1, -top], [0, -1, bottom]]
    return np.array([*source, x - x1 * depth, x2 * depth - x, y - y1 * depth, y2 * depth - y])


def _cut_bounds(
    tile: TilePlan, points: Floats, sides: Floats, counts: NDArray[np.int32]
) -> tuple[Floats, Floats]:
    """Bounds of what shows of outlines: of their edges' visible parts and of visible corners in them.

    Exact for any outline. The corners that cutting a polygon by one half plane after the other
    (Sutherland and Hodgman 1974) leaves on cut edges between parts would not be.

    Source: Liang and Barsky 1984, "A New Concept and Method for Line Clipping".
    """
    starts = np.cumsum(counts) - counts
    following = np.arange(1, points.shape[1] + 1)
    following[starts + counts - 1] = starts
    ends, end_sides = points[:, following], sides[:, following]
    enters, leaves = sides < 0, end_sides < 0
    # Where along an edge (0 to 1) it crosses each line, if it does.
    crossing = sides / np.where(enters != leaves, sides - end_sides, 1.0)
    first = np.where(enters, crossing, 0.0).max(axis=0)
    last = np.where(leaves, crossing, 1.0).min(axis=0)
    shows = (first <= last) & ~(enters & leaves).any(axis=0)
    shows &= ~_is_run_back(points, ends, np.arange(len(counts)).repeat(counts))
    parts = np.stack([points + first * (ends - points), points + last * (ends - points)], axis=1)
    mapped = _to_output(tile, np.where(shows, parts, points[:, None, :1] * 0 + 1))
    low = np.minimum.reduceat(np.where(shows, mapped.min(axis=1), np.inf), starts, axis=1)
    high = np.maximum.reduceat(np.where(shows, mapped.max(axis=1), -np.inf), starts, axis=1)

    corners = _visible_corners(tile)
    if corners:
        inside = _is_inside(_homogeneous(corners), points, ends, starts)  # (corners, n)
        x_y = _to_output(tile, _homogeneous(corners))[..., None]
        low = np.minimum(low, np.where(inside, x_y, np.inf).min(axis=1))
        high = np.maximum(high, np.where(inside, x_y, -np.inf).max(axis=1))
    is_empty = low > high
    return np.where(is_empty, 0.0, low), np.where(is_empty, 0.0, high)


def _is_run_back(points: Floats, ends: Floats, owner: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which edges (m,) their own outline runs along the other way, too."""
    middles = points + ends  # the same for both ways, to the last bit
    order = np.lexsort((middles[0], middles[1], owner))
    one, other = order[:-1], order[1:]
    is_pair = (owner[one] == owner[other]) & (points[:, one] == ends[:, other]).all(axis=0)
    is_pair &= (ends[:, one] == points[:, other]).all(axis=0)
    found = np.zeros(len(owner), np.bool_)
    found[one[is_pair]] = found[other[is_pair]] = True
    return found


def _visible_corners(tile: TilePlan) -> Points:
    """The corners, in source px, of what shows of a tile: up to eight."""
    left, top, right, bottom = tile.source_rect
    rect = [(left, top), (right, top), (right, bottom), (left, bottom)]
    return _clip(rect, _half_planes(tile)[4:])


def _clip(corners: Points, half_planes: Floats) -> Points:
    """What is left of a polygon inside of half planes.

    Source: Sutherland and Hodgman 1974, "Reentrant Polygon Clipping".
    """
    for a, b, c in half_planes.tolist():
        sides = [a * x + b * y + c for x, y in corners]
        clipped = []
        for number, (x, y) in enumerate(corners):
            (last_x, last_y), last_side, side = (
                corners[number - 1],
                sides[number - 1],
                sides[number],
            )
            if (side < 0) != (last_side < 0):
                share = last_side / (last_side - side)
                clipped.append((last_x + share * (x - last_x), last_y + share * (y - last_y)))
            if side >= 0:
                clipped.append((x, y))
        corners = clipped
    return corners


def _is_inside(
    corners: Floats, points: Floats, ends: Floats, starts: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Which corners (3, c) lie in which outlines, by the even-odd rule: (c, n)."""
    x, y = corners[0][:, None], corners[1][:, None]
    crosses = (points[1] > y) != (ends[1] > y)
    slope = (ends[0] - points[0]) / np.where(ends[1] == points[1], 1.0, ends[1] - points[1])
    is_right = points[0] + slope * (y - points[1]) > x
    crossings = np.add.reduceat(crosses & is_right, starts, axis=1, dtype=np.int64)
    odd: NDArray[np.bool_] = crossings % 2 == 1
    return odd
