"""Training batches of decoded images: shifted, mirrored and cut out where the model is, all at once.

What happens to an image is keyed by (seed, epoch, position in the order), as in `mosaic.py`, and drawn
for a whole batch: with thousands of thumbnails a second, numbers drawn one by one would take longer
than the network. Shifts are of whole px, and what they uncover mirrors the image's edge.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainjobs.config import AugmentConfig
from trainjobs.data.augmentation.augment import FILL
from trainjobs.data.device.decoded_split import DecodedSplit
from trainjobs.data.ordering.permutation import Bits, derive_key, derive_keys
from trainjobs.data.ordering.sampler import SampleRef
from trainjobs.task import Batch

DECODED = ("translate", "flip_horizontal", "alternate_flip", "cutout")
"""The changes that can be made here."""
HOLE_SIDE = 3 / 8
"""Of a cutout, over the image's. Source: Jordan 2024 (arXiv:2404.00498): 12 px of 32."""
SHIFT_STREAM, HOLE_STREAM, FLIP_STREAM = 0x53484654, 0x484F4C45, 0x464C4950
"""Keep the uses of a seed apart."""
_DRAW_BITS = 16


@dataclass(frozen=True, slots=True)
class Crops:
    """What is done to each image of a batch; all (B,) int64."""

    down: NDArray[np.int64]
    """Px by which the part that shows lies below the image's own place."""
    right: NDArray[np.int64]
    flip: NDArray[np.int64]
    """1: mirrored."""
    hole_top: NDArray[np.int64]
    """First row of the square that is painted over; the image's height if there is none."""
    hole_left: NDArray[np.int64]


def plan_crops(
    refs: list[SampleRef], augment: AugmentConfig, *, image_size: int, seed: int
) -> Crops:
    """Draw the changes to the images of a micro-batch, which are all of one epoch."""
    epoch = refs[0].epoch
    positions = np.array([ref.position for ref in refs])
    down, right, flip, cut = _draws(derive_keys(derive_key(seed, epoch, SHIFT_STREAM), positions))
    top, left, *_ = _draws(derive_keys(derive_key(seed, epoch, HOLE_STREAM), positions))
    reach = round(augment.translate * image_size)
    if augment.alternate_flip:
        images = np.array([ref.image for ref in refs])
        starts = derive_keys(derive_key(seed, 0, FLIP_STREAM), images)
        flips = (starts.astype(np.int64) ^ epoch) & 1
    else:
        flips = (flip < augment.flip_horizontal).astype(np.int64)
    # A hole's middle may be anywhere, so that its corners lie outside at times.
    half = round(HOLE_SIDE * image_size) // 2
    has_hole = cut < augment.cutout
    return Crops(
        down=_below(2 * reach + 1, down) - reach,
        right=_below(2 * reach + 1, right) - reach,
        flip=flips,
        hole_top=np.where(has_hole, _below(image_size, top) - half, image_size),
        hole_left=np.where(has_hole, _below(image_size, left) - half, image_size),
    )


def _draws(bits: Bits) -> list[NDArray[np.float64]]:
    """Four numbers in [0, 1) of 64 bits."""
    low = np.uint64(2**_DRAW_BITS - 1)
    parts = [bits >> np.uint64(shift) & low for shift in range(0, 64, _DRAW_BITS)]
    return [part.astype(np.float64) / 2**_DRAW_BITS for part in parts]


def _below(limit: int, draws: NDArray[np.float64]) -> NDArray[np.int64]:
    return (draws * limit).astype(np.int64)


class DecodedBatches:
    """A rank's micro-batches, made on its device when they are asked for."""

    def __init__(
        self,
        decoded: DecodedSplit,
        batches: Iterable[list[SampleRef]],
        augment: AugmentConfig,
        *,
        seed: int,
    ) -> None:
        self._decoded, self._batches = decoded, batches
        self._augment, self._seed = augment, seed

    def __iter__(self) -> Iterator[Batch]:
        """Yield `images` (B, 3, S, S) uint8 and `targets` (B, 6), whose boxes are the whole image."""
        size, device = self._decoded.images.shape[1], self._decoded.images.device
        for refs in self._batches:
            crops = plan_crops(refs, self._augment, image_size=size, seed=self._seed)
            images = np.array([ref.image for ref in refs])
            rows = [images, crops.down, crops.right, crops.flip, crops.hole_top, crops.hole_left]
            table = torch.from_numpy(np.stack(rows))
            if device.type == "cuda":  # or the copy would wait for the step before
                table = table.pin_memory().to(device, non_blocking=True)
            yield {
                "images": cut_images(
                    self._decoded.images, table, has_holes=self._augment.cutout > 0
                ),
                "targets": whole_image_targets(self._decoded.classes[table[0]]),
            }


def cut_images(images: Tensor, table: Tensor, *, has_holes: bool) -> Tensor:
    """(B, 3, S, S) uint8, channels last, of (N, S, S, 3) and the columns of `Crops`.

    Args:
        images: All of a split.
        table: (6, B) int64: image, then the fields of `Crops` in their order.
        has_holes: Whether there may be holes at all.
    """
    image, down, right, flip, top, left = table[:, :, None]
    size = images.shape[1]
    place = torch.arange(size, device=images.device)
    rows = _mirrored(place + down, size)  # (B, S)
    columns = _mirrored(torch.where(flip == 1, size - 1 - place, place) + right, size)
    cut = images[image[..., None], rows[:, :, None], columns[:, None]]  # (B, S, S, 3)
    if has_holes:
        side = round(HOLE_SIDE * size)
        down_in = (place >= top) & (place < top + side)
        across_in = (place >= left) & (place < left + side)
        cut.masked_fill_((down_in[:, :, None] & across_in[:, None])[..., None], FILL)
    return cut.permute(0, 3, 1, 2)


def _mirrored(places: Tensor, size: int) -> Tensor:
    """Px outside of an image -> those they mirror, about the px at the edge."""
    places = places.abs()
    return torch.where(places < size, places, 2 * (size - 1) - places)


def whole_image_targets(classes: Tensor) -> Tensor:
    """(B, 6) [image in batch, class, cx, cy, w, h] of images (B,) of one class each."""
    targets = torch.ones(len(classes), 6, device=classes.device)
    targets[:, 0] = torch.arange(len(classes), device=classes.device)
    targets[:, 1] = classes
    targets[:, 2:4] = 0.5
    return targets
