"""The generated dataset: colored shapes on textured backgrounds, in YOLO layout.

It needs no download, and it is learnable only by shape: color, size and background are drawn
without looking at the class.
"""

import math
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from trainjobs.data.generated.textures import draw_background, make_noise, pick_color
from trainjobs.data.images import RgbImage

SHAPE_NAMES = ("circle", "square", "triangle", "star")
SHAPES_VERSION = 1
"""Changes with whatever changes the pictures; part of the name under which they are cached."""

NUM_OBJECTS = (3, 12)
"""Fewest and most objects of an image."""
SIDE_FRACTIONS = (0.06, 0.22, 0.5)
"""Smallest, most frequent and largest longest side of an object, over the image's side."""
MIN_VISIBLE = 0.55
"""Share of each object's pixels that later objects leave uncovered."""

MAX_TILT_RAD = math.radians(30)
MAX_PLACEMENTS = 200  # tries to place an image's objects; far more than an image was seen to need
JPEG_QUALITY = 92
SUBPIXEL_BITS = 4  # OpenCV draws at 1/16 px
_STREAMS = {"train": 1, "val": 2}  # so that the splits share no random number


def generate_shapes(
    folder: Path, *, num_train: int, num_val: int, image_size: int, seed: int
) -> None:
    """Write the dataset: images/{train,val}, labels/{train,val} and data.yaml.

    The same arguments give the same bytes.

    Args:
        folder: An existing, empty folder.
        num_train: Training images.
        num_val: Validation images.
        image_size: Side of the square images in px.
        seed: Of everything drawn.
    """
    names = "".join(f"  {class_id}: {name}\n" for class_id, name in enumerate(SHAPE_NAMES))
    yaml = f"path: .\ntrain: images/train\nval: images/val\nnames:\n{names}"
    (folder / "data.yaml").write_text(yaml, encoding="utf-8")
    noise = make_noise(np.random.Generator(np.random.Philox(key=[seed, 0])), image_size)
    for split, count in (("train", num_train), ("val", num_val)):
        images, labels = folder / "images" / split, folder / "labels" / split
        images.mkdir(parents=True)
        labels.mkdir(parents=True)
        for number in range(count):
            key, counter = [seed, _STREAMS[split]], [0, 0, 0, number]
            rng = np.random.Generator(np.random.Philox(key=key, counter=counter))
            image, rows = _draw_scene(rng, image_size, noise)
            jpeg = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
            (images / f"{number:06d}.jpg").write_bytes(jpeg[1].tobytes())
            (labels / f"{number:06d}.txt").write_text("".join(rows), encoding="utf-8")


def _draw_scene(
    rng: np.random.Generator, image_size: int, noise: NDArray[np.int16]
) -> tuple[RgbImage, list[str]]:
    """One image and its label rows."""
    image, background = draw_background(rng, image_size, noise)
    wanted = int(rng.integers(NUM_OBJECTS[0], NUM_OBJECTS[1] + 1))
    owners = np.zeros((image_size, image_size), np.uint8)  # which object shows at a pixel, from 1
    areas, visible = np.zeros((2, wanted + 1), np.int64)
    rows: list[str] = []
    for _ in range(MAX_PLACEMENTS):
        if len(rows) == wanted:
            break
        class_id = int(rng.integers(len(SHAPE_NAMES)))
        outline, thickness = _place_outline(rng, class_id, image_size)
        if _claim(owners, areas, visible, outline, number=len(rows) + 1):
            _draw_object(image, outline, thickness, pick_color(rng, background))
            low = (outline.min(axis=0) - thickness / 2).clip(0) / image_size
            high = (outline.max(axis=0) + thickness / 2).clip(max=image_size) / image_size
            places = (*(low + high) / 2, *(high - low))
            rows.append(f"{class_id} " + " ".join(f"{place:.6f}" for place in places) + "\n")
    return image, rows


def _place_outline(
    rng: np.random.Generator, class_id: int, image_size: int
) -> tuple[NDArray[np.float64], int]:
    """Corners (P, 2) in px of a shape somewhere in the image, and the width of its line in px."""
    smallest, usual, largest = np.log(SIDE_FRACTIONS)
    side = image_size * math.exp(rng.triangular(smallest, usual, largest))
    thickness = max(round(side * 0.05), 1)
    outline = _unit_outline(SHAPE_NAMES[class_id], rng.uniform(-MAX_TILT_RAD, MAX_TILT_RAD))
    outline *= side - thickness
    reach = np.abs(outline).max(axis=0) + thickness / 2
    outline += rng.uniform(reach, image_size - reach)
    return outline, thickness


def _unit_outline(name: str, tilt_rad: float) -> NDArray[np.float64]:
    """Corners (P, 2) of a tilted shape whose box is centered on 0 and has a longest side of 1."""
    corners, inner_radius = {
        "circle": (48, 1.0),
        "square": (4, 1.0),
        "triangle": (3, 1.0),
        "star": (10, 0.45),
    }[name]
    start = tilt_rad - math.pi / (4 if name == "square" else 2)
    angles = start + np.arange(corners) * 2 * math.pi / corners
    outline = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    outline[1::2] *= inner_radius
    low, high = outline.min(axis=0), outline.max(axis=0)
    unit: NDArray[np.float64] = (outline - (low + high) / 2) / (high - low).max()
    return unit


def _claim(
    owners: NDArray[np.uint8],
    areas: NDArray[np.int64],
    visible: NDArray[np.int64],
    outline: NDArray[np.float64],
    number: int,
) -> bool:
    """Take an outline's pixels for an object, unless that hides too much of an earlier one.

    Args:
        owners: (S, S), updated.
        areas: Pixels of each object by its number, updated.
        visible: Those that no later object covers, updated.
        outline: (P, 2) in px.
        number: Of the new object, counted from 1.
    """
    x1, y1 = np.floor(outline.min(axis=0)).astype(int).clip(0)
    x2, y2 = np.ceil(outline.max(axis=0)).astype(int) + 1
    window = owners[y1:y2, x1:x2]
    mask = np.zeros(window.shape, np.uint8)
    cv2.fillPoly(mask, [(outline - (x1, y1)).round().astype(np.int32)], 1)
    covered = mask.astype(bool)
    left = visible - np.bincount(window[covered], minlength=len(visible))
    if (left[1:number] < MIN_VISIBLE * areas[1:number]).any():
        return False
    window[covered] = number
    left[number] = areas[number] = covered.sum()
    visible[:] = left
    return True


def _draw_object(
    image: RgbImage, outline: NDArray[np.float64], thickness: int, color: NDArray[np.float64]
) -> None:
    """Fill and outline, in place; the line is dark round light colors and light round dark ones."""
    points = [(outline * 2**SUBPIXEL_BITS).round().astype(np.int32)]
    line = color * 0.3 if color.mean() > 90 else 255 - (255 - color) * 0.4
    fill_rgb, line_rgb = color.tolist(), line.tolist()
    cv2.fillPoly(image, points, fill_rgb, cv2.LINE_AA, SUBPIXEL_BITS)
    cv2.polylines(image, points, True, line_rgb, thickness, cv2.LINE_AA, SUBPIXEL_BITS)
