"""Textured backgrounds, and colors that stand out from them, of the generated datasets."""

import colorsys
import math

import cv2
import numpy as np
from numpy.typing import NDArray

from trainjobs.data.images import RgbImage

MIN_COLOR_DISTANCE = 110.0  # of fill and background, in RGB: clear, and not always bright on dark
NOISE_SIGMA = 6.0
MAX_SMOOTH_SIDE_PX = 160  # backgrounds without their grain are drawn at most this large


def make_noise(rng: np.random.Generator, image_size: int) -> NDArray[np.int16]:
    """Grain (2S, 2S, 3) that each image takes a window of: drawing it anew would cost the most."""
    grain = rng.normal(0, NOISE_SIGMA, (2 * image_size, 2 * image_size, 1))
    return grain.round().astype(np.int16).repeat(3, axis=2)


def draw_background(
    rng: np.random.Generator, image_size: int, noise: NDArray[np.int16]
) -> tuple[RgbImage, NDArray[np.float64]]:
    """Blotches of one color at two scales, stripes and grain; and that color (RGB)."""
    color = _random_color(rng)
    side = min(image_size, MAX_SMOOTH_SIDE_PX)
    layer = np.tile(color.astype(np.float32), (side, side, 1))
    for cells in (int(rng.integers(3, 6)), int(rng.integers(8, 16))):
        grid = rng.normal(0, 22, (cells, cells, 1)) + rng.normal(0, 9, (cells, cells, 3))
        layer += cv2.resize(grid.astype(np.float32), (side, side), interpolation=cv2.INTER_CUBIC)
    angle, wavelength = rng.uniform(0, math.pi), side * rng.uniform(0.06, 0.3)
    ramp = np.arange(side, dtype=np.float32) * (2 * math.pi / wavelength)
    phase = (math.cos(angle) * ramp + (math.sin(angle) * ramp)[:, None])[..., None]
    layer += rng.uniform(0, 16) * np.sin(phase, dtype=np.float32)
    smooth = layer.clip(0, 255).astype(np.uint8)
    if side < image_size:
        smooth = np.asarray(cv2.resize(smooth, (image_size, image_size)), np.uint8)
    y, x = rng.integers(0, image_size, 2)
    grain = noise[y : y + image_size, x : x + image_size]
    return np.asarray(cv2.add(smooth, grain, dtype=cv2.CV_8U), np.uint8), color


def _random_color(rng: np.random.Generator) -> NDArray[np.float64]:
    """A color (RGB). Objects and backgrounds have the same ones, or the share of a box that its
    object fills, and so the class, would show in the box's mean color."""
    hsv = rng.random(), rng.random(), rng.uniform(0.15, 1)
    return 255 * np.array(colorsys.hsv_to_rgb(*hsv))


def pick_color(rng: np.random.Generator, background: NDArray[np.float64]) -> NDArray[np.float64]:
    """A color (RGB) that stands out from the background's."""
    while True:
        color = _random_color(rng)
        if np.linalg.norm(color - background) >= MIN_COLOR_DISTANCE:
            return color
