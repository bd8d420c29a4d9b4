"""One random projection of a canvas: rotation, zoom, shear, shift, perspective and flips."""

import math
from collections.abc import Callable

from trainjobs.config import AugmentConfig
from trainjobs.data.augmentation.sample_plan import Matrix

Draw = Callable[[], float]
"""The next random number in [0, 1)."""
Row = tuple[float, float, float]
Projection = tuple[Row, Row, Row]
"""Homogeneous map (3, 3) of (x, y, 1)."""

NEAREST = 0.1
"""Least depth of a canvas corner, its middle being at 1: perspective is cut so that nothing comes
near the horizon."""


def uniform(draw: Draw, low: float, high: float) -> float:
    """A number in [low, high)."""
    return low + (high - low) * draw()


def random_warp(
    draw: Draw, canvas: tuple[int, int], output: tuple[int, int], config: AugmentConfig
) -> Projection:
    """Map from the canvas to the output, both by their height and width.

    About the canvas' middle: perspective, then rotation and zoom, then shear; then its middle is
    shifted to near the output's, and the output is flipped.
    """
    angle = math.radians(uniform(draw, -config.degrees, config.degrees))
    zoom = uniform(draw, 1 - config.scale, 1 + config.scale)
    shear_x, shear_y = (
        math.tan(math.radians(uniform(draw, -config.shear, config.shear))) for _ in range(2)
    )
    low, high = 0.5 - config.translate, 0.5 + config.translate
    height, width = output
    shift_x, shift_y = (side * uniform(draw, low, high) for side in (width, height))
    flip_x, flip_y = draw() < config.flip_horizontal, draw() < config.flip_vertical
    tilt_x, tilt_y = (uniform(draw, -config.perspective, config.perspective) for _ in range(2))

    middle_y, middle_x = middle = canvas[0] / 2, canvas[1] / 2
    nearest = 1 - (abs(tilt_x) * middle_x + abs(tilt_y) * middle_y)
    if nearest < NEAREST:
        tilt_x, tilt_y = (tilt * (1 - NEAREST) / (1 - nearest) for tilt in (tilt_x, tilt_y))
    cos, sin = zoom * math.cos(angle), zoom * math.sin(angle)
    depth = (tilt_x, tilt_y, 1 - (tilt_x * middle_x + tilt_y * middle_y))
    x = _row((cos - shear_x * sin, sin + shear_x * cos), middle, shift_x, depth)
    y = _row((shear_y * cos - sin, shear_y * sin + cos), middle, shift_y, depth)
    if flip_x:
        x = _mirror(x, width, depth)
    if flip_y:
        y = _mirror(y, height, depth)
    return x, y, depth


def _row(linear: tuple[float, float], middle: tuple[float, float], shift: float, depth: Row) -> Row:
    """linear (point - middle) + shift depth, as factors of (x, y, 1)."""
    along_x, along_y = linear
    offset = -(along_x * middle[1] + along_y * middle[0]) + shift * depth[2]
    return along_x + shift * depth[0], along_y + shift * depth[1], offset


def _mirror(row: Row, side: float, depth: Row) -> Row:
    x, y, one = (side * far - near for near, far in zip(row, depth, strict=True))
    return x, y, one


def compose(warp: Projection, scale: float, left: float, top: float) -> tuple[Matrix, Row]:
    """The warp of an image placed on the canvas: matrix and depth of a `TilePlan`."""
    x, y, depth = ((a * scale, b * scale, a * left + b * top + c) for a, b, c in warp)
    return (x, y), depth
