from pathlib import Path

import numpy as np
import pytest

from cluster.errors import DatasetError
from tests.builders import scan_split
from tests.labeled_images import HEIGHT, WIDTH, voc_text, write_dataset, write_xml, write_yaml
from trainjobs.data.scanning import QuarantineRow, Scanned

GOOD = ("dog", (10.0, 4.0, 30.0, 8.0))
BOX = "<xmin>10</xmin><ymin>4</ymin><xmax>30</xmax><ymax>8</ymax>"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Images a.png (two objects), b.png (one) and c.png (none); each of 40 x 32 px."""
    return write_dataset(tmp_path, "voc")


def scan(source: Path, text: str) -> Scanned:
    """With another XML for b.png."""
    write_xml(source.parent, "train/b.png", text)
    return scan_split(source, "train")


def assert_left_out(scanned: Scanned, row: int | None, reason: str) -> None:
    assert [Path(record.id).name for record in scanned.records] == ["a.png", "c.png"]
    assert scanned.quarantine == [
        QuarantineRow("xml/train/b.xml", row, f"{reason}; image left out")
    ]


def test_difficult_and_truncated_objects_parts_and_file_names_change_nothing(source: Path) -> None:
    more = (
        "<difficult>1</difficult><truncated>1</truncated>"
        f"<part><name>head</name><bndbox>{BOX.replace('10', '12')}</bndbox></part>"
    )
    text = voc_text([GOOD]).replace("</object>", f"{more}</object>")
    text = text.replace("<size>", "<filename>other.jpg</filename><size>")
    record = scan(source, text).records[1]
    assert record.classes == [1]
    assert np.allclose(record.boxes_cxcywh_norm, [(20 / 40, 6 / 32, 20 / 40, 4 / 32)])
    assert (record.polygons_norm, record.areas_px, record.crowd) == ([], [], [])


def test_text_may_stand_between_spaces(source: Path) -> None:
    text = voc_text([GOOD]).replace(">dog<", ">\n dog <").replace(">30.0<", "> 30 <")
    assert scan(source, text).records[1].classes == [1]


def test_a_box_that_overshoots_its_image_by_a_pixel_is_cut_off(source: Path) -> None:
    record = scan(source, voc_text([("dog", (-1.0, -0.5, 41.0, 33.0))])).records[1]
    assert record.boxes_cxcywh_norm == [(0.5, 0.5, 1.0, 1.0)]


@pytest.mark.parametrize(
    ("box", "reason"),
    [
        (BOX.replace("30", "8"), "a size is negative (-2 x 4 px)"),
        (BOX.replace("30", "nan"), "a coordinate is NaN or infinite"),
        (BOX.replace("30", "1e999"), "a coordinate is NaN or infinite"),
        (BOX.replace("30", "42"), "reaches 2 px out of the image of 40 x 32 px"),
        (BOX.replace("10", "-3"), "reaches 3 px out of the image of 40 x 32 px"),
        (BOX.replace("30", "wide"), "<xmax> is no number: 'wide'"),
        (BOX.replace("30", ""), "<xmax> is no number: None"),
        ("<xmin>10</xmin><ymax>8</ymax>", "<bndbox> has no ymin, xmax"),
        ("", "<bndbox> has no xmin, ymin, xmax, ymax"),
    ],
)
def test_a_bad_object_leaves_its_image_out_with_its_line(
    source: Path, box: str, reason: str
) -> None:
    bad = f"<object><name>dog</name><bndbox>{box}</bndbox></object>\n</annotation>"
    text = voc_text([GOOD]).replace("</annotation>", bad)
    assert_left_out(scan(source, text), 4, reason)


def test_repeated_objects_are_dropped_and_listed(source: Path) -> None:
    scanned = scan(source, voc_text([GOOD, GOOD]))
    assert scanned.records[1].classes == [1]
    assert scanned.quarantine == [
        QuarantineRow("xml/train/b.xml", 4, "repeats row 3; row left out")
    ]


@pytest.mark.parametrize("name", ["horse", "Dog", "", "1"])
def test_a_name_that_is_no_class_stops_with_file_line_and_names(source: Path, name: str) -> None:
    complaint = f"class '{name}' is not among the 3 names of the dataset: cat, dog, owl"
    with pytest.raises(DatasetError, match=rf"xml/train/b\.xml, row 3: {complaint}"):
        scan(source, voc_text([(name, GOOD[1])]))


@pytest.mark.parametrize(("width", "height"), [(0, 0), (WIDTH, HEIGHT)])
def test_a_size_of_nothing_is_not_compared(source: Path, width: int, height: int) -> None:
    assert len(scan(source, voc_text([GOOD], width, height)).records) == 3


def test_an_xml_without_a_size_is_read(source: Path) -> None:
    lines = voc_text([GOOD]).splitlines()
    assert len(scan(source, "\n".join([lines[0], *lines[2:]])).records) == 3


@pytest.mark.parametrize(("width", "height"), [(HEIGHT, WIDTH), (80, 64), (float("nan"), 32)])
def test_labels_for_an_image_of_another_size_leave_the_image_out(
    source: Path, width: int, height: int
) -> None:
    reason = f"is for {width} x {height} px, but b.png has 40 x 32"
    assert_left_out(scan(source, voc_text([GOOD], width, height)), None, reason)


BOMB = "".join(f'<!ENTITY a{i} "&a{i - 1};&a{i - 1};&a{i - 1};&a{i - 1};">' for i in range(1, 40))


@pytest.mark.parametrize(
    "doctype",
    [
        f'<!DOCTYPE annotation [<!ENTITY a0 "lol">{BOMB}]>',
        '<!DOCTYPE annotation [<!ENTITY a39 SYSTEM "file:///etc/passwd">]>',
        '<!DOCTYPE annotation [<!ENTITY % a SYSTEM "http://localhost/a.dtd"> %a;]>',
        '<!DOCTYPE annotation SYSTEM "http://localhost/a.dtd">',
    ],
)
def test_a_doctype_is_refused_before_an_entity_is_read(source: Path, doctype: str) -> None:
    text = f'<?xml version="1.0"?>\n{doctype}\n{voc_text([("&a39;", GOOD[1])])}'
    assert_left_out(scan(source, text), 2, "has a DOCTYPE, which may define entities; remove it")


@pytest.mark.parametrize(
    ("text", "row", "reason"),
    [
        ("", 1, "is not XML: no element found"),
        ("<annotation>\n<object>\n</annotation>", 3, "is not XML: mismatched tag"),
        ("<annotation>&a;</annotation>", 1, "is not XML: undefined entity"),
        ("<html/>", None, "is no VOC annotation, but <html>"),
        ('<?xml version="1.0" encoding="klingon"?><annotation/>', None, "is not XML: unknown encoding: klingon"),
        ('<?xml version="1.0" encoding="utf-7"?><annotation/>', None, "is not XML: multi-byte encodings are not supported"),
    ],
)  # fmt: skip
def test_what_is_no_voc_xml_leaves_its_image_out(
    source: Path, text: str, row: int | None, reason: str
) -> None:
    assert_left_out(scan(source, text), row, reason)


def test_other_encodings_are_read(source: Path) -> None:
    text = '<?xml version="1.0" encoding="ISO-8859-1"?>\n<!-- \xe9 -->' + voc_text([GOOD])
    file = source.parent / "xml" / "train" / "b.xml"
    for encoding in ("latin-1", "utf-16"):
        file.write_bytes(text.replace("ISO-8859-1", encoding).encode(encoding))
        assert len(scan_split(source, "train").records) == 3


def test_a_list_of_images_has_its_xml_files_by_name(source: Path) -> None:
    (source.parent / "list.txt").write_text("images/train/a.png\nimages/train/b.png\n")
    annotations = {"train": "xml/train", "val": "xml/val"}
    source = write_yaml(source.parent, "voc", train="list.txt", annotations=annotations)
    scanned = scan_split(source, "train")
    assert [record.classes for record in scanned.records] == [[2, 0], [1]]
