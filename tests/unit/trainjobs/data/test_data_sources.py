import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cluster.errors import ConfigError, DatasetError
from tests.builders import scan_split
from trainjobs.data.formats.yolo_layout import label_path
from trainjobs.data.generated.shapes import generate_shapes
from trainjobs.data.sources import list_split, read_data_yaml

GOOD_ROW = "1 0.5 0.5 0.2 0.2\n"


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Three training and two validation images, with four classes."""
    folder = tmp_path / "data"
    folder.mkdir()
    generate_shapes(folder, num_train=3, num_val=2, image_size=32, seed=0)
    return folder


def write_yaml(folder: Path, text: str) -> None:
    (folder / "data.yaml").write_text(text)


def first_label(folder: Path) -> Path:
    return folder / "labels" / "train" / "000000.txt"


def first_image(folder: Path) -> Path:
    return folder / "images" / "train" / "000000.jpg"


def test_a_folder_stands_for_its_data_yaml(dataset: Path) -> None:
    assert read_data_yaml(dataset) == read_data_yaml(dataset / "data.yaml")


def test_names_may_be_a_list_or_a_mapping_in_any_order(dataset: Path) -> None:
    for names in ("[a, b, c, d]", "{2: c, 0: a, 1: b, 3: d}"):
        write_yaml(dataset, f"train: images/train\nval: images/val\nnames: {names}\n")
        assert read_data_yaml(dataset).names == ("a", "b", "c", "d")


def test_names_are_made_up_from_nc(dataset: Path) -> None:
    write_yaml(dataset, "train: images/train\nval: images/val\nnc: 4\n")
    assert read_data_yaml(dataset).names == ("class 0", "class 1", "class 2", "class 3")


def test_path_is_relative_to_the_folder_of_the_yaml(dataset: Path) -> None:
    (dataset / "conf").mkdir()
    text = "path: ..\ntrain: images/train\nval: images/val\nnc: 4\n"
    (dataset / "conf" / "x.yaml").write_text(text)
    spec = read_data_yaml(dataset / "conf" / "x.yaml")
    assert spec.root == dataset
    assert len(list_split(spec, "train")) == 3


def test_a_split_may_be_a_list_of_folders_and_text_files(dataset: Path) -> None:
    (dataset / "list.txt").write_text("./images/train/000000.jpg\nimages/train/000001.jpg\n\n")
    write_yaml(dataset, "train: [list.txt, images/val]\nval: images/val\nnc: 4\n")
    names = [image.name for image in list_split(read_data_yaml(dataset), "train")]
    assert names == ["000000.jpg", "000001.jpg", "000000.jpg", "000001.jpg"]


def test_roboflow_paths_that_start_one_folder_too_high_are_found(dataset: Path) -> None:
    write_yaml(dataset, "train: ../images/train\nval: ../images/val\nnc: 4\n")
    assert read_data_yaml(dataset).splits["train"] == (dataset / "images" / "train",)


def test_labels_lie_where_the_last_images_folder_becomes_labels() -> None:
    moved = label_path(Path("/images/x/images/train/images.v1.jpg"))
    assert moved == Path("/images/x/labels/train/images.v1.txt")
    assert label_path(Path("/x/train/a.jpg")) == Path("/x/train/a.txt")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("train: images/train\nval: images/val\n", "no key 'names'"),
        ("train: images/train\nval: images/val\nnames: []\n", "names must be a list"),
        ("train: images/train\nval: images/val\nnames: {0: a, 2: b}\n", "ids 0 to 1.*got 0, 2"),
        ("train: images/train\nval: images/val\nnames: [a, a]\n", "must differ.*: a"),
        ("train: images/train\nval: images/val\nnames: [a, [b]]\n", "not text"),
        ("train: images/train\nval: images/val\nnames: [a]\nnc: 2\n", "nc is 2.*1 names"),
        ("train: images/train\nval: images/val\nnc: 0\n", "nc must be an integer >= 1"),
        ("train: images/train\nnames: [a]\n", "no key 'val'"),
        ("val: images/val\nnames: [a]\n", "no key 'train'"),
        ("train: 3\nval: images/val\nnames: [a]\n", "train must be a folder"),
        ("train: images/trian\nval: images/val\nnames: [a]\n", r"folder or file: /.*images/trian"),
        (
            "train: images\nval: images/val\nnames: [a]\nformat: kitti\n",
            "format must be yolo or coco",
        ),
    ],
)
def test_a_wrong_data_yaml_is_named_with_what_is_wrong(
    dataset: Path, text: str, complaint: str
) -> None:
    write_yaml(dataset, text)
    with pytest.raises(DatasetError, match=rf"data\.yaml: .*{complaint}"):
        read_data_yaml(dataset)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("names: {0: a, 0: b}\n", "line 1"),
        ("a: 1\nb: [\n", "line"),
        ("- a\n- b\n", "list"),
    ],
)
def test_a_file_that_is_no_yaml_mapping_is_named_with_the_line(
    dataset: Path, text: str, place: str
) -> None:
    write_yaml(dataset, text)
    with pytest.raises(ConfigError, match=rf"data\.yaml.*{place}"):
        read_data_yaml(dataset)


def test_a_source_that_does_not_exist_is_named_in_full(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=rf"{tmp_path}/nowhere: no such file"):
        read_data_yaml(tmp_path / "nowhere")


@pytest.mark.parametrize("class_id", ["4", "-1", "0.5", "nan", "inf"])
def test_a_class_that_has_no_name_stops_with_file_and_row(dataset: Path, class_id: str) -> None:
    first_label(dataset).write_text(f"{GOOD_ROW}{class_id} 0.5 0.5 0.2 0.2\n")
    with pytest.raises(DatasetError, match=r"000000\.txt, row 2: class .* 4 names") as caught:
        scan_split(dataset, "train")
    assert (caught.value.path, caught.value.row) == (str(first_label(dataset)), 2)


def test_a_class_written_as_a_whole_float_is_read(dataset: Path) -> None:
    first_label(dataset).write_text("2.0 0.5 0.5 0.2 0.2\n")
    assert scan_split(dataset, "train").records[0].classes == [2]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("1 0.5 0.5 0.2", "4 columns"),
        ("1 0.5 0.5 0.2 0.2 0.9", "6 columns"),
        ("circle 0.5 0.5 0.2 0.2", "not numbers"),
        ("1 nan 0.5 0.2 0.2", "NaN or infinite"),
        ("1 0.5 inf 0.2 0.2", "NaN or infinite"),
        ("1 -0.1 0.5 0.2 0.2", "negative"),
        ("1 0.5 0.5 -0.2 0.2", "negative"),
        ("1 320 240 60 80", "not normalized"),
    ],
)
def test_a_bad_row_leaves_its_image_out_with_file_and_row(
    dataset: Path, row: str, reason: str
) -> None:
    first_label(dataset).write_text(f"{GOOD_ROW}\n{row}\n")  # row 2 is blank
    scanned = scan_split(dataset, "train")
    assert [record.id for record in scanned.records] == [
        "images/train/000001.jpg",
        "images/train/000002.jpg",
    ]
    assert scanned.num_skipped == 1
    (left_out,) = scanned.quarantine
    assert (left_out.file, left_out.row) == ("labels/train/000000.txt", 3)
    assert reason in left_out.reason


def test_labels_that_are_no_text_leave_their_image_out(dataset: Path) -> None:
    first_label(dataset).write_bytes(b"\xff\xfe\x00")
    (left_out,) = scan_split(dataset, "train").quarantine
    assert "UTF-8" in left_out.reason


def write_nothing(image: Path) -> None:
    image.write_bytes(b"")


def write_text(image: Path) -> None:
    image.write_text("not an image")


def cut_half(image: Path) -> None:
    data = image.read_bytes()
    image.write_bytes(data[: len(data) // 2])


@pytest.mark.parametrize("damage", [write_nothing, write_text, cut_half, Path.unlink])
def test_an_image_that_cannot_be_read_is_left_out(
    dataset: Path, damage: Callable[[Path], None]
) -> None:
    images = "".join(f"images/train/{number:06d}.jpg\n" for number in range(3))
    (dataset / "train.txt").write_text(images)
    write_yaml(dataset, "train: train.txt\nval: images/val\nnc: 4\n")
    damage(first_image(dataset))
    scanned = scan_split(dataset, "train")
    assert len(scanned.records) == 2
    assert [(row.file, row.row) for row in scanned.quarantine] == [
        ("images/train/000000.jpg", None)
    ]


def test_an_image_whose_name_is_not_utf8_is_left_out(dataset: Path) -> None:
    os.rename(first_image(dataset), os.fsencode(first_image(dataset).parent) + b"/\xff.jpg")  # noqa: PTH104 - bytes
    (left_out,) = scan_split(dataset, "train").quarantine
    assert "not UTF-8" in left_out.reason
    assert left_out.file.isascii()


def test_rows_without_area_and_repeated_rows_are_dropped(dataset: Path) -> None:
    first_label(dataset).write_text(f"{GOOD_ROW}0 0.5 0.5 0 0.2\n{GOOD_ROW}0 0.5 0.5 0.2 0.2\n")
    scanned = scan_split(dataset, "train")
    assert scanned.records[0].classes == [1, 0]
    assert scanned.num_skipped == 0
    assert [(row.row, row.reason) for row in scanned.quarantine] == [
        (2, "the box has no area; row left out"),
        (3, "repeats row 1; row left out"),
    ]


def test_a_polygon_becomes_the_box_round_it(dataset: Path) -> None:
    first_label(dataset).write_text("3 0.25 0.5 0.75 0.25 0.5 1.0\n")
    record = scan_split(dataset, "train").records[0]
    assert record.classes == [3]
    assert np.allclose(record.boxes_cxcywh_norm, [(0.5, 0.625, 0.5, 0.75)])


def test_a_polygon_is_kept_beside_its_box(dataset: Path) -> None:
    first_label(dataset).write_text(f"3 0.25 0.5 0.75 0.25 0.5 1.0\n{GOOD_ROW}")
    first, second, _ = scan_split(dataset, "train").records
    assert first.polygons_norm == [[0.25, 0.5, 0.75, 0.25, 0.5, 1.0], []]
    assert second.polygons_norm == []


def test_an_image_without_labels_is_background(dataset: Path) -> None:
    first_label(dataset).unlink()
    scanned = scan_split(dataset, "train")
    assert (len(scanned.records), scanned.records[0].classes) == (3, [])
    assert scanned.quarantine == []


def test_labels_without_an_image_are_ignored(dataset: Path) -> None:
    first_image(dataset).unlink()
    assert len(scan_split(dataset, "train").records) == 2


def test_a_split_in_which_no_image_has_labels_is_an_error(dataset: Path) -> None:
    for file in (dataset / "labels" / "train").iterdir():
        file.unlink()
    with pytest.raises(DatasetError, match=r"train: none of 3 images.*labels/train/000000\.txt"):
        scan_split(dataset, "train")


def test_a_split_without_a_usable_image_is_an_error(dataset: Path) -> None:
    for file in (dataset / "images" / "val").iterdir():
        file.write_bytes(b"")
    with pytest.raises(DatasetError, match=r"val: none of 2 images can be used; .*0 bytes"):
        scan_split(dataset, "val")


def test_an_empty_folder_is_an_error(dataset: Path) -> None:
    (dataset / "images" / "none").mkdir()
    write_yaml(dataset, "train: images/none\nval: images/val\nnc: 4\n")
    with pytest.raises(DatasetError, match=r"images/none: names no image"):
        scan_split(dataset, "train")
