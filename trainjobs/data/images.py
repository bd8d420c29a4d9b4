"""Image files to upright RGB arrays. What OpenCV cannot read whole, a truncated JPEG say, is an error.

Everything that later sees pixels (training, evaluation, prediction) decodes here, so that EXIF
orientation, gray, 16-bit and alpha images mean the same everywhere.
"""

import os
import statistics
from collections.abc import Iterable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from cluster.errors import DatasetError
from trainjobs.data.jpeg_header import read_jpeg_header

RgbImage = NDArray[np.uint8]
"""(H, W, 3) uint8, RGB, upright."""

JPEG_REDUCTIONS = (8, 4, 2)
"""Factors by which a JPEG can be shrunk while it is decoded (libjpeg's scaled inverse DCT)."""

JPEG_QUALITY = 95
"""Of images that are shrunk when they are packed."""

MAX_DECODING_THREADS = 16
THUMBNAIL_BYTES = 8192
"""50,000 images of 900 bytes took one thread 7.5 s, and 8 threads 15.5 s (2 cores)."""

# OpenCV's own log lines on stderr would repeat, without a file name, what our errors say.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

_FULL = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_ANYDEPTH
_REDUCED = {
    2: cv2.IMREAD_COLOR_RGB | cv2.IMREAD_REDUCED_GRAYSCALE_2,
    4: cv2.IMREAD_COLOR_RGB | cv2.IMREAD_REDUCED_GRAYSCALE_4,
    8: cv2.IMREAD_COLOR_RGB | cv2.IMREAD_REDUCED_GRAYSCALE_8,
}
_JPEG_MAGIC = b"\xff\xd8\xff"


def decoding_threads(sizes: Iterable[int | None]) -> int:
    """Threads to read and decode images of so many bytes with; None: not known.

    Decoding is bound by CPUs, and reading over a network by its latency. Thumbnails are decoded in
    less time than threads take to hand the interpreter to each other.
    """
    known = [size for size in sizes if size is not None]
    if known and statistics.fmean(known) < THUMBNAIL_BYTES:
        return 1
    return min(2 * (os.cpu_count() or 1), MAX_DECODING_THREADS)


def read_size(data: bytes, name: str) -> tuple[int, int]:
    """Upright height and width of an image file that decodes without fault.

    All of it is decoded, a JPEG at an eighth of its size, which costs half.

    Args:
        data: The whole file.
        name: What errors call it.

    Raises:
        DatasetError: As `decode_image`.
    """
    header = read_jpeg_header(data)
    if header is None:
        return decode_image(data, name).shape[:2]
    stored = header.height, header.width
    small = decode_image(data, name, reduce=8).shape[:2]
    expected = _reduced_side(stored[0]), _reduced_side(stored[1])
    if expected[0] == expected[1]:  # the small one does not show whether EXIF turns the image
        return decode_image(data, name).shape[:2]
    return stored if small == expected else (stored[1], stored[0])


def decode_image(data: bytes | memoryview, name: str, reduce: int = 1) -> RgbImage:
    """Decode an image file's bytes.

    Gray becomes three equal channels, 16-bit values are divided by 257, alpha is dropped, and the
    EXIF orientation is applied.

    Args:
        data: The whole file.
        name: What errors call it.
        reduce: 1, 2, 4 or 8. A JPEG comes out at ceil(side / reduce); other formats full size.

    Raises:
        DatasetError: Empty, truncated, not an image, or neither 8 nor 16 bits a channel.
    """
    if not data:
        raise DatasetError(name, "the file is empty (0 bytes)")
    flags = _REDUCED[reduce] if reduce > 1 and data[: len(_JPEG_MAGIC)] == _JPEG_MAGIC else _FULL
    try:
        pixels: NDArray[Any] | None = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise DatasetError(name, f"not readable as an image ({error.err})") from error
    if pixels is None:
        raise DatasetError(name, "damaged, truncated or not an image")
    if pixels.dtype == np.uint16:
        return np.rint(pixels / np.float32(257)).astype(np.uint8)
    if pixels.dtype != np.uint8:
        raise DatasetError(name, f"has {pixels.dtype} channels; 8 or 16 bit integers are read")
    return pixels


def shrink_image(data: bytes, name: str, height: int, width: int) -> bytes:
    """An image file's bytes, averaged down to `height` x `width` px (upright) as a JPEG.

    Raises:
        DatasetError: as `decode_image`.
    """
    pixels = cv2.resize(decode_image(data, name), (width, height), interpolation=cv2.INTER_AREA)
    bgr = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    done, encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    assert done
    return encoded.tobytes()


def _reduced_side(side: int) -> int:
    return -(-side // 8)
