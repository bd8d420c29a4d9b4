"""A bounded window of decoded images, so that one decoding serves several samples.

Mosaic partners come from a window of the order that slides along (see `mosaic.py`), so an image is
asked for until the window has passed it, and then not before the next epoch: what was decoded first
goes first.
"""

import sys
import threading
from concurrent.futures import Future

import numpy as np
from numpy.typing import NDArray

from trainjobs.data.augmentation.sample_plan import ImageSource
from trainjobs.data.images import RgbImage

NODE_BYTES = 256 * 2**20
"""Of the decoded images that the ranks of a node keep together, whatever their number."""


class DecodedWindow:
    """An image source that keeps the images it decoded last; for any number of threads."""

    def __init__(
        self, source: ImageSource, max_images: int | None = None, max_bytes: int = NODE_BYTES
    ) -> None:
        self._source = source
        self._max_images = sys.maxsize if max_images is None else max_images
        self._max_bytes = max_bytes
        self._kept: dict[tuple[int, int], Future[RgbImage]] = {}
        self._bytes = 0
        self._lock = threading.Lock()

    def labels(self, index: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Classes (n,) and boxes_cxcywh_norm (n, 4)."""
        return self._source.labels(index)

    def outlines(self, index: int) -> tuple[NDArray[np.float32], NDArray[np.int32]] | None:
        """Points (m, 2), as fractions, round the objects of `labels`; see `ImageSource`."""
        return self._source.outlines(index)

    def read_image(self, index: int, reduce: int = 1) -> RgbImage:
        """The image, not to be written to; see `ImageSource`.

        A thread that asks for what another is decoding waits for it.

        Raises:
            DatasetError: It is gone or damaged; names it.
        """
        key = index, reduce
        with self._lock:
            known = self._kept.get(key)
            if known is None:
                mine = self._kept[key] = Future()
        if known is not None:
            return known.result()
        try:
            pixels = self._source.read_image(index, reduce)
        except BaseException as error:
            with self._lock:
                self._kept.pop(key, None)
            mine.set_exception(error)
            raise
        mine.set_result(pixels)
        with self._lock:
            self._bytes += pixels.nbytes
            self._forget()
        return pixels

    def _forget(self) -> None:
        """Drop the images decoded first; one that is still being decoded stays."""
        for key, future in list(self._kept.items()):
            if len(self._kept) <= self._max_images and self._bytes <= self._max_bytes:
                return
            if future.done():
                self._bytes -= self._kept.pop(key).result().nbytes
