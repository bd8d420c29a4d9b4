import pickle
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from cluster.errors import DatasetError
from trainjobs.data.schema import ImageRecord, Split, write_split

RECORDS = [
    ImageRecord(
        id="images/a.png",
        height=20,
        width=30,
        classes=[1, 0],
        boxes_cxcywh_norm=[(0.5, 0.5, 0.25, 0.25), (0.25, 0.75, 0.5, 0.125)],
    ),
    ImageRecord(id="images/empty.png", height=10, width=40, classes=[], boxes_cxcywh_norm=[]),
    ImageRecord(
        id="/elsewhere/c.png",
        height=50,
        width=50,
        classes=[1],
        boxes_cxcywh_norm=[(0.5, 0.5, 1.0, 1.0)],
    ),
]


@pytest.fixture
def split(tmp_path: Path) -> Split:
    write_split(tmp_path / "train.arrow", RECORDS, root=tmp_path, names=["cat", "dog"])
    (tmp_path / "images").mkdir()
    cv2.imwrite(str(tmp_path / "images" / "a.png"), np.full((20, 30, 3), (0, 0, 255), np.uint8))
    return Split(tmp_path / "train.arrow")


def test_a_split_gives_back_what_was_written(split: Split) -> None:
    assert len(split) == 3
    assert split.names == ("cat", "dog")
    assert split.sizes.tolist() == [[20, 30], [10, 40], [50, 50]]
    assert split.sizes.dtype == np.int32
    for index, record in enumerate(RECORDS):
        classes, boxes = split.labels(index)
        assert split.id(index) == record.id
        assert classes.tolist() == record.classes
        assert [tuple(box) for box in boxes.tolist()] == record.boxes_cxcywh_norm


def test_labels_have_their_types_also_without_a_box(split: Split) -> None:
    classes, boxes = split.labels(1)
    assert (classes.shape, classes.dtype) == ((0,), np.int64)
    assert (boxes.shape, boxes.dtype) == ((0, 4), np.float32)


def test_labels_are_copies(split: Split) -> None:
    split.labels(0)[1][:] = 0
    assert split.labels(0)[1].min() > 0


def test_a_split_pickles_as_its_file_name(split: Split) -> None:
    split.read_image(0)
    data = pickle.dumps(split)
    assert len(data) < 400
    assert pickle.loads(data).labels(0)[0].tolist() == [1, 0]


def test_images_are_read_below_the_root(split: Split) -> None:
    assert split.read_image(0)[0, 0].tolist() == [255, 0, 0]


def test_a_kept_image_cannot_be_changed_by_its_reader(split: Split) -> None:
    with pytest.raises(ValueError, match="read-only"):
        split.read_image(0)[:] = 0


def test_an_image_that_is_gone_is_named(split: Split) -> None:
    with pytest.raises(DatasetError, match=r"/elsewhere/c\.png: No such file"):
        split.read_image(2)


def test_scanning_and_reading_do_not_load_pandas(tmp_path: Path) -> None:
    # pyarrow's own conversions do, which takes seconds at the start of every process.
    script = (
        "import sys; from pathlib import Path; from trainjobs.data.schema import *\n"
        "one = ImageRecord(id='a', height=9, width=9, classes=[], boxes_cxcywh_norm=[])\n"
        "write_split(Path(sys.argv[1]), [one], root=Path('/'), names=['x'])\n"
        "split = Split(Path(sys.argv[1]))\n"
        "assert split.sizes.shape == (1, 2) and not len(split.labels(0)[0])\n"
        "assert 'pandas' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script, tmp_path / "x.arrow"], check=True)


def test_a_damaged_index_is_named(tmp_path: Path) -> None:
    (tmp_path / "train.arrow").write_bytes(b"not arrow at all")
    with pytest.raises(DatasetError, match=r"train\.arrow: is no index"):
        len(Split(tmp_path / "train.arrow"))


def test_an_index_of_another_format_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as other:
        other.setattr("trainjobs.data.schema.SCHEMA_VERSION", 99)
        write_split(tmp_path / "old.arrow", RECORDS, root=tmp_path, names=["cat", "dog"])
    with pytest.raises(DatasetError, match="format 99"):
        _ = Split(tmp_path / "old.arrow").names
