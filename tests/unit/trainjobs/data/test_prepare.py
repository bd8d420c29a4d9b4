import csv
import dataclasses
import logging
import multiprocessing
import shutil
from pathlib import Path

import pytest

from cluster.errors import DatasetError
from trainjobs.config import DataConfig
from trainjobs.data.generated.datasets import SHAPES, THUMBNAILS
from trainjobs.data.generated.shapes import generate_shapes
from trainjobs.data.generated.thumbnails import THUMBNAIL_NAMES
from trainjobs.data.mixture import log_summary
from trainjobs.data.prepare import Prepared, packed_location, prepare_dataset

CONFIG = DataConfig(image_size=32, generated_images=3)


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    generate_shapes(folder, num_train=12, num_val=2, image_size=32, seed=0)
    return folder


def prepare(dataset: Path, config: DataConfig = CONFIG) -> Prepared:
    return prepare_dataset(str(dataset), dataset.parent / "cache", config, seed=0)


def image(dataset: Path, number: int) -> Path:
    return dataset / "images" / "train" / f"{number:06d}.jpg"


def test_both_splits_are_ready_with_names_and_counts(dataset: Path) -> None:
    prepared = prepare(dataset)
    assert prepared.names == ("circle", "square", "triangle", "star")
    assert prepared.counts == {"train": 12, "val": 2}
    assert {split: len(prepared.open(split)) for split in ("train", "val")} == prepared.counts
    assert prepared.open("val").read_image(1).shape == (32, 32, 3)


def test_an_unchanged_dataset_is_not_packed_again(dataset: Path) -> None:
    first = prepare(dataset)
    written = Path(first.location, "train-00000.arrow").stat().st_mtime_ns
    second = prepare(dataset)
    assert second == first
    assert Path(second.location, "train-00000.arrow").stat().st_mtime_ns == written


@pytest.mark.parametrize("change", ["label", "new image", "names"])
def test_a_changed_dataset_is_packed_anew(dataset: Path, change: str) -> None:
    before = prepare(dataset)
    if change == "label":
        (dataset / "labels" / "train" / "000000.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    elif change == "new image":
        (dataset / "images" / "train" / "new.jpg").write_bytes(image(dataset, 0).read_bytes())
    else:
        yaml = dataset / "data.yaml"
        yaml.write_text(yaml.read_text().replace("star", "asterisk"))
    after = prepare(dataset)
    assert after.fingerprint != before.fingerprint
    assert after.location != before.location


def test_a_copy_elsewhere_has_the_same_fingerprint(dataset: Path, tmp_path: Path) -> None:
    copy = tmp_path / "another-host" / "dataset"
    shutil.copytree(dataset, copy, copy_function=shutil.copy)  # with times of its own
    assert prepare(copy).fingerprint == prepare(dataset).fingerprint
    assert prepare(copy).location != prepare(dataset).location


def test_without_a_source_a_dataset_is_generated_once(tmp_path: Path) -> None:
    few = dataclasses.replace(SHAPES, num_val=2)  # to save a second
    first = prepare_dataset(None, tmp_path, CONFIG, 7, generated=few)
    assert first.counts == {"train": 3, "val": 2}
    assert prepare_dataset(None, tmp_path, CONFIG, 7, generated=few) == first
    assert len(list(tmp_path.glob("prepared/shapes-v1-3-32px-seed7"))) == 1


def test_each_job_generates_a_dataset_of_its_own(tmp_path: Path) -> None:
    kinds = [dataclasses.replace(kind, num_val=2) for kind in (SHAPES, THUMBNAILS)]
    one, other = (prepare_dataset(None, tmp_path, CONFIG, 7, generated=kind) for kind in kinds)
    assert one.fingerprint != other.fingerprint and one.location != other.location
    assert other.names == THUMBNAIL_NAMES


def test_left_out_items_are_in_quarantine_csv(dataset: Path) -> None:
    image(dataset, 3).write_bytes(b"")
    (dataset / "labels" / "train" / "000005.txt").write_text(
        "0 0.5 0.5 0.1 0.1\n0 0.5 0.5 0.1 0.1\n"
    )
    prepared = prepare(dataset)
    with Path(prepared.location, "quarantine.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert rows == [
        {
            "file": "images/train/000003.jpg",
            "row": "",
            "reason": "the file is empty (0 bytes)",
        },
        {
            "file": "labels/train/000005.txt",
            "row": "2",
            "reason": "repeats row 1; row left out",
        },
    ]
    assert prepared.skipped == {"train": 1, "val": 0}


def test_ten_bad_images_are_allowed_whatever_their_share(dataset: Path) -> None:
    for number in range(10):
        image(dataset, number).write_bytes(b"")
    assert prepare(dataset).counts["train"] == 2


def test_more_bad_images_than_allowed_stop_the_run_each_time(dataset: Path) -> None:
    for number in range(11):
        image(dataset, number).write_bytes(b"")
    for _ in range(2):
        with pytest.raises(DatasetError, match=r"train: 11 of 12 .*max_bad_fraction \(0\.05\)"):
            prepare(dataset)
    assert prepare(dataset, DataConfig(max_bad_fraction=0.95)).counts["train"] == 1


def test_a_failure_leaves_nothing_behind(dataset: Path) -> None:
    (dataset / "labels" / "val" / "000001.txt").write_text("9 0.5 0.5 0.1 0.1\n")
    with pytest.raises(DatasetError):
        prepare(dataset)
    (lock,) = (dataset.parent / "cache" / "prepared").iterdir()
    assert lock.is_file()


def test_the_users_files_are_not_touched(dataset: Path) -> None:
    image(dataset, 3).write_bytes(b"")
    before = {file: file.stat().st_mtime_ns for file in dataset.rglob("*")}
    prepare(dataset)
    assert {file: file.stat().st_mtime_ns for file in dataset.rglob("*")} == before


def test_processes_that_prepare_at_once_agree(dataset: Path) -> None:
    with multiprocessing.get_context("fork").Pool(3) as pool:
        results = pool.map(prepare, [dataset] * 3)
    assert results == [prepare(dataset)] * 3


def test_what_was_left_out_is_one_warning(dataset: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(2):
        image(dataset, number).write_bytes(b"")
    with caplog.at_level(logging.INFO):
        log_summary(prepare(dataset))
    levels = [record.levelno for record in caplog.records]
    assert levels == [logging.INFO, logging.WARNING]
    assert "images/train/000000.jpg" in caplog.text
    assert "2 images and 0 label rows" in caplog.text


def test_a_clean_dataset_gives_no_warning(dataset: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        log_summary(prepare(dataset))
    assert caplog.records == []


def test_a_name_that_no_file_can_have_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="name too long"):
        packed_location(str(tmp_path / ("x" * 300)))
