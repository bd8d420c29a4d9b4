from pathlib import Path

import cv2
import numpy as np
import pytest

from cluster.errors import DatasetError
from tests.labeled_images import with_exif
from trainjobs.data.formats.stored import BadImageError, StoredImage, fetch_file
from trainjobs.data.images import THUMBNAIL_BYTES, decode_image, decoding_threads, read_size


def encode(pixels: np.ndarray, suffix: str = ".png") -> bytes:
    """`pixels` are RGB(A) or gray; OpenCV writes BGR."""
    if pixels.ndim == 3:
        order = [2, 1, 0, 3][: pixels.shape[2]]
        pixels = np.ascontiguousarray(pixels[..., order])
    return cv2.imencode(suffix, pixels)[1].tobytes()


def make_ramp(height: int, width: int) -> np.ndarray:
    """A smooth RGB image without any symmetry."""
    y, x = np.mgrid[:height, :width]
    channels = [200 * y / height, 200 * x / width, 100 + 50 * x / width]
    return np.stack(channels, axis=-1).astype(np.uint8)


def test_color_comes_as_rgb() -> None:
    red = np.full((12, 16, 3), (255, 0, 0), np.uint8)
    assert decode_image(encode(red), "red")[0, 0].tolist() == [255, 0, 0]


def test_gray_becomes_three_equal_channels() -> None:
    gray = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert (decode_image(encode(gray), "gray") == gray[..., None]).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_16_bit_values_are_divided_by_257(channels: int) -> None:
    deep = np.arange(0, 65536, 4, dtype=np.uint16).reshape(128, 128)
    stored = deep if channels == 1 else np.stack([deep] * 3, axis=-1)
    assert (decode_image(encode(stored), "deep")[..., 0] == np.rint(deep / 257)).all()


def test_alpha_is_dropped_and_hidden_colors_are_kept() -> None:
    pixels = np.dstack([make_ramp(12, 16), np.zeros((12, 16), np.uint8)])
    assert (decode_image(encode(pixels), "clear") == pixels[..., :3]).all()


@pytest.mark.parametrize("reduce", [1, 2, 4, 8])
def test_exif_orientation_is_applied_at_every_reduction(reduce: int) -> None:
    upright = make_ramp(64, 96)
    stored = np.ascontiguousarray(np.rot90(upright))  # orientation 6: turn clockwise to show
    data = with_exif(encode(stored, ".jpg"), 6)
    pixels = decode_image(data, "turned", reduce)
    assert pixels.shape == (64 // reduce, 96 // reduce, 3)
    wanted = cv2.resize(upright, (96 // reduce, 64 // reduce), interpolation=cv2.INTER_AREA)
    assert np.abs(pixels.astype(int) - wanted).mean() < 4  # JPEG's loss


@pytest.mark.parametrize("reduce", [2, 4, 8])
def test_a_reduced_jpeg_has_sides_rounded_up(reduce: int) -> None:
    pixels = decode_image(encode(make_ramp(33, 50), ".jpg"), "odd", reduce)
    assert pixels.shape == (-(-33 // reduce), -(-50 // reduce), 3)


def test_other_formats_are_never_reduced() -> None:
    assert decode_image(encode(make_ramp(33, 50)), "odd", 4).shape == (33, 50, 3)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tiff", ".bmp"])
@pytest.mark.parametrize("kept", [0.3, 0.8, 1.0])
def test_a_file_cut_short_is_an_error_that_names_it(suffix: str, kept: float) -> None:
    data = encode(make_ramp(64, 96), suffix)
    with pytest.raises(DatasetError, match=r"cut: damaged, truncated"):
        decode_image(data[: round((len(data) - 3) * kept)], "cut")


def test_an_empty_file_is_an_error() -> None:
    with pytest.raises(DatasetError, match=r"empty\.jpg: the file is empty"):
        decode_image(b"", "empty.jpg")


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BadImageError, match=r"gone\.jpg: No such file"):
        fetch_file(StoredImage(tmp_path / "gone.jpg"))


def test_floating_point_images_are_refused() -> None:
    with pytest.raises(DatasetError, match="float32"):
        decode_image(encode(np.ones((12, 12, 3), np.float32), ".tiff"), "float")


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("shape", [(33, 50), (64, 64), (63, 64)])
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_read_size_is_the_size_of_the_decoded_image(
    suffix: str, shape: tuple[int, int], orientation: int
) -> None:
    data = encode(make_ramp(*shape), suffix)
    if suffix == ".jpg":
        data = with_exif(data, orientation)
    assert read_size(data, "image") == decode_image(data, "image").shape[:2]


def test_thumbnails_are_decoded_on_one_thread_and_all_else_on_several() -> None:
    assert decoding_threads([THUMBNAIL_BYTES - 1, None]) == 1
    for sizes in ([THUMBNAIL_BYTES], [None], []):
        assert decoding_threads(sizes) > 1
