"""Labels in px of an image as it is stored, before its EXIF orientation is applied."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from cluster.errors import DatasetError
from tests.builders import scan_split
from tests.labeled_images import (
    CATEGORIES,
    NAMES,
    voc_text,
    with_exif,
    write_json,
    write_xml,
    write_yaml,
)
from trainjobs.data.exif import read_orientation
from trainjobs.data.images import decode_image
from trainjobs.data.packed.schema import ImageRecord
from trainjobs.data.scanning import Scanned

STORED_WIDTH, STORED_HEIGHT = 80, 48
CORNERS = (8, 16, 24, 40)
"""Of a white rectangle, in px of the image as stored."""


def make_jpeg(orientation: int) -> bytes:
    pixels = np.zeros((STORED_HEIGHT, STORED_WIDTH), np.uint8)
    x1, y1, x2, y2 = CORNERS
    pixels[y1:y2, x1:x2] = 255
    return with_exif(cv2.imencode(".jpg", pixels)[1].tobytes(), orientation)


def scan(folder: Path, label_format: str, orientation: int, width: int, height: int) -> Scanned:
    """One image with the rectangle labeled in px of a size."""
    image = folder / "images" / "train" / "a.jpg"
    image.parent.mkdir(parents=True)
    (folder / "images" / "val").mkdir()
    image.write_bytes(make_jpeg(orientation))
    x1, y1, x2, y2 = CORNERS
    entry = {"id": 1, "file_name": "a.jpg", "width": width, "height": height}
    box = {"bbox": [x1, y1, x2 - x1, y2 - y1], "segmentation": [[x1, y1, x2, y1, x2, y2, x1, y2]]}
    annotation = {"id": 1, "image_id": 1, "category_id": CATEGORIES[0]["id"], **box}
    content = {"images": [entry], "annotations": [annotation], "categories": CATEGORIES}
    for split in ("train", "val"):
        write_json(folder, split, content)
    write_xml(folder, "train/a.jpg", voc_text([(NAMES[2], CORNERS)], width, height))
    (folder / "xml" / "val").mkdir()
    return scan_split(write_yaml(folder, label_format), "train")


def part_of_image(folder: Path, record: ImageRecord) -> tuple[int, int, int, int]:
    """Corners of the record's box in px, checked to be those of the white rectangle."""
    white = decode_image((folder / record.id).read_bytes(), record.id)[..., 0] > 128
    ys, xs = np.nonzero(white)
    cx, cy, w, h = np.array(record.boxes_cxcywh_norm[0]) * ([record.width, record.height] * 2)
    corners = np.array([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2])
    assert np.allclose(corners, [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
    return tuple(corners.round().astype(int).tolist())


@pytest.mark.parametrize("label_format", ["coco", "voc"])
@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_labels_of_the_stored_image_are_turned_with_it(
    label_format: str, orientation: int, tmp_path: Path
) -> None:
    scanned = scan(tmp_path, label_format, orientation, STORED_WIDTH, STORED_HEIGHT)
    (record,) = scanned.records
    assert (record.width, record.height) == (STORED_HEIGHT, STORED_WIDTH)
    x1, y1, x2, y2 = part_of_image(tmp_path, record)
    if label_format == "coco":
        points = np.array(record.polygons_norm[0]).reshape(-1, 2) * (record.width, record.height)
        assert np.allclose([*points.min(axis=0), *points.max(axis=0)], [x1, y1, x2, y2])


def test_labels_of_the_upright_image_stay(tmp_path: Path) -> None:
    scanned = scan(tmp_path, "coco", 6, STORED_HEIGHT, STORED_WIDTH)
    assert np.allclose(scanned.records[0].boxes_cxcywh_norm, [(16 / 48, 28 / 80, 16 / 48, 24 / 80)])


def test_a_size_that_is_swapped_without_a_reason_is_another_images(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"is for 48 x 80 px, but a\.jpg has 80 x 48"):
        scan(tmp_path, "coco", 1, STORED_HEIGHT, STORED_WIDTH)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_the_orientation_of_exif_is_read(orientation: int) -> None:
    assert read_orientation(make_jpeg(orientation)) == orientation


def test_an_image_without_exif_or_with_a_damaged_one_is_upright() -> None:
    jpeg = make_jpeg(6)
    plain = jpeg[:2] + jpeg[jpeg.index(b"\xff\xe0") :]
    assert read_orientation(plain) == 1
    for far in (b"\0\0\0\xf0", b"\xff\xff\xff\xff"):
        assert read_orientation(jpeg.replace(b"MM\0*\0\0\0\x08", b"MM\0*" + far)) == 1
