"""What the loader's threads do where a device draws: plan, fetch, decode, and pack a batch's numbers.

A `Batch` of this kind is a dict of tensors that `augment.draw_batch` turns into images: one flat
buffer of the pixels that show, each once, and tables that say how they are read.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainjobs.data.augmentation.augment import MIN_BILINEAR_SCALE, execute
from trainjobs.data.augmentation.color import hue_rotation
from trainjobs.data.augmentation.placement import place_labels
from trainjobs.data.augmentation.sample_plan import (
    ColorPlan,
    ImageSource,
    PixelRect,
    SamplePlan,
    TilePlan,
)
from trainjobs.data.device.nvjpeg import DeviceJpegs, EncodedJpeg
from trainjobs.data.device.tile_rows import (
    NUM_COLUMNS,
    PixelKey,
    TileRow,
    finished_row,
    make_row,
    spread,
    visible_window,
)
from trainjobs.data.images import RgbImage
from trainjobs.task import Batch

GRAY_WEIGHTS = (0.299, 0.587, 0.114)
"""Of red, green and blue in a gray. Source: ITU-R BT.601, as in OpenCV."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PreparedSample:
    """A planned sample with the pixels that it needs."""

    plan: SamplePlan
    """Without what is done already."""
    rows: list[TileRow]
    mixed_rows: list[TileRow]
    labels: NDArray[np.float32]
    """(n, 5) [class, cx, cy, w, h] normalized."""
    pixels: dict[PixelKey, RgbImage] = field(default_factory=dict)
    """By the rows' keys."""
    jpegs: dict[PixelKey, EncodedJpeg] = field(default_factory=dict)
    """Likewise, of what is left to the device to decode."""


def prepare_sample(
    plan: SamplePlan, source: ImageSource, jpegs: DeviceJpegs | None = None
) -> PreparedSample:
    """Decode what a sample needs, and put its tiles into numbers.

    Samples that are blurred or equalized need all of their neighbors, or of their histogram, and
    pastes need masks: they are made here, by `augment.execute`.

    Args:
        plan: Of the sample.
        source: Of images and labels.
        jpegs: Decodes on the device what it can. None: all is decoded here.

    Raises:
        DatasetError: A source image is gone or damaged; names it.
    """
    if plan.color.blur_px or plan.color.clahe_limit or plan.pastes:
        image, labels = execute(plan, source)
        row = finished_row(plan)
        bare = SamplePlan(height=plan.height, width=plan.width, tiles=())
        pixels: dict[PixelKey, RgbImage] = {row.key: image}
        return PreparedSample(plan=bare, rows=[row], mixed_rows=[], labels=labels, pixels=pixels)
    sample = PreparedSample(plan=plan, rows=[], mixed_rows=[], labels=place_labels(plan, source))
    min_scale = MIN_BILINEAR_SCALE if plan.is_augmented else 1.0
    for tile in plan.tiles:
        sample.rows.extend(_provide(sample, tile, min_scale, source, jpegs))
    for tile in plan.mixed.tiles if plan.mixed else ():
        sample.mixed_rows.extend(_provide(sample, tile, min_scale, source, jpegs))
    return sample


def _provide(
    sample: PreparedSample,
    tile: TilePlan,
    min_scale: float,
    source: ImageSource,
    jpegs: DeviceJpegs | None,
) -> list[TileRow]:
    """A tile's row, for which the sample gets the pixels; none if nothing of it shows."""
    window = visible_window(tile)
    if window is None:
        return []
    encoded = jpegs.find(tile) if jpegs else None
    if encoded:
        row = make_row(tile, window, encoded.decoded, min_scale)
        sample.jpegs[row.key] = encoded
        return [row]
    pixels = source.read_image(tile.index, tile.reduce)
    row = make_row(tile, window, pixels.shape[:2], min_scale)
    if row.key not in sample.pixels:
        sample.pixels[row.key] = _averaged(pixels, row.key)
    return [row]


def _averaged(pixels: RgbImage, key: PixelKey) -> RgbImage:
    if key.size is None:
        return pixels
    x1, y1, x2, y2 = key.crop or (0, 0, pixels.shape[1], pixels.shape[0])
    height, width = key.size
    small = cv2.resize(pixels[y1:y2, x1:x2], (width, height), interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.uint8)


def pack_batch(
    samples: Sequence[PreparedSample],
    *,
    jpegs: DeviceJpegs | None = None,
) -> Batch:
    """Samples of one shape -> the tensors that `augment.draw_batch` draws them from.

    Args:
        samples: Prepared.
        jpegs: That they were prepared with; decodes what was left to it.

    Returns:
        `pixels` (P, 3) uint8 and, with `jpegs`, `decoded` (D, 3) uint8 on the device, which follows
        them; per sample `tiles` (B, K, 21) and `places` (B, K, 2) [first pixel, pixels a row], see
        `tile_rows`, `colors` (B, 11) [matrix, gains of saturation and value] and `holes`
        (B, J, 4); `mixed` (M,) sample, `mixed_share`, `mixed_tiles` and `mixed_places` of those that
        are mixed; `columns` (W,) and `rows` (H,), the centers of output pixels; `targets` (N, 6).
    """
    parts = _shared_parts(samples)
    pixels, places = _pack_pixels(samples, parts)
    batch = {"pixels": pixels}
    encoded = {key: part for sample in samples for key, part in sample.jpegs.items()}
    if jpegs and encoded:
        batch["decoded"], more = jpegs.decode({key: (encoded[key], parts[key]) for key in encoded})
        places |= {key: (first + len(pixels), stride) for key, (first, stride) in more.items()}
    tables = {
        "columns": torch.arange(samples[0].plan.width) + 0.5,
        "rows": torch.arange(samples[0].plan.height) + 0.5,
        "colors": torch.tensor([_color_row(sample.plan.color) for sample in samples]),
        "targets": _targets([sample.labels for sample in samples]),
    }
    tables["tiles"], tables["places"] = _tables([sample.rows for sample in samples], places)
    if any(sample.plan.holes for sample in samples):
        tables["holes"] = _padded([sample.plan.holes for sample in samples])
    mixed = [number for number, sample in enumerate(samples) if sample.plan.mixed]
    if mixed:
        rows = [samples[number].mixed_rows for number in mixed]
        tables["mixed_tiles"], tables["mixed_places"] = _tables(rows, places)
        tables["mixed_share"] = torch.tensor([samples[n].plan.mixed_share for n in mixed])
        tables["mixed"] = torch.tensor(mixed)
    return batch | tables


def _shared_parts(samples: Sequence[PreparedSample]) -> dict[PixelKey, PixelRect]:
    """Per key the part that holds all that is read of it."""
    parts: dict[PixelKey, PixelRect] = {}
    for sample in samples:
        for row in sample.rows + sample.mixed_rows:
            x1, y1, x2, y2 = parts.get(row.key, row.rect)
            left, top, right, bottom = row.rect
            parts[row.key] = (min(x1, left), min(y1, top), max(x2, right), max(y2, bottom))
    return parts


def _pack_pixels(
    samples: Sequence[PreparedSample], parts: dict[PixelKey, PixelRect]
) -> tuple[Tensor, dict[PixelKey, tuple[int, int]]]:
    images = {key: image for sample in samples for key, image in sample.pixels.items()}
    used, places = spread((key, parts[key]) for key in images)
    buffer = np.zeros((used, 3), np.uint8)
    start = 0
    for key, image in images.items():
        x1, y1, x2, y2 = parts[key]
        end = start + (y2 - y1) * (x2 - x1)
        buffer[start:end].reshape(y2 - y1, x2 - x1, 3)[:] = image[y1:y2, x1:x2]
        start = end
    return torch.from_numpy(buffer), places


def _tables(
    rows: list[list[TileRow]], places: dict[PixelKey, tuple[int, int]]
) -> tuple[Tensor, Tensor]:
    """Rows of tiles, and where their pixels lie; what is missing to K tiles shows nowhere."""
    count = max(1, *map(len, rows), 1)
    numbers = np.zeros((len(rows), count, NUM_COLUMNS), np.float32)
    where = np.zeros((len(rows), count, 2), np.int64)
    for sample, found in enumerate(rows):
        for slot, row in enumerate(found):
            numbers[sample, slot] = row.numbers()
            where[sample, slot] = places[row.key]
    return torch.from_numpy(numbers), torch.from_numpy(where)


def _color_row(color: ColorPlan) -> list[float]:
    hue, saturation, value = color.hsv_gains
    # Turned about the gray axis, gray stays.
    matrix = np.array([GRAY_WEIGHTS] * 3) if color.is_gray else hue_rotation(hue)
    return [*matrix.ravel().tolist(), saturation, value]


def _padded(holes: list[tuple[PixelRect, ...]]) -> Tensor:
    """(B, J, 4) with holes of no area where there are fewer."""
    table = np.zeros((len(holes), max(map(len, holes)), 4), np.float32)
    for sample, found in enumerate(holes):
        table[sample, : len(found)] = np.array(found).reshape(-1, 4)
    return torch.from_numpy(table)


def _targets(labels: list[NDArray[np.float32]]) -> Tensor:
    """Rows (N, 6) [image in batch, class, cx, cy, w, h]."""
    numbers = np.repeat(np.arange(len(labels), dtype=np.float32), [len(found) for found in labels])
    return torch.from_numpy(np.column_stack([numbers, np.concatenate(labels)]))
