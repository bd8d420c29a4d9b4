"""Headers say how a JPEG must be decoded, and nothing in them is trusted."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.labeled_images import with_exif
from trainjobs.data.jpeg_header import JpegHeader, read_jpeg_header


def make_jpeg(*, channels: int = 3, progressive: int = 0) -> bytes:
    pixels = np.zeros((20, 30, channels), np.uint8)
    return cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_PROGRESSIVE, progressive])[1].tobytes()


@pytest.mark.parametrize("progressive", [0, 1])
@pytest.mark.parametrize("channels", [1, 3])
def test_size_and_channels_are_those_of_the_frame(channels: int, progressive: int) -> None:
    header = read_jpeg_header(make_jpeg(channels=channels, progressive=progressive))
    assert header == JpegHeader(20, 30, channels, is_common=True, orientation=1)


@pytest.mark.parametrize("orientation", [3, 6])
def test_exif_says_how_an_image_is_turned(orientation: int) -> None:
    header = read_jpeg_header(memoryview(with_exif(make_jpeg(), orientation)))
    assert header is not None and header.orientation == orientation


def test_cmyk_is_not_common(tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.mktemp("cmyk") / "a.jpg"
    Image.new("CMYK", (30, 20)).save(file)
    header = read_jpeg_header(file.read_bytes())
    assert header is not None and header.channels == 4 and not header.is_common


def test_rgb_that_adobe_marks_so_is_not_common() -> None:
    adobe = b"\xff\xee" + (14).to_bytes(2, "big") + b"Adobe" + bytes([0, 100, 0, 0, 0, 0, 0])
    jpeg = make_jpeg()
    header = read_jpeg_header(jpeg[:2] + adobe + jpeg[2:])
    assert header is not None and not header.is_common


def test_another_format_has_no_header() -> None:
    png = cv2.imencode(".png", np.zeros((20, 30, 3), np.uint8))[1].tobytes()
    assert read_jpeg_header(png) is None
    assert read_jpeg_header(b"") is None


@given(at=st.integers(2, 700), byte=st.integers(0, 255), cut=st.integers(0, 700))
def test_damaged_bytes_are_read_to_an_end(at: int, byte: int, cut: int) -> None:
    data = bytearray(with_exif(make_jpeg(), 6))
    data[min(at, len(data) - 1)] = byte
    read_jpeg_header(bytes(data[:cut]))  # whatever it finds, without an error
    read_jpeg_header(bytes(data))
