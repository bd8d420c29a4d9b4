"""The generated dataset for classification: one shape on a textured background, in an image folder.

Color, place, size and background are drawn without looking at the class, and so is the angle: only
the outline tells.
"""

import math
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from trainjobs.data.generated.shapes import SUBPIXEL_BITS
from trainjobs.data.generated.textures import draw_background, make_noise, pick_color
from trainjobs.data.images import RgbImage

THUMBNAIL_NAMES = (
    *("arrow", "bar", "crescent", "cross", "disk", "frame", "ring", "square", "star", "triangle"),
)
THUMBNAILS_VERSION = 1
"""Changes with whatever changes the pictures; part of the name under which they are cached."""

SIDE_FRACTIONS = (0.5, 0.9)
"""Smallest and largest diameter of a shape, over the image's side."""
HOLE = 0.55  # of a ring or a frame, over its outer size
_STREAMS = {"train": 1, "val": 2}  # so that the splits share no random number
_CIRCLE = 2 * math.pi * np.arange(48) / 48

Outline = NDArray[np.float64]
"""(P, 2) corners x, y; 1 is the radius of the circle round the shape."""


def generate_thumbnails(
    folder: Path, *, num_train: int, num_val: int, image_size: int, seed: int
) -> None:
    """Write the dataset: {train,val}/<class>/000000.png, each class as often as the others.

    The same arguments give the same bytes.

    Args:
        folder: An existing, empty folder.
        num_train: Training images.
        num_val: Validation images.
        image_size: Side of the square images in px.
        seed: Of everything drawn.
    """
    noise = make_noise(np.random.Generator(np.random.Philox(key=[seed, 0])), image_size)
    for split, count in (("train", num_train), ("val", num_val)):
        for name in THUMBNAIL_NAMES:
            (folder / split / name).mkdir(parents=True)
        for number in range(count):
            key, counter = [seed, _STREAMS[split]], [0, 0, 0, number]
            rng = np.random.Generator(np.random.Philox(key=key, counter=counter))
            name = THUMBNAIL_NAMES[number % len(THUMBNAIL_NAMES)]
            image = _draw_thumbnail(rng, name, image_size, noise)
            png = cv2.imencode(".png", image[..., ::-1])[1]
            (folder / split / name / f"{number:06d}.png").write_bytes(png.tobytes())


def _draw_thumbnail(
    rng: np.random.Generator, name: str, image_size: int, noise: NDArray[np.int16]
) -> RgbImage:
    """One image (S, S, 3)."""
    image, background = draw_background(rng, image_size, noise)
    radius = image_size * rng.uniform(*SIDE_FRACTIONS) / 2
    center = rng.uniform(radius, image_size - radius, 2)
    angle = rng.uniform(0, 2 * math.pi)
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    scale = 2**SUBPIXEL_BITS
    outlines = [outline @ turn * radius + center - 0.5 for outline in _outlines(name)]
    points = [(outline * scale).round().astype(np.int32) for outline in outlines]
    color = pick_color(rng, background).tolist()
    cv2.fillPoly(image, points, color, cv2.LINE_AA, SUBPIXEL_BITS)
    return image


def _outlines(name: str) -> list[Outline]:
    """The outlines of a shape; a second one is a hole in the first."""
    circle = _polar(_CIRCLE, 1)
    square = _polar(math.pi / 4 + math.pi / 2 * np.arange(4), 1)
    return {
        "arrow": [_corners((1, 0), (0.1, 0.8), (0.1, 0.3), (-0.95, 0.3))],
        "bar": [_corners((0.95, 0.3), (-0.95, 0.3))],
        "crescent": [_crescent()],
        "cross": [
            _corners((0.95, 0.3), (0.3, 0.3), (0.3, 0.95), (-0.3, 0.95), (-0.3, 0.3), (-0.95, 0.3))
        ],
        "disk": [circle],
        "frame": [square, square * HOLE],
        "ring": [circle, circle * HOLE],
        "square": [square],
        "star": [_polar(math.pi / 5 * np.arange(10), np.tile([1, 0.4], 5))],
        "triangle": [_polar(2 * math.pi / 3 * np.arange(3), 1)],
    }[name]


def _polar(angles: ArrayLike, radius: ArrayLike) -> Outline:
    directions = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    points: Outline = directions * np.reshape(radius, (-1, 1))
    return points


def _corners(*upper: tuple[float, float]) -> Outline:
    """A shape that is its own mirror image, from its corners above the x axis, from right to left."""
    return np.array([*upper, *((x, -y) for x, y in reversed(upper) if y)], np.float64)


def _crescent() -> Outline:
    """The unit circle less a circle of radius 0.8 round (0.5, 0)."""
    # The circles meet where x = (1 - 0.8^2 + 0.5^2) / (2 * 0.5) = 0.61.
    outer = math.acos(0.61)
    inner = math.acos((0.61 - 0.5) / 0.8)
    out = _polar(np.linspace(outer, 2 * math.pi - outer, 36), 1)
    back = _polar(np.linspace(2 * math.pi - inner, inner, 24), 0.8) + np.array([0.5, 0])
    return np.concatenate([out, back])
