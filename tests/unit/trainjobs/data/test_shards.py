"""Shards and splits: what is written comes back; what is damaged is named."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pytest

from cluster.errors import DatasetError
from tests.builders import make_split
from trainjobs.data.packed import shards as module
from trainjobs.data.packed.schema import ImageRecord, encode_shard
from trainjobs.data.packed.shards import Shard, Split

RECORDS = [
    ImageRecord(
        id="images/a.png",
        height=20,
        width=30,
        classes=[1, 0],
        boxes_cxcywh_norm=[(0.5, 0.5, 0.25, 0.25), (0.25, 0.75, 0.5, 0.125)],
        polygons_norm=[[0.25, 0.25, 0.5, 0.75, 0.75, 0.25], []],
    ),
    ImageRecord(id="images/empty.png", height=10, width=40, classes=[], boxes_cxcywh_norm=[]),
    ImageRecord(
        id="/elsewhere/c.png",
        height=50,
        width=50,
        classes=[1, 0],
        boxes_cxcywh_norm=[(0.5, 0.5, 1.0, 1.0), (0.5, 0.5, 0.5, 0.5)],
        areas_px=[2500, 99],
        crowd=[True, False],
    ),
]
RED = np.full((20, 30, 3), (0, 0, 255), np.uint8)  # OpenCV writes BGR
IMAGES = [cv2.imencode(".png", RED)[1].tobytes(), b"no image", b""]


@pytest.fixture(params=[1, 2, 1000])
def split(tmp_path: Path, request: pytest.FixtureRequest) -> Split:
    return make_split(tmp_path, RECORDS, IMAGES, images_per_shard=request.param)


def test_a_split_gives_back_what_was_written(split: Split) -> None:
    assert len(split) == sum(split.shard_sizes) == 3
    assert split.names == ("cat", "dog")
    assert split.sizes.tolist() == [[20, 30], [10, 40], [50, 50]]
    for index, record in enumerate(RECORDS):
        shard, row = split.shard_of(index)
        classes, boxes = shard.labels(row)
        assert split.id(index) == shard.id(row) == record.id
        assert split.size(index) == (record.height, record.width)
        assert classes.tolist() == record.classes
        assert [tuple(box) for box in boxes.tolist()] == record.boxes_cxcywh_norm
        assert shard.image(row).tobytes() == IMAGES[index]
        assert shard.crowd(row).tolist() == record.all_crowd()
        assert shard.areas_px(row).tolist() == record.all_areas()
        points, counts = shard.outlines(row) or (np.zeros((0, 2)), [0] * len(classes))
        ends = np.cumsum(counts)[:-1]
        found = [part.ravel().tolist() for part in np.split(points, ends)] if len(classes) else []
        assert found == record.all_polygons()


def test_areas_are_those_of_the_boxes_unless_the_source_has_its_own(split: Split) -> None:
    shard, row = split.shard_of(0)
    assert shard.areas_px(row).tolist() == [20 * 30 / 16] * 2


def test_crowds_are_not_trained_on(split: Split) -> None:
    classes, boxes = split.labels(2)
    assert classes.tolist() == [0] and boxes.tolist() == [[0.5, 0.5, 0.5, 0.5]]


def test_outlines_of_crowds_are_left_out_with_their_boxes(tmp_path: Path) -> None:
    box, shape = (0.5, 0.5, 0.5, 0.5), [0.25, 0.25, 0.5, 0.75, 0.75, 0.25]
    record = ImageRecord(
        id="a.png",
        height=20,
        width=20,
        classes=[0, 1, 0],
        boxes_cxcywh_norm=[box] * 3,
        polygons_norm=[[*shape, 0.5, 0.25], [], shape],
        crowd=[True, False, False],
    )
    points, counts = make_split(tmp_path, [record], [b""]).outlines(0)
    assert counts.tolist() == [0, 3] and points.ravel().tolist() == shape


def test_a_split_without_outlines_says_so(tmp_path: Path) -> None:
    assert make_split(tmp_path, RECORDS[1:]).outlines(0) is None


@pytest.mark.parametrize(
    ("polygon", "reason"),
    [
        ([0.0, 0.0, 1.0, 1.0], "three points or none"),
        ([0.0, 0.0, 1.0, 1.0, 0.0, 1.0, 0.5], "three points or none"),
        ([0.0, 0.0, 1.0, 1.0, 0.0, float("nan")], "outlines must be finite"),
    ],
)
def test_a_shard_with_an_outline_that_is_none_is_refused(
    tmp_path: Path, polygon: list[float], reason: str
) -> None:
    record = dataclasses.replace(RECORDS[0], polygons_norm=[polygon, []])
    (tmp_path / "x.arrow").write_bytes(encode_shard([record], [b""], "ab"))
    with pytest.raises(DatasetError, match=reason):
        Shard(tmp_path / "x.arrow", 1, 2)


def test_labels_have_their_types_also_without_a_box(split: Split) -> None:
    classes, boxes = split.labels(1)
    assert (classes.shape, classes.dtype) == ((0,), np.int64)
    assert (boxes.shape, boxes.dtype) == ((0, 4), np.float32)


def test_labels_are_copies(split: Split) -> None:
    split.labels(0)[1][:] = 0
    assert split.labels(0)[1].min() > 0


def test_images_are_decoded(split: Split) -> None:
    image = split.read_image(0)
    assert image.shape == (20, 30, 3) and image[0, 0].tolist() == [255, 0, 0]


def test_an_image_that_cannot_be_decoded_is_named_with_its_shard(split: Split) -> None:
    with pytest.raises(DatasetError, match=r"train-0000\d\.arrow: images/empty\.png: damaged"):
        split.read_image(1)


def test_few_shards_are_open_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_OPEN_SHARDS", 2)
    split = make_split(tmp_path, RECORDS, images_per_shard=1)
    assert [split.id(index) for index in (0, 1, 2, 0)] == [RECORDS[i].id for i in (0, 1, 2, 0)]
    assert len(split._open) == 2


def test_a_shard_that_is_gone_or_shorter_than_the_index_says_is_named(tmp_path: Path) -> None:
    split = make_split(tmp_path, RECORDS)
    file = tmp_path / "train-00000.arrow"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(DatasetError, match=r"train-00000\.arrow: has \d+ bytes, the index says"):
        split.id(0)
    file.unlink()
    with pytest.raises(DatasetError, match=r"train-00000\.arrow: No such file"):
        split.id(0)


def test_a_shard_that_leaves_a_full_cache_at_once_is_fetched_again_and_then_named(
    tmp_path: Path,
) -> None:
    split = make_split(tmp_path, RECORDS)
    answers = [tmp_path / "gone", tmp_path / "train-00000.arrow"]
    fetched = Split(split._entry, split.names, lambda entry: answers.pop(0))
    assert fetched.id(0) == RECORDS[0].id and not answers
    never = Split(split._entry, split.names, lambda entry: tmp_path / "gone")
    with pytest.raises(DatasetError, match=r"left the node's cache .* raise data\.cache_gib"):
        never.id(0)


def test_a_file_that_is_no_shard_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.arrow"
    for content in (b"", b"not arrow at all", encode_shard(RECORDS, IMAGES, "ab")[:-200]):
        file.write_bytes(content)
        with pytest.raises(DatasetError, match=r"x\.arrow: is no whole shard"):
            Shard(file, 3, 2)


def test_a_shard_with_another_number_of_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.arrow").write_bytes(encode_shard(RECORDS, IMAGES, "ab"))
    with pytest.raises(DatasetError, match="has 3 images, the index says 4"):
        Shard(tmp_path / "x.arrow", 4, 2)


def test_a_class_without_a_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.arrow").write_bytes(encode_shard(RECORDS, IMAGES, "a"))
    with pytest.raises(DatasetError, match="classes must be from 0 to 0"):
        Shard(tmp_path / "x.arrow", 3, 1)


def test_a_shard_of_another_format_or_with_other_columns_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "x.arrow"
    with monkeypatch.context() as other:
        other.setattr("trainjobs.data.packed.schema.FORMAT_VERSION", 99)
        file.write_bytes(encode_shard(RECORDS, IMAGES, "ab"))
    with pytest.raises(DatasetError, match="format_version 99, this is format 1; pack anew"):
        Shard(file, 3, 2)
    schema = pa.schema([("id", pa.int32())], metadata={"trainjobs": '{"format_version": 1}'})
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        column = pa.Array.from_buffers(pa.int32(), 0, [None, pa.py_buffer(b"")])
        writer.write_batch(pa.RecordBatch.from_arrays([column], schema=schema))
    with pytest.raises(DatasetError, match="other columns than id, image"):
        Shard(file, 0, 2)


def test_writing_and_reading_do_not_load_pandas(tmp_path: Path) -> None:
    # pyarrow's own conversions do, which takes seconds at the start of every process.
    script = (
        "import sys; from pathlib import Path; from trainjobs.data.packed.schema import *\n"
        "from trainjobs.data.packed.shards import Shard\n"
        "one = ImageRecord(id='a', height=9, width=9, classes=[], boxes_cxcywh_norm=[])\n"
        "file = Path(sys.argv[1]); file.write_bytes(encode_shard([one], [b'x'], ['x']))\n"
        "shard = Shard(file, 1, 1)\n"
        "assert shard.sizes.shape == (1, 2) and not len(shard.labels(0)[0])\n"
        "assert shard.id(0) == 'a' and shard.image(0) == b'x' and shard.outlines(0) is None\n"
        "assert 'pandas' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script, tmp_path / "x.arrow"], check=True)
