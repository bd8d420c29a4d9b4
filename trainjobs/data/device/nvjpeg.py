"""JPEGs decoded on the device: by nvJPEG on a GPU, all of a batch in one call.

nvJPEG has no reduced decoding. So an image is decoded whole, and averaged down on the device to what the
CPU's decoder would have given; all that reads it is the same then.
"""

import logging
import threading
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from trainjobs.data.augmentation.sample_plan import PixelRect, TilePlan
from trainjobs.data.device.tile_rows import PixelKey, spread
from trainjobs.data.exif import UPRIGHT
from trainjobs.data.images import RgbImage
from trainjobs.data.jpeg_header import read_jpeg_header

logger = logging.getLogger(__name__)

MAX_WHOLE_PX = 2**26
"""Of images that are decoded at a time, which take 3 bytes a px: 200 MB of the device's memory."""

_RGB = 3
"""torchvision.io.ImageReadMode.RGB."""


class EncodedImages(Protocol):
    """Images as they are stored; see `shards.Split`."""

    def encoded(self, index: int) -> memoryview:
        """The bytes of an image's file."""

    def read_image(self, index: int, reduce: int = 1) -> RgbImage:
        """The image, decoded."""


@dataclass(frozen=True, slots=True)
class EncodedJpeg:
    """What is left to the device to decode."""

    data: memoryview
    decoded: tuple[int, int]
    """Height and width in px that the planned reduction leaves."""


class DeviceJpegs:
    """Decodes JPEGs on one device; for any number of threads."""

    def __init__(self, source: EncodedImages, device: torch.device) -> None:
        import torchvision.io  # noqa: F401, PLC0415  has the operators; imports torch._dynamo, 2 s

        self._source, self._device = source, device
        self._refused: set[int] = set()
        """Images that the device's decoder does not know how to decode."""
        self._stream = open_stream(device) if device.type == "cuda" else None
        self._lock = threading.Lock()

    def find(self, tile: TilePlan) -> EncodedJpeg | None:
        """A tile's image if the device can decode it; else (PNG, CMYK, turned by EXIF) None."""
        if tile.index in self._refused:
            return None
        data = self._source.encoded(tile.index)
        header = read_jpeg_header(data)
        if header is None or not header.is_common or header.orientation != UPRIGHT:
            return None
        if (header.height, header.width) != (tile.height, tile.width):
            return None
        return EncodedJpeg(data, (-(-tile.height // tile.reduce), -(-tile.width // tile.reduce)))

    def decode(
        self, wanted: dict[PixelKey, tuple[EncodedJpeg, PixelRect]]
    ) -> tuple[Tensor, dict[PixelKey, tuple[int, int]]]:
        """Parts of images, once they are there: the calling thread waits for the device.

        torchvision decodes on a stream of its own and does not look at what was queued on memory that
        it is given. So that memory comes from a stream that nothing is queued on by then.

        Returns:
            (P, 3) uint8 pixels on the device, and per key what `tile_rows.spread` says.
        """
        if self._device.type == "cuda":
            # A thread starts on GPU 0. Leaving a stream's context, it would go back there, and take
            # half a GiB of that GPU's memory for a context of this process.
            torch.cuda.set_device(self._device)
        used, places = spread((key, part) for key, (_, part) in wanted.items())
        with self._lock, self._on_stream():
            flat = torch.zeros(used, 3, dtype=torch.uint8, device=self._device)
            for keys in _in_groups(wanted):
                whole = self._decode_whole({key.image: wanted[key][0] for key in keys})
                for key in keys:
                    jpeg, (x1, y1, x2, y2) = wanted[key]
                    first, stride = places[key]
                    shown = _averaged(whole[key.image], key, jpeg.decoded)[:, y1:y2, x1:x2]
                    start = first + y1 * stride + x1
                    flat[start : start + (y2 - y1) * stride] = shown.flatten(1).T
                if self._stream is not None:
                    self._stream.synchronize()
        return flat, places

    def _on_stream(self) -> AbstractContextManager[object]:
        return nullcontext() if self._stream is None else torch.cuda.stream(self._stream)

    def _decode_whole(self, jpegs: dict[int, EncodedJpeg]) -> dict[int, Tensor]:
        """(3, H, W) uint8 on the device, by index. What it refuses, the CPU decodes."""
        files = [torch.from_numpy(np.frombuffer(j.data, np.uint8).copy()) for j in jpegs.values()]
        try:
            return dict(zip(jpegs, self._call(files), strict=True))
        except RuntimeError as error:  # which one, it does not say
            if _is_out_of_memory(error):
                raise
            return {n: self._decode_one(n, file) for n, file in zip(jpegs, files, strict=True)}

    def _decode_one(self, index: int, file: Tensor) -> Tensor:
        try:
            return self._call([file])[0]
        except RuntimeError as error:
            if _is_out_of_memory(error):
                raise
            level = logging.DEBUG if self._refused else logging.WARNING
            reason = str(error).splitlines()[0]
            logger.log(level, "%s: image %d is decoded on the CPU: %s", self._device, index, reason)
            self._refused.add(index)
            pixels = torch.from_numpy(self._source.read_image(index))
            return pixels.permute(2, 0, 1).to(self._device)

    def _call(self, files: list[Tensor]) -> list[Tensor]:
        # The operators behind torchvision.io.decode_jpeg, which warns at each call that it is to be
        # replaced by another package. Versions are pinned.
        if self._device.type == "cuda":
            images: list[Tensor] = torch.ops.image.decode_jpegs_cuda(files, _RGB, self._device)
            return images
        return [torch.ops.image.decode_jpeg(file, _RGB, False) for file in files]


def _is_out_of_memory(error: RuntimeError) -> bool:
    """Whether the device had no room: the decoder passes on torch's own error as a plain one."""
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in str(error)


def _in_groups(wanted: Mapping[PixelKey, tuple[EncodedJpeg, PixelRect]]) -> list[list[PixelKey]]:
    """Keys in groups whose images have about MAX_WHOLE_PX; an image is in one group."""
    groups: list[list[PixelKey]] = []
    room, last = 0, None
    for key in sorted(wanted, key=lambda key: key.image):
        if key.image != last:
            height, width = wanted[key][0].decoded
            whole = height * width * key.reduce**2
            if whole > room:
                groups.append([])
                room = MAX_WHOLE_PX
            room, last = room - whole, key.image
        groups[-1].append(key)
    return groups


def open_stream(device: torch.device) -> torch.cuda.Stream:
    """A stream of a GPU, for what is to go on beside training."""
    stream: torch.cuda.Stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch's
    return stream


def _averaged(image: Tensor, key: PixelKey, decoded: tuple[int, int]) -> Tensor:
    """(3, H, W) uint8 in full -> the pixels of a key, as the CPU's decoder and `cv2.resize` give them."""
    if key.reduce > 1:
        image = shrink(image, decoded, (float(key.reduce), float(key.reduce)))
    if key.size is not None:
        x1, y1, x2, y2 = key.crop or (0, 0, image.shape[2], image.shape[1])
        steps = ((y2 - y1) / key.size[0], (x2 - x1) / key.size[1])
        image = shrink(image[:, y1:y2, x1:x2], key.size, steps)
    return image


def shrink(image: Tensor, size: tuple[int, int], steps: tuple[float, float]) -> Tensor:
    """Average an image (3, H, W) uint8 over areas.

    Args:
        image: To shrink.
        size: Height and width in px that it gets.
        steps: Height and width in px of the area that a pixel is averaged over; at the edge there may
            be less.
    """
    down, across = (
        _area_weights(length, count, step, image.device)
        for length, count, step in zip(image.shape[1:], size, steps, strict=True)
    )
    return (down @ image.float() @ across.T).round_().clamp_(0, 255).to(torch.uint8)


def _area_weights(length: int, count: int, step: float, device: torch.device) -> Tensor:
    """(count, length) share of each pixel in each average."""
    start = torch.arange(count, device=device)[:, None] * step
    pixel = torch.arange(length, device=device)
    overlap = torch.minimum(pixel + 1, start + step) - torch.maximum(pixel, start)
    overlap = overlap.clamp_(min=0)
    return overlap / overlap.sum(dim=1, keepdim=True)
