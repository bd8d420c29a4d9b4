"""Image folders, and what every dataset for classification has in common."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest

from cluster.errors import DatasetError
from tests.builders import make_split, scan_split
from tests.classified_images import make_png, write_folders
from trainjobs.check_data import check_dataset
from trainjobs.config import DataConfig
from trainjobs.data.generated.shapes import generate_shapes
from trainjobs.data.one_class import check_one_class_per_image
from trainjobs.data.packed.schema import ImageRecord
from trainjobs.data.prepare import Prepared, prepare_dataset
from trainjobs.data.scanning import QuarantineRow
from trainjobs.data.sources import read_data_yaml

BOTH = {"train": ("owl", "cat"), "val": ("cat", "owl")}


def prepare(source: Path, cache: Path) -> Prepared:
    return prepare_dataset(str(source), cache, DataConfig(), seed=0)


def test_a_folder_is_a_class_and_the_image_its_only_box(tmp_path: Path) -> None:
    prepared = prepare(write_folders(tmp_path / "data", BOTH), tmp_path / "cache")
    assert prepared.names == ("cat", "owl")
    assert prepared.counts == {"train": 4, "val": 4}
    assert prepared.index.splits["train"].num_boxes == (2, 2)
    check_one_class_per_image(prepared, "data")
    train = prepared.open("train")
    assert [(train.id(i), train.label(i)) for i in (0, 3)] == [
        ("train/cat/0.png", 0),
        ("train/owl/1.png", 1),
    ]
    classes, boxes = train.labels(0)
    assert classes.tolist() == [0] and boxes.tolist() == [[0.5, 0.5, 1, 1]]
    shard, row = train.shard_of(0)
    assert shard.areas_px(row).tolist() == [12 * 16] and shard.outlines(row) is None


def test_nested_folders_belong_to_the_class_and_hidden_ones_to_none(tmp_path: Path) -> None:
    root = write_folders(tmp_path, BOTH)
    for folder in ("cat/deep/er", ".previews"):
        (root / "train" / folder).mkdir(parents=True)
        (root / "train" / folder / "x.png").write_bytes(make_png(99))
    found = {record.id: record.classes for record in scan_split(root, "train").records}
    assert found["train/cat/deep/er/x.png"] == [0] and len(found) == 5


def test_names_of_a_data_yaml_give_the_order(tmp_path: Path) -> None:
    root = write_folders(tmp_path, {"train": ("owl", "cat"), "check": ("owl",)})
    content = {"format": "folder", "train": "train", "val": "check", "names": ["owl", "cat"]}
    (root / "data.yaml").write_text(json.dumps(content))
    assert read_data_yaml(root).names == ("owl", "cat")
    assert scan_split(root, "val").records[0].classes == [0]
    (root / "data.yaml").write_text(json.dumps({**content, "names": ["owl", "dog"]}))
    with pytest.raises(DatasetError, match="train/cat: class 'cat' is not among the 2 names"):
        read_data_yaml(root)


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_without_a_validation_split_test_is_used_and_said(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = write_folders(tmp_path / "data", {"train": ("a", "b"), "test": ("a",)})
    with caplog.at_level(logging.WARNING):
        assert prepare(root, tmp_path / "cache").counts == {"train": 4, "val": 2}
    assert caplog.text.count("`test` is used for validation") == 1
    write_folders(root, {name: ("b",)})
    spec = read_data_yaml(root)
    assert [*spec.splits] == ["train", "val", "test"] and not spec.notes


def test_an_empty_class_folder_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = write_folders(tmp_path / "data", BOTH)
    (root / "train" / "dog").mkdir()
    prepared = prepare(root, tmp_path / "cache")
    assert prepared.names == ("cat", "dog", "owl")
    assert "train: no image in the folder of dog" in caplog.text


def test_an_image_in_no_class_folder_is_left_out(tmp_path: Path) -> None:
    root = write_folders(tmp_path, BOTH)
    (root / "val" / "x.png").write_bytes(make_png(0))
    found = scan_split(root, "val")
    reason = "lies in no folder of a class; image left out"
    assert found.quarantine == [QuarantineRow("val/x.png", None, reason)]
    assert len(found.records) == 4


@pytest.mark.parametrize(
    ("classes", "complaint"),
    [
        ({"train": ("a",), "val": ("a", "zebra")}, "val/zebra: val has a class that train has not: 'zebra'"),
        ({"train": (), "val": ("a",)}, "train: .*/train has no folder per class"),
        ({"train": ("a",)}, "has train but neither val nor test"),
        ({"val": ("a",)}, "has val but no train"),
        ({"training": ("a",)}, "has no data.yaml, nor train/<class>/"),
        ({"train": ("images", "labels"), "val": ("images", "labels")}, "looks like a YOLO dataset"),
        ({"train": ("a\udcff",), "val": ("a\udcff",)}, "the name of a class must be UTF-8"),
    ],
)  # fmt: skip
def test_a_folder_that_is_no_dataset_is_named_with_what_is_wrong(
    classes: dict[str, tuple[str, ...]], complaint: str, tmp_path: Path
) -> None:
    for split in classes:
        (tmp_path / split).mkdir()
    write_folders(tmp_path, classes)
    with pytest.raises(DatasetError, match=complaint):
        read_data_yaml(tmp_path)


def test_a_list_of_files_is_no_image_folder(tmp_path: Path) -> None:
    root = write_folders(tmp_path, BOTH)
    (root / "val.txt").write_text("train/cat/0.png\n")
    content = {"format": "folder", "train": "train", "val": "val.txt"}
    (root / "data.yaml").write_text(json.dumps(content))
    with pytest.raises(DatasetError, match=r"data\.yaml: val: must be a folder with a folder per"):
        read_data_yaml(root)


def test_a_classifier_refuses_a_dataset_for_detection(tmp_path: Path) -> None:
    (tmp_path / "shapes").mkdir()
    generate_shapes(tmp_path / "shapes", num_train=3, num_val=2, image_size=32, seed=0)
    prepared = prepare(tmp_path / "shapes", tmp_path / "cache")
    with pytest.raises(DatasetError, match="shapes: train: a classifier needs one class per "):
        check_one_class_per_image(prepared, "shapes")


@pytest.mark.parametrize("count", [0, 2])
def test_an_image_without_its_one_class_is_named(count: int, tmp_path: Path) -> None:
    boxes = [(0.5, 0.5, 1.0, 1.0)] * count
    record = ImageRecord(
        id="x.jpg", height=9, width=9, classes=[1] * count, boxes_cxcywh_norm=boxes
    )
    with pytest.raises(
        DatasetError, match=rf"arrow: x\.jpg: has {count} boxes; a classifier needs"
    ):
        make_split(tmp_path, [record]).label(0)


def test_a_check_has_no_pictures_or_table_of_boxes(tmp_path: Path) -> None:
    root = write_folders(tmp_path / "data", BOTH)
    (root / "val" / "cat" / "again.png").write_bytes(make_png(0))
    packed = Path(prepare(root, tmp_path / "cache").location)
    for source in (root, packed):
        checked = check_dataset(str(source), str(tmp_path / "check"), DataConfig())
        assert not checked.refusals and "box" not in checked.text
        assert "images  train  share  val  share" in checked.text
        pictures = {file.name for file in (tmp_path / "check").glob("*.png")}
        assert pictures == {"classes.png", "samples.png", "leaks.png"}


def test_another_class_is_another_fingerprint(tmp_path: Path) -> None:
    root = write_folders(tmp_path / "data", BOTH)
    before = prepare(root, tmp_path / "cache")
    assert prepare(root, tmp_path / "cache") == before
    (root / "train" / "cat" / "0.png").rename(root / "train" / "owl" / "2.png")
    after = prepare(root, tmp_path / "cache")
    assert after.fingerprint != before.fingerprint
    assert np.array_equal(after.index.splits["train"].num_boxes, (1, 3))
