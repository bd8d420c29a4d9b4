"""The same dataset as YOLO, COCO and VOC gives the same records."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cluster.errors import DatasetError
from tests.builders import scan_split
from tests.labeled_images import (
    NAMES,
    OBJECTS,
    coco_content,
    voc_text,
    write_dataset,
    write_json,
    write_xml,
    write_yaml,
)
from trainjobs.config import DataConfig
from trainjobs.data.packed.schema import ImageRecord
from trainjobs.data.prepare import prepare_dataset
from trainjobs.data.scanning import QuarantineRow, Scanned, open_split
from trainjobs.data.sources import read_data_yaml, source_files

FORMATS = ("yolo", "coco", "voc")
TOLERANCE_PX = 1e-3
"""YOLO labels have six digits, of 640 px at most: 3e-4 px off."""

BCCD = Path(__file__).parents[5] / "shared" / "data" / "bccd"
BCCD_NAMES = ("RBC", "WBC", "Platelets")
needs_bccd = pytest.mark.skipif(not BCCD.is_dir(), reason=f"no {BCCD}")


def scan(source: Path, split: str = "train") -> Scanned:
    return scan_split(source, split)


def boxes_px(record: ImageRecord) -> np.ndarray:
    sides = [record.width, record.height] * 2
    return np.array(record.boxes_cxcywh_norm).reshape(-1, 4) * sides


def assert_alike(records: list[ImageRecord], others: list[ImageRecord]) -> None:
    """The same images, classes and boxes, all in one order."""
    assert [record.id for record in records] == [record.id for record in others]
    for record, other in zip(records, others, strict=True):
        assert (record.height, record.width) == (other.height, other.width)
        assert record.classes == other.classes
        assert np.allclose(boxes_px(record), boxes_px(other), rtol=0, atol=TOLERANCE_PX)


def bccd_yaml(folder: Path, label_format: str, names: tuple[str, ...] = BCCD_NAMES) -> Path:
    places = {"coco": "annotations_coco/instances_{}.json", "voc": "annotations_voc"}
    content: dict[str, object] = {"path": str(BCCD), "format": label_format, "names": list(names)}
    content |= {split: f"images/{split}" for split in ("train", "val")}
    if label_format in places:
        content["annotations"] = {s: places[label_format].format(s) for s in ("train", "val")}
    file = folder / f"{label_format}.yaml"
    file.write_text(json.dumps(content))
    return file


@needs_bccd
@pytest.mark.parametrize(
    ("split", "num_images", "flat"), [("train", 26, "BloodImage_00343"), ("val", 14, "BloodImage_00338")]
)  # fmt: skip
def test_bccd_is_the_same_as_yolo_coco_and_voc(
    split: str, num_images: int, flat: str, tmp_path: Path
) -> None:
    scanned = {kind: scan(bccd_yaml(tmp_path, kind), split) for kind in FORMATS}
    in_all = {file.stem for file in (BCCD / "annotations_voc").iterdir()}
    records = {
        kind: [record for record in found.records if Path(record.id).stem in in_all]
        for kind, found in scanned.items()
    }
    assert len(records["yolo"]) == num_images
    assert_alike(records["yolo"], records["coco"])
    assert_alike(records["yolo"], records["voc"])
    assert_alike(scanned["yolo"].records, scanned["coco"].records)
    (without_area,) = scanned["voc"].quarantine
    assert without_area.file == f"annotations_voc/{flat}.xml"
    assert without_area.reason == "the box has no area; row left out"
    assert not scanned["yolo"].quarantine + scanned["coco"].quarantine


@needs_bccd
@pytest.mark.parametrize("label_format", ["coco", "voc"])
def test_the_order_of_names_is_the_order_of_classes(label_format: str, tmp_path: Path) -> None:
    shown = scan(bccd_yaml(tmp_path, label_format), "val").records
    turned = scan(bccd_yaml(tmp_path, label_format, names=BCCD_NAMES[::-1]), "val").records
    assert [[2 - c for c in record.classes] for record in shown] == [r.classes for r in turned]


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_dataset_is_the_same_as_yolo_coco_and_voc(split: str, tmp_path: Path) -> None:
    yolo, coco, voc = (scan(write_dataset(tmp_path, kind), split) for kind in FORMATS)
    assert_alike(yolo.records, coco.records)
    assert_alike(yolo.records, voc.records)
    names = [name for image in OBJECTS if image.startswith(split) for name, _ in OBJECTS[image]]
    assert [NAMES[c] for record in voc.records for c in record.classes] == names
    assert not yolo.quarantine + coco.quarantine + voc.quarantine


@pytest.mark.parametrize(
    ("label_format", "row"),
    [("coco", QuarantineRow("coco/val.json", 2, "annotation 2 on d.png: the box has no area; row left out")),
     ("voc", QuarantineRow("xml/val/d.xml", 4, "the box has no area; row left out"))],
)  # fmt: skip
def test_a_box_without_area_is_dropped_and_listed(
    label_format: str, row: QuarantineRow, tmp_path: Path
) -> None:
    objects = {**OBJECTS, "val/d.png": [("cat", (5, 5, 9, 30)), ("dog", (7, 7, 7, 7))]}
    scanned = scan(write_dataset(tmp_path, label_format, objects), "val")
    assert scanned.records[0].classes == [0]
    assert scanned.quarantine == [row]
    assert scanned.num_skipped == 0


@pytest.mark.parametrize("label_format", ["coco", "voc"])
def test_an_image_that_no_annotation_names_is_background(label_format: str, tmp_path: Path) -> None:
    source = write_dataset(tmp_path, label_format)
    content = coco_content("train")
    assert content["images"].pop(2)["file_name"] == "c.png"
    write_json(tmp_path, "train", content)
    (tmp_path / "xml" / "train" / "c.xml").unlink(missing_ok=True)
    scanned = scan(source)
    assert [(record.id, record.classes) for record in scanned.records[2:]] == [
        ("images/train/c.png", [])
    ]
    assert (scanned.num_skipped, scanned.quarantine) == (0, [])


@pytest.mark.parametrize("label_format", ["coco", "voc"])
def test_of_a_folder_with_both_splits_each_takes_what_its_annotations_name(
    label_format: str, tmp_path: Path
) -> None:
    both = {Path(image).name: found for image, found in OBJECTS.items()}
    write_dataset(tmp_path, "yolo", both)
    for split in ("train", "val"):
        write_json(tmp_path, split, coco_content(split))
    for image, found in OBJECTS.items():
        write_xml(tmp_path, image, voc_text(found))
    source = write_yaml(tmp_path, label_format, train="images", val="images")
    ids = {
        split: [record.id for record in scan(source, split).records] for split in ("train", "val")
    }
    assert ids == {
        "train": ["images/a.png", "images/b.png", "images/c.png"],
        "val": ["images/d.png"],
    }


@pytest.mark.parametrize("label_format", ["coco", "voc"])
def test_a_changed_annotation_file_makes_a_scan_stale(label_format: str, tmp_path: Path) -> None:
    source = write_dataset(tmp_path / "data", label_format)

    def fingerprint() -> str:
        return prepare_dataset(str(source), tmp_path / "cache", DataConfig(), seed=0).fingerprint

    before = fingerprint()
    moved = {**OBJECTS, "val/d.png": [("owl", (5.0, 5.0, 9.0, 30.0))]}
    write_dataset(tmp_path / "data", label_format, moved)
    assert fingerprint() != before


def test_what_a_split_is_read_from_is_listed(tmp_path: Path) -> None:
    images = [tmp_path / "images" / image for image in OBJECTS if image.startswith("train")]
    labels = {
        "yolo": [tmp_path / "labels" / "train" / f"{image.stem}.txt" for image in images],
        "coco": [tmp_path / "coco" / "train.json"],
        "voc": [tmp_path / "xml" / "train" / f"{image.stem}.xml" for image in images],
    }
    for kind in FORMATS:
        spec = read_data_yaml(write_dataset(tmp_path, kind))
        assert source_files(spec, "train") == images + labels[kind]


@pytest.mark.parametrize(
    ("label_format", "changes", "complaint"),
    [
        ("coco", {"format": "kitti"}, "format must be yolo or coco or voc or folder or .*, got 'kitti'"),
        ("coco", {"format": ["coco"]}, "format must be yolo or coco or voc"),
        ("coco", {"annotations": None}, "annotations must give a JSON file for each split, got None"),
        ("voc", {"annotations": "xml"}, "annotations must give a folder of XML files .*got 'xml'"),
        ("voc", {"annotations": {"train": "xml"}}, "annotations has no key 'val': a folder of XML"),
        ("coco", {"annotations": {"train": "coco/train.json", "val": "coco/vall.json"}},
         "annotations: val: no such file or folder: /.*/coco/vall.json"),
        ("yolo", {"annotations": {"train": "coco/train.json"}}, "annotations are of format coco or voc"),
        ("coco", {"names": None, "nc": 3}, "has no key 'names': classes are matched by their names"),
    ],
)  # fmt: skip
def test_a_wrong_data_yaml_is_named_with_what_is_wrong(
    label_format: str, changes: dict[str, object], complaint: str, tmp_path: Path
) -> None:
    write_dataset(tmp_path, label_format)
    source = write_yaml(tmp_path, label_format, **changes)
    with pytest.raises(DatasetError, match=rf"{label_format}\.yaml: {complaint}"):
        read_data_yaml(source)


@pytest.mark.parametrize("label_format", ["coco", "voc"])
def test_a_split_without_annotations_may_be_named_but_not_read(
    label_format: str, tmp_path: Path
) -> None:
    write_dataset(tmp_path, label_format)
    spec = read_data_yaml(write_yaml(tmp_path, label_format, test="images/val"))
    with pytest.raises(DatasetError, match="annotations has no key 'test'"):
        open_split(spec, "test")


def remove(folder: Path) -> None:
    (folder / "images" / "train" / "b.png").unlink()


def cut(folder: Path) -> None:
    (folder / "images" / "train" / "b.png").write_bytes(b"")


@pytest.mark.parametrize(
    ("label_format", "damage", "listed"),
    [("coco", remove, [("b.png", "no such image; .*train.json lists it")]),
     ("voc", remove, []),
     ("coco", cut, [("images/train/b.png", "0 bytes")]),
     ("voc", cut, [("images/train/b.png", "0 bytes")])],
)  # fmt: skip
def test_an_image_that_is_gone_or_damaged_is_left_out(
    label_format: str,
    damage: Callable[[Path], None],
    listed: list[tuple[str, str]],
    tmp_path: Path,
) -> None:
    source = write_dataset(tmp_path, label_format)
    damage(tmp_path)
    scanned = scan(source)
    assert [Path(record.id).name for record in scanned.records] == ["a.png", "c.png"]
    assert scanned.num_skipped == len(listed)
    for row, (file, reason) in zip(scanned.quarantine, listed, strict=True):
        assert (row.file, row.row) == (file, None)
        assert re.search(reason, row.reason)
