"""The survey of a dataset: what it counts, what it warns of, what a run would refuse."""

import dataclasses
import itertools
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from cluster.errors import ConfigError, DatasetError
from trainjobs.check_data import check_dataset, source_name
from trainjobs.config import DataConfig
from trainjobs.data.generated.shapes import SHAPE_NAMES, generate_shapes
from trainjobs.data.pack_job import finish, pack_one, plan_job
from trainjobs.data.packed.cache import LocalShards
from trainjobs.data.packed.schema import ImageRecord
from trainjobs.data.prepare import open_packed
from trainjobs.data.sources import read_data_yaml
from trainjobs.data.survey.findings import find_refusals, find_warnings
from trainjobs.data.survey.reading import ReadDataset, read_packed, read_source
from trainjobs.data.survey.statistics import (
    SplitContent,
    Survey,
    find_repeats,
    survey_dataset,
    tabulate_boxes,
)
from trainjobs.evaluation.survey_images import plot_split_samples
from trainjobs.evaluation.survey_plots import plot_centers, plot_classes, plot_sizes
from trainjobs.evaluation.survey_text import class_table, left_out_text, size_table

NUMBERS = itertools.count()
STAR = SHAPE_NAMES.index("star")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    generate_shapes(folder, num_train=6, num_val=4, image_size=32, seed=0)
    return folder


def spoil(source: Path) -> None:
    """A duplicate with other labels, a leak, a class that val lacks, an unreadable image."""
    train, val = source / "images" / "train", source / "images" / "val"
    shutil.copy(train / "000001.jpg", train / "copy.jpg")
    (source / "labels" / "train" / "copy.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    shutil.copy(train / "000002.jpg", val / "leak.jpg")
    (train / "bad.jpg").write_bytes(b"no image")
    (source / "labels" / "train" / "000000.txt").write_text(f"{STAR} 0.5 0.5 0.5 0.5\n")
    for labels in (source / "labels" / "val").iterdir():
        rows = labels.read_text().splitlines(keepends=True)
        labels.write_text("".join(row for row in rows if not row.startswith(f"{STAR} ")))


def pack(source: Path, folder: Path) -> Path:
    plan = plan_job(read_data_yaml(source), str(folder), shard_bytes=3000, max_side=None)
    finish(plan, [pack_one(plan.job, shard) for shard in plan.shards])
    return folder


def survey_source(source: Path) -> tuple[ReadDataset, Survey]:
    found = read_source(read_data_yaml(source))
    return found, survey_dataset(found.names, found.contents, image_size=640)


def survey_packed(folder: Path) -> tuple[ReadDataset, Survey]:
    found = read_packed(open_packed(str(folder), LocalShards(folder)))
    return found, survey_dataset(found.names, found.contents, image_size=640)


def content(folder: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def make_record(
    *boxes: tuple[int, float, float], image: str = "a.jpg", width: int = 100, height: int = 200
) -> ImageRecord:
    """An image with boxes of a class, a width and a height in px, in its middle."""
    return ImageRecord(
        id=image,
        height=height,
        width=width,
        classes=[label for label, _, _ in boxes],
        boxes_cxcywh_norm=[(0.5, 0.5, w / width, h / height) for _, w, h in boxes],
    )


def make_content(
    *records: ImageRecord, digests: str | None = None, num_skipped: int = 0
) -> SplitContent:
    different = [str(next(NUMBERS)) for _ in records]
    return SplitContent(records=records, digests=digests or different, num_skipped=num_skipped)


def make_survey(train: SplitContent, val: SplitContent, **others: SplitContent) -> Survey:
    return survey_dataset(("cat", "dog"), {"train": train, "val": val, **others}, image_size=640)


READERS = dict.fromkeys(("train", "val"), lambda _: np.zeros((20, 10, 3), np.uint8))
CAT, DOG = make_record((0, 50, 50)), make_record((1, 50, 50))


def test_boxes_and_images_are_counted_per_class() -> None:
    two_cats = make_record((0, 10, 10), (0, 20, 20))
    train = make_content(two_cats, make_record((0, 9, 9), (1, 9, 9)), make_record(), num_skipped=3)
    found = make_survey(train, make_content(CAT)).splits["train"]
    assert (found.num_images, found.num_skipped, found.num_background) == (3, 3, 1)
    assert found.boxes_per_class == (3, 1) and found.images_per_class == (2, 1)


def test_sizes_are_those_of_coco_and_of_training() -> None:
    # The longer side of the image is 200 px, so at 640 px a box is 3.2 times as large.
    record = make_record((0, 2, 2.4), (0, 2.6, 1), (0, 31.9, 32), (0, 32, 32), (0, 96, 96))
    sizes = make_survey(make_content(record), make_content(CAT)).splits["train"].sizes
    assert sizes is not None
    assert (sizes.small, sizes.medium, sizes.large) == pytest.approx((0.6, 0.2, 0.2))
    assert sizes.num_tiny == 1
    assert sizes.longer_side_px[2] == pytest.approx(32)


def test_equal_files_are_found_within_and_across_splits() -> None:
    moved = make_record((0, 40, 50))
    contents = {
        "train": make_content(CAT, DOG, CAT, digests="aba"),
        "val": make_content(moved, CAT, digests="bc"),
        "test": make_content(CAT, digests="d"),
    }
    (duplicate,), (leak,) = find_repeats(contents)
    assert [(ref.split, ref.index) for ref in duplicate.images] == [("train", 0), ("train", 2)]
    assert [(ref.split, ref.index) for ref in leak.images] == [("train", 1), ("val", 0)]
    assert duplicate.same_labels and not leak.same_labels


def test_a_class_of_train_that_val_lacks_is_a_warning() -> None:
    (line,) = find_warnings(make_survey(make_content(CAT, DOG), make_content(CAT)))
    assert line == "classes labeled in train, but never in val, so not measured: dog"
    (line,) = find_warnings(make_survey(make_content(CAT), make_content(CAT)))
    assert line == "classes never labeled in train: dog"


def test_what_a_run_would_refuse_is_said() -> None:
    good, empty = make_content(CAT, DOG), make_content(make_record())

    def refusals(train: SplitContent, val: SplitContent, **others: SplitContent) -> list[str]:
        return find_refusals(make_survey(train, val, **others), max_bad_fraction=0.5)

    assert refusals(good, good) == []
    assert refusals(make_content(CAT, num_skipped=10), good) == []  # so few are never too many
    (line,) = refusals(make_content(CAT, num_skipped=11), good)
    assert line.startswith("train: 11 of 12 images cannot be used, more than data.max_bad_fraction")
    assert refusals(good, empty) == ["val: none of 1 images has a labeled object"]
    assert refusals(good, make_content()) == ["val: has no usable image"]
    assert refusals(good, good, test=empty) == []
    (line,) = find_warnings(make_survey(good, make_content(CAT, DOG), test=empty))
    assert "test: none of 1 images" in line and "cannot be packed" in line


@pytest.mark.parametrize("num_classes", [1, 40])
def test_any_dataset_is_drawn(tmp_path: Path, num_classes: int) -> None:
    full = [make_record(*((c, 5.0 + c, 5.0) for c in range(num_classes)))]
    contents = {
        "train": make_content(*full),
        "val": make_content(make_record()),
        "test": make_content(),
    }
    survey = survey_dataset([f"$_{c} é" for c in range(num_classes)], contents, image_size=640)
    boxes = {split: tabulate_boxes(part.records) for split, part in contents.items()}
    plot_classes(survey, tmp_path / "classes.png")
    plot_sizes(boxes, 640, tmp_path / "sizes.png")
    plot_centers(boxes, tmp_path / "centers.png")
    plot_split_samples(
        ReadDataset(names=survey.names, contents=contents, readers=READERS),
        tmp_path / "samples.png",
    )
    for file in tmp_path.iterdir():
        picture = cv2.imread(str(file))
        assert picture is not None and picture.min() < 100 < picture.max()
    assert len(class_table(survey).splitlines()) == min(num_classes, 21) + 1
    assert len(size_table(survey).splitlines()) == 2


def test_everything_wrong_with_a_dataset_is_found(source: Path) -> None:
    spoil(source)
    before = content(source)
    found, survey = survey_source(source)
    classes, duplicates, leaks = find_warnings(survey)
    assert classes.endswith("never in val, so not measured: star")
    assert duplicates.startswith(
        "duplicates: train has 1 images more than once, 1 with different labels, such as images/"
    )
    assert leaks.startswith("leaks: train and val share 1 images, 1 with different labels")
    assert leaks.endswith("images/train/000002.jpg = images/val/leak.jpg")
    assert "images/train/bad.jpg: damaged, truncated" in left_out_text(found.left_out)
    assert survey.splits["train"].num_skipped == 1
    assert content(source) == before


def test_a_packed_dataset_has_the_survey_of_its_source(source: Path, tmp_path: Path) -> None:
    spoil(source)
    _, raw = survey_source(source)
    found, packed = survey_packed(pack(source, tmp_path / "packed"))
    assert found.faults == [] and "bad.jpg" in left_out_text(found.left_out)
    for split in ("train", "val"):
        one, two = raw.splits[split], packed.splits[split]
        assert one.sizes is not None and two.sizes is not None
        assert one.sizes.longer_side_px == pytest.approx(two.sizes.longer_side_px, rel=1e-5)
        assert dataclasses.replace(one, sizes=None) == dataclasses.replace(two, sizes=None)
    for kind in ("duplicates", "leaks"):
        one, two = ({ref.id for ref in getattr(s, kind)[0].images} for s in (raw, packed))
        assert one == two
    for split, part in found.contents.items():
        sizes = [found.readers[split](index).shape[:2] for index in range(len(part.records))]
        assert sizes == [(record.height, record.width) for record in part.records]


def test_each_wrong_shard_is_named(source: Path, tmp_path: Path) -> None:
    packed = pack(source, tmp_path / "packed")
    shards = sorted(packed.glob("train-*.arrow"))
    assert len(shards) > 2
    data = bytearray(shards[0].read_bytes())
    data[len(data) // 2] ^= 1
    shards[0].write_bytes(data)
    shards[1].unlink()
    found, survey = survey_packed(packed)
    assert len(found.faults) == 2
    assert found.faults[0].startswith(f"{shards[0]}: does not have the checksum")
    assert found.faults[1].startswith(f"{shards[1]}: No such file")
    assert survey.splits["train"].num_images > 0  # the others are looked at
    assert found.readers["train"](0).shape == (32, 32, 3)


def test_a_test_split_that_is_gone_is_no_obstacle(source: Path) -> None:
    with (source / "data.yaml").open("a") as file:
        file.write("test: images/test\n")
    found, survey = survey_source(source)
    (line,) = found.unread
    assert line.startswith("test: ") and "no such folder" in line
    assert set(survey.splits) == {"train", "val"}


def test_a_class_without_a_name_is_a_mistake(source: Path) -> None:
    (source / "labels" / "val" / "000001.txt").write_text("9 0.5 0.5 0.1 0.1\n")
    with pytest.raises(DatasetError, match="class 9 must be"):
        survey_source(source)


def test_the_report_goes_neither_into_the_dataset_nor_among_other_files(
    source: Path, tmp_path: Path
) -> None:
    link = tmp_path / "link"
    link.symlink_to(source)
    before = content(source)
    for given, inside in ((source, source), (source, link / "out"), (link, source / "out")):
        with pytest.raises(ConfigError, match="inside the dataset"):
            check_dataset(str(given), str(inside), DataConfig())
    with pytest.raises(ConfigError, match="holds other files"):
        check_dataset(str(source), str(tmp_path), DataConfig())
    assert content(source) == before


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("/x/bccd", "bccd"),
        ("/x/bccd/data.yaml", "bccd"),
        ("/x/cells.yaml", "cells"),
        ("/x/packed/index.json", "packed"),
        ("s3://bucket/sets/cells?endpoint_override=host:1", "cells"),
        ("/", "dataset"),
    ],
)
def test_a_dataset_is_called_by_its_folder(source: str, name: str) -> None:
    assert source_name(source) == name
