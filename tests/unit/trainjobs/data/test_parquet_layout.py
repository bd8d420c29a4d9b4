"""Parquet files with images: rows are images, whichever way their labels and names are written."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from cluster.errors import DatasetError
from tests.classified_images import make_png, write_parquet
from trainjobs.config import DataConfig
from trainjobs.data.packing import plan_shards
from trainjobs.data.prepare import Prepared, prepare_dataset
from trainjobs.data.scanning import open_split
from trainjobs.data.sources import read_data_yaml

NAMES = ["cat", "dog", "owl"]
IMAGES = [make_png(number) for number in range(9)]
LABELS = pa.array([0, 1, 2] * 3, pa.int8())


def prepare(source: Path, cache: Path) -> Prepared:
    return prepare_dataset(str(source), cache, DataConfig(), seed=0)


def write_both(root: Path, images: object = IMAGES, labels: object = LABELS, **options) -> Path:
    """train.parquet as given, and a good val.parquet."""
    write_parquet(root / "train.parquet", images, labels, **{"classes": NAMES} | options)
    write_parquet(root / "val.parquet", IMAGES[:3], LABELS[:3], classes=NAMES)
    return root


def classes_of(prepared: Prepared, split: str = "train") -> list[str]:
    opened = prepared.open(split)
    return [prepared.names[opened.label(index)] for index in range(len(opened))]


def test_a_row_is_an_image_with_its_class_and_its_bytes(tmp_path: Path) -> None:
    prepared = prepare(write_both(tmp_path / "data"), tmp_path / "cache")
    train = prepared.open("train")
    assert prepared.names == tuple(NAMES) and classes_of(prepared) == NAMES * 3
    assert [train.id(index) for index in (0, 8)] == ["train.parquet#0", "train.parquet#8"]
    assert [bytes(train.encoded(index)) for index in range(9)] == IMAGES
    assert train.labels(4)[1].tolist() == [[0.5, 0.5, 1, 1]]


@pytest.mark.parametrize(
    "labels",
    [
        ["owl", "cat", "dog"] * 3,
        pa.array(["owl", "cat", "dog"] * 3).dictionary_encode(),
        pa.array([2, 0, 1] * 3, pa.int64()),
    ],
)
def test_labels_are_texts_or_numbers(labels: object, tmp_path: Path) -> None:
    prepared = prepare(write_both(tmp_path / "data", labels=labels), tmp_path / "cache")
    assert classes_of(prepared) == ["owl", "cat", "dog"] * 3


def test_hugging_faces_layout_is_read(tmp_path: Path) -> None:
    images = pa.array([{"bytes": data, "path": "x.png"} for data in IMAGES])
    features = {"info": {"features": {"label": {"names": NAMES, "_type": "ClassLabel"}}}}
    for file in ("train-00000-of-00001", "validation-00000-of-00001"):
        path = tmp_path / "data" / "data" / f"{file}.parquet"
        write_parquet(path, images, LABELS, huggingface=features)
    prepared = prepare(tmp_path / "data", tmp_path / "cache")
    assert classes_of(prepared) == classes_of(prepared, "val") == NAMES * 3


def test_shards_are_the_same_however_rows_are_dealt_to_tasks(tmp_path: Path) -> None:
    spec = read_data_yaml(write_both(tmp_path / "data", group=2))
    source = open_split(spec, "train")
    size = 3 * len(IMAGES[0])
    plans = plan_shards("train", source.images, size)
    assert len(plans) > 1
    rows = sorted(image.row for plan in plans for image in plan.images)
    assert rows == list(range(9))
    again = open_split(read_data_yaml(tmp_path / "data"), "train")
    assert plan_shards("train", again.images, size) == plans


def test_a_row_without_a_readable_image_is_left_out_and_named(tmp_path: Path) -> None:
    images = [*IMAGES[:4], None, b"no image", *IMAGES[6:]]
    prepared = prepare(write_both(tmp_path / "data", images), tmp_path / "cache")
    found = {(row.file, row.reason.split("(")[0].strip()) for row in prepared.quarantine}
    assert {file for file, _ in found} <= {"train.parquet", "train.parquet#4", "train.parquet#5"}
    assert len(prepared.quarantine) == 2 and prepared.counts == {"train": 7, "val": 3}


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (pa.array([0, 1, 2, 3, *[0] * 5]), r"train\.parquet.*3.*label 3 must be from 0 to 2"),
        (pa.array([0, -1, *[0] * 7]), r"train\.parquet.*1.*label -1 is negative"),
        (pa.array([0, None, *[0] * 7]), r"train\.parquet.*1.*the label is null"),
        (["cat", "cow", *["dog"] * 7], r"train\.parquet.*1.*class 'cow' is not among the 3 names"),
    ],
)
def test_a_label_that_is_no_class_is_an_error_with_its_row(
    labels: object, message: str, tmp_path: Path
) -> None:
    root = write_both(tmp_path / "data", labels=labels)
    with pytest.raises(DatasetError, match=message):
        prepare(root, tmp_path / "cache")


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    root = write_both(tmp_path / "data")
    file = root / "train.parquet"
    whole = file.read_bytes()
    rng = np.random.default_rng(0)
    contents = [b"", b"PAR1", whole[:-9], whole[: len(whole) // 2], rng.bytes(500)]
    for number, content in enumerate(contents):
        file.write_bytes(content)
        with pytest.raises(DatasetError, match=r"train\.parquet"):
            prepare(root, tmp_path / f"cache{number}")


def test_a_column_that_is_missing_is_named_with_those_there_are(tmp_path: Path) -> None:
    root = write_both(tmp_path / "data")
    (root / "data.yaml").write_text(
        "format: parquet\ntrain: train.parquet\nval: val.parquet\nimage: picture\n"
    )
    with pytest.raises(DatasetError, match=r"train\.parquet.*picture.*image.*label"):
        prepare(root, tmp_path / "cache")
