import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from cluster.errors import DatasetError
from tests.builders import scan_split
from tests.labeled_images import HEIGHT, WIDTH, coco_content, write_dataset, write_json, write_yaml
from trainjobs.data.scanning import Scanned

SCALE = [WIDTH, HEIGHT]
HUGE = 10**400


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Images a.png (annotations 1 and 2), b.png (3) and c.png (none); each of 40 x 32 px."""
    return write_dataset(tmp_path, "coco")


def scan(source: Path, content: object) -> Scanned:
    write_json(source.parent, "train", content)
    return scan_split(source, "train")


def with_third(changes: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The good content but for the annotation of b.png."""
    content = coco_content("train")
    content["annotations"][2] |= changes
    return content


def boxes_px(scanned: Scanned, image: int) -> np.ndarray:
    """(n, 4) corners."""
    boxes = np.array(scanned.records[image].boxes_cxcywh_norm)
    low, high = boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2
    return np.hstack([low, high]) * (SCALE * 2)


@pytest.mark.parametrize(
    ("bbox", "corners"),
    [
        ([-1, -0.5, 10, 10], (0, 0, 9, 9.5)),
        ([30, 22, 11, 10.75], (30, 22, 40, 32)),
        ([0, 0, 40, 32], (0, 0, 40, 32)),
    ],
)
def test_a_box_that_overshoots_its_image_by_a_pixel_is_cut_off(
    source: Path, bbox: list[float], corners: tuple[float, ...]
) -> None:
    scanned = scan(source, with_third({"bbox": bbox}))
    assert np.allclose(boxes_px(scanned, 1), [corners])
    assert scanned.quarantine == []


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"bbox": [1, 1, float("nan"), 5]}, "bbox: a number is NaN or infinite"),
        ({"bbox": [1, 1, float("inf"), 5]}, "bbox: a number is NaN or infinite"),
        ({"bbox": [1, 1, HUGE, 5]}, "bbox: a number is NaN or infinite"),
        ({"bbox": [1e308, 1, 1e308, 5]}, "bbox: a coordinate is NaN or infinite"),
        ({"bbox": [9, 9, -4, 5]}, "bbox: a size is negative (-4 x 5 px)"),
        ({"bbox": [-2, 1, 9, 9]}, "bbox: reaches 2 px out of the image of 40 x 32 px"),
        ({"bbox": [30, 1, 20, 9]}, "bbox: reaches 10 px out of the image of 40 x 32 px"),
        ({"bbox": [1, 1, 9]}, "bbox has 3 numbers"),
        ({"bbox": None}, "bbox must hold numbers, got None"),
        ({"bbox": [1, 1, "9", 9]}, "bbox must hold numbers, got [1, 1, '9', 9]"),
        ({"bbox": [1, 1, True, 9]}, "bbox must hold numbers"),
        ({"area": -1}, "area is negative (-1)"),
        ({"area": float("nan")}, "area: a number is NaN or infinite"),
        ({"iscrowd": 2}, "iscrowd must be 0 or 1, got 2"),
        ({"segmentation": "none"}, "segmentation is no list of polygons: 'none'"),
        ({"segmentation": [[1, 1, 2, 2, 3, 1, 2]]}, "segmentation has 7 numbers"),
        ({"segmentation": [1, 1, 2, 2, 3, 1]}, "segmentation must hold numbers, got 1"),
        ({"segmentation": [[1, 1, 60, 2, 3, 1]]}, "segmentation: reaches 20 px out"),
        ({"segmentation": [[1, 1, float("nan"), 2, 3, 1]]}, "segmentation: a number is NaN"),
    ],
)
def test_a_bad_annotation_leaves_its_image_out_with_its_id(
    source: Path, changes: dict[str, Any], reason: str
) -> None:
    scanned = scan(source, with_third(changes))
    assert [Path(record.id).name for record in scanned.records] == ["a.png", "c.png"]
    (left_out,) = scanned.quarantine
    assert (left_out.file, left_out.row) == ("coco/train.json", 3)
    assert left_out.reason.startswith(f"annotation 3 on b.png: {reason}")
    assert left_out.reason.endswith("; image left out")


@pytest.mark.parametrize(
    ("added", "row", "reason"),
    [
        ({"id": 9, "image_id": 50, "bbox": [3, 3, 0, 5]}, 9, "annotation 9 on a.png: the box has no area"),
        ({"id": 9, "image_id": 50, "bbox": [40.5, 3, 0.5, 5]}, 9, "annotation 9 on a.png: the box has no area"),
        ({"id": 9, "image_id": 50, "bbox": [2, 3, 10, 20]}, 9, "annotation 9 on a.png: repeats annotation 1"),
        ({"image_id": 50, "bbox": [2, 3, 10, 20]}, 4, "annotation 4 on a.png: repeats annotation 1"),
        ({"id": 9, "image_id": 999, "bbox": [3, 3, 5, 5]}, 9, "annotation 9: no image has the id 999"),
        ({"id": 9, "image_id": [50], "bbox": [3, 3, 5, 5]}, 9, "annotation 9: no image has the id [50]"),
        ({"id": 9, "bbox": [3, 3, 5, 5]}, 9, "annotation 9: no image has the id None"),
    ],
)  # fmt: skip
def test_an_annotation_without_use_is_dropped_and_listed(
    source: Path, added: dict[str, Any], row: int, reason: str
) -> None:
    content = coco_content("train")
    content["annotations"].append({"category_id": 1, **added})
    scanned = scan(source, content)
    assert [record.classes for record in scanned.records] == [[2, 0], [1], []]
    (left_out,) = scanned.quarantine
    assert (left_out.file, left_out.row) == ("coco/train.json", row)
    assert left_out.reason == f"{reason}; row left out"
    assert scanned.num_skipped == 0


@pytest.mark.parametrize(
    ("category", "complaint"),
    [
        (
            0,
            "annotation 3: class 'animal' is not among the 3 names of the dataset: cat, dog, owl",
        ),
        (5, "annotation 3: no category has the id 5"),
        (None, "annotation 3: no category has the id None"),
        ([1], r"annotation 3: no category has the id \[1\]"),
    ],
)
def test_a_category_that_is_no_class_stops_with_its_name_and_the_names(
    source: Path, category: object, complaint: str
) -> None:
    with pytest.raises(DatasetError, match=rf"/coco/train\.json: {complaint}"):
        scan(source, with_third({"category_id": category}))


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"images": None}, "has no list 'images'; it is no COCO detection file"),
        ({"annotations": {}}, "has no list 'annotations'"),
        ({"categories": "cat"}, "has no list 'categories'"),
        ({"images": [3]}, "images: item 1 is no object but 3"),
        ({"annotations": [None]}, "annotations: item 1 is no object but None"),
        ({"images": [{"id": 1}]}, "images: item 1 lacks an id or a file_name"),
        ({"images": [{"id": True, "file_name": "a.png"}]}, "images: item 1 lacks an id"),
        ({"images": [{"id": 1, "file_name": "a.png"}] * 2}, "images: id 1 stands twice"),
        ({"images": [{"id": 1, "file_name": "a.png", "width": "40"}]}, "images: item 1: width is no size: '40'"),
        ({"images": [{"id": 1, "file_name": "a.png", "height": HUGE}]}, "images: item 1: height is no size"),
        ({"categories": [{"name": "cat"}]}, "categories: item 1 lacks an id or a name"),
        ({"categories": [{"id": 1, "name": "cat"}, {"id": 1, "name": "dog"}]}, "categories: id 1 has two names"),
    ],
)  # fmt: skip
def test_a_file_of_another_kind_is_refused(
    source: Path, changes: dict[str, object], complaint: str
) -> None:
    with pytest.raises(DatasetError, match=rf"/coco/train\.json: {complaint}"):
        scan(source, coco_content("train") | changes)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "is not JSON: .*line 1"),
        ('{"images": [}', "is not JSON: .*line 1 column 13"),
        ("[" * 100_000, "is nested too deeply"),
        ("[]", "must hold an object, got a list"),
        ('{"a": ' + "9" * 5000 + "}", "is not JSON: .*4300"),
    ],
)
def test_what_is_no_json_object_is_refused(source: Path, text: str, complaint: str) -> None:
    (source.parent / "coco" / "train.json").write_text(text)
    with pytest.raises(DatasetError, match=rf"train\.json: {complaint}"):
        scan_split(source, "train")


@pytest.mark.parametrize(
    ("width", "height", "is_used"),
    [(40, 32, True), (None, None, True), (0, 0, True), (32, 40, False), (80, 64, False)],
)
def test_labels_for_an_image_of_another_size_leave_the_image_out(
    source: Path, width: int | None, height: int | None, is_used: bool
) -> None:
    content = coco_content("train")
    content["images"][1] |= {"width": width, "height": height}
    scanned = scan(source, content)
    assert [Path(record.id).name for record in scanned.records][1] == (
        "b.png" if is_used else "c.png"
    )
    expected = f"is for {width} x {height} px, but b.png has 40 x 32; image left out"
    assert [row.reason for row in scanned.quarantine] == ([] if is_used else [expected])


@pytest.mark.parametrize(
    "name", ["b.png", "train/b.png", "images/train/b.png", "train\\b.png", "./b.png", "{root}/images/train/b.png"]
)  # fmt: skip
def test_file_names_may_start_at_the_folder_the_one_above_the_root_or_nowhere(
    source: Path, name: str
) -> None:
    content = coco_content("train")
    content["images"][1]["file_name"] = name.format(root=source.parent)
    assert [record.classes for record in scan(source, content).records] == [[2, 0], [1], []]


@pytest.mark.parametrize(
    "name", ["b.jpg", "other/b.png", "../../../etc/passwd", "\0", "\ud800", "b" * 5000]
)
def test_an_image_that_is_not_there_is_listed(source: Path, name: str) -> None:
    content = coco_content("train")
    content["images"][1]["file_name"] = name
    scanned = scan(source, content)
    assert [record.classes for record in scanned.records] == [[2, 0], [], []]  # b.png: background
    (left_out,) = scanned.quarantine
    assert (
        left_out.file.encode()
        == (name if name.isprintable() or name == "\0" else ascii(name)).encode()
    )
    assert scanned.num_skipped == 1


def test_an_image_that_is_listed_twice_is_left_out(source: Path) -> None:
    content = coco_content("train")
    content["images"].append({"id": 99, "file_name": "train/b.png"})
    scanned = scan(source, content)
    (left_out,) = scanned.quarantine
    assert left_out.reason == "images: lists b.png more than once (ids 51, 99); image left out"
    assert len(scanned.records) == 2


def test_a_file_name_that_could_be_two_images_is_refused(source: Path) -> None:
    write_yaml(source.parent, "coco", train=["images/train", "images/val"], val="images/val")
    shutil.copy(source.parent / "images/train/b.png", source.parent / "images/val/b.png")
    with pytest.raises(DatasetError, match=r"'b\.png' may be /.*/train/b\.png or /.*/val/b\.png"):
        scan_split(source, "train")


def test_if_no_image_is_there_the_first_is_named(source: Path) -> None:
    content = coco_content("train")
    for image in content["images"]:
        image["file_name"] = f"nowhere/{image['file_name']}"
    with pytest.raises(
        DatasetError, match=r"none of 3 images has a labeled object.*; nowhere/a\.png: no such"
    ):
        scan(source, content)


def test_crowds_and_areas_are_kept(source: Path) -> None:
    content = coco_content("train")
    rle = {"counts": [0, 5], "size": [HEIGHT, WIDTH]}
    content["annotations"][0] |= {"iscrowd": 1, "area": 77.5, "segmentation": rle}
    first, second, third = scan(source, content).records
    assert (first.crowd, first.areas_px) == ([True, False], [77.5, 1280])
    assert first.polygons_norm == []
    assert (second.crowd, second.areas_px) == ([], [19.5 * 3.75])
    assert (third.crowd, third.areas_px) == ([], [])


def polygon_px(source: Path, parts: list[list[float]], bbox: list[float]) -> list[float]:
    scanned = scan(source, with_third({"segmentation": parts, "bbox": bbox}))
    (polygon,) = scanned.records[1].polygons_norm or [[]]
    return (np.array(polygon).reshape(-1, 2) * SCALE).round(9).ravel().tolist()


def test_a_polygon_is_kept_in_fractions_and_cut_off_at_the_edge(source: Path) -> None:
    triangle = [[2, 3, 40.5, 3, 12, 23]]
    assert polygon_px(source, triangle, [2, 3, 38.5, 20]) == [2, 3, 40, 3, 12, 23]


def test_several_polygons_become_one_outline_that_covers_what_they_cover(source: Path) -> None:
    parts = [[2, 2, 10, 2, 10, 10, 2, 10], [20, 2, 28, 2, 28, 14, 20, 14], [4, 20, 12, 20, 8, 28]]
    outline = polygon_px(source, [*parts, [1, 1, 2, 2]], [2, 2, 26, 26])
    fine = 64  # the bridges are one pixel wide, however fine the pixels
    masks = []
    for polygons in (parts, [outline]):
        points = [np.array(part).reshape(-1, 2) * fine for part in polygons]
        mask = np.zeros((HEIGHT * fine, WIDTH * fine), np.uint8)
        masks.append(cv2.fillPoly(mask, [p.astype(np.int32) for p in points], 1))
    assert (masks[0] != masks[1]).mean() < 1e-3
    assert masks[0].mean() > 0.1


@pytest.mark.parametrize("parts", [[], [[]], [[2, 3, 12, 23]], [[0.05, 0.1, 0.3, 0.1, 0.3, 0.7]]])
def test_a_box_without_a_fitting_outline_has_none(source: Path, parts: list[list[float]]) -> None:
    assert polygon_px(source, parts, [2, 3, 10, 20]) == []


def test_a_file_with_a_byte_order_mark_is_read(source: Path) -> None:
    text = "\ufeff" + json.dumps(coco_content("train"))
    (source.parent / "coco" / "train.json").write_text(text)
    assert len(scan_split(source, "train").records) == 3
