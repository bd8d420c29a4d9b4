"""The window of decoded images: bounded, shared by threads, and honest about errors."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from cluster.errors import DatasetError
from trainjobs.data.decoded import DecodedWindow


class Counted:
    """Images of 100 bytes; counts decodings. Image 9 is damaged until it is repaired."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.asked: list[tuple[int, int]] = []
        self.seconds, self.is_repaired = seconds, False
        self.lock = threading.Lock()

    def read_image(self, index: int, reduce: int = 1) -> np.ndarray:
        with self.lock:
            self.asked.append((index, reduce))
        time.sleep(self.seconds)
        if index == 9 and not self.is_repaired:
            raise DatasetError("9.jpg", "damaged")
        return np.full((100,), index, np.uint8)

    def labels(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return np.array([index]), np.zeros((1, 4), np.float32)

    def outlines(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return np.full((3, 2), index, np.float32), np.array([3], np.int32)


def test_an_image_is_decoded_once_while_the_window_holds_it() -> None:
    source = Counted()
    window = DecodedWindow(source, max_images=2)
    for index in (0, 1, 0, 2, 1, 0):  # 0 was decoded first when 2 comes, and 1 when 0 comes again
        assert window.read_image(index)[0] == index
    assert [index for index, _ in source.asked] == [0, 1, 2, 0]
    assert window.labels(3)[0] == [3] and window.outlines(3)[0][0, 0] == 3


def test_scales_are_kept_apart() -> None:
    source = Counted()
    window = DecodedWindow(source, max_images=4)
    window.read_image(0, 2)
    window.read_image(0, 1)
    assert source.asked == [(0, 2), (0, 1)]


def test_bytes_bound_the_window_too() -> None:
    source = Counted()
    window = DecodedWindow(source, max_images=50, max_bytes=250)
    for index in (0, 1, 2, 0):
        window.read_image(index)
    assert [index for index, _ in source.asked] == [0, 1, 2, 0]


def test_threads_that_want_one_image_decode_it_once() -> None:
    source = Counted(seconds=0.02)
    window = DecodedWindow(source, max_images=4)
    with ThreadPoolExecutor(4) as pool:
        images = list(pool.map(window.read_image, [5] * 8))
    assert all(image[0] == 5 for image in images)
    assert len(source.asked) == 1


def test_an_error_reaches_all_who_wait_and_is_not_kept() -> None:
    source = Counted(seconds=0.02)
    window = DecodedWindow(source, max_images=4)
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(window.read_image, 9) for _ in range(2)]
    for future in waiting:
        with pytest.raises(DatasetError, match=r"9\.jpg"):
            future.result()
    source.is_repaired = True
    assert window.read_image(9)[0] == 9
