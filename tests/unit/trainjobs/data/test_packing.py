"""Packing: the same source gives the same bytes, however often it was begun."""

import dataclasses
import hashlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from cluster.errors import DatasetError
from tests.labeled_images import NAMES, write_dataset
from trainjobs.config import DataConfig
from trainjobs.data.formats.stored import StoredImage, store_files
from trainjobs.data.generated.shapes import generate_shapes
from trainjobs.data.pack_job import NOTES, finish, pack_one, plan_job
from trainjobs.data.packed.index import INDEX, DatasetIndex
from trainjobs.data.packing import plan_shards, source_key
from trainjobs.data.prepare import prepare_dataset
from trainjobs.data.sources import DatasetSpec, read_data_yaml, source_files

SHARD_BYTES = 5000  # some images of 32 px


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    generate_shapes(folder, num_train=12, num_val=3, image_size=32, seed=0)
    return folder


def pack(
    spec: DatasetSpec, folder: Path, *, max_side: int | None = None, reverse: bool = False
) -> DatasetIndex:
    plan = plan_job(spec, str(folder), shard_bytes=SHARD_BYTES, max_side=max_side)
    shards = reversed(plan.shards) if reverse else plan.shards
    return finish(plan, [pack_one(plan.job, shard) for shard in shards])


def content(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def test_the_order_in_which_shards_are_made_does_not_matter(source: Path, tmp_path: Path) -> None:
    spec = read_data_yaml(source)
    pack(spec, tmp_path / "a")
    pack(spec, tmp_path / "b", reverse=True)
    found = content(tmp_path / "a")
    assert found == content(tmp_path / "b")
    assert {INDEX, "quarantine.csv", "train-00000.arrow", "train-00001.arrow"} <= found.keys()
    assert not any(name.startswith(NOTES) for name in found)


def test_a_packed_dataset_is_the_source_in_another_order(source: Path, tmp_path: Path) -> None:
    pack(read_data_yaml(source), tmp_path / "packed")
    raw = prepare_dataset(str(source), tmp_path / "cache", DataConfig(), seed=0)
    for given in (tmp_path / "packed", tmp_path / "packed" / INDEX):
        packed = prepare_dataset(str(given), tmp_path / "cache", DataConfig(), seed=0)
        assert packed.fingerprint == raw.fingerprint and packed.counts == raw.counts
    train, other = packed.open("train"), raw.open("train")
    assert len(train.shard_sizes) > 1 == len(other.shard_sizes)
    where = {train.id(index): index for index in range(len(train))}
    assert list(where) != sorted(where)  # mixed, because it fills several shards
    for index in range(len(other)):
        there = where[other.id(index)]
        assert np.array_equal(other.read_image(index), train.read_image(there))
        for one, two in zip(other.labels(index), train.labels(there), strict=True):
            assert np.array_equal(one, two)


def test_an_interrupted_packing_goes_on_where_it_was(source: Path, tmp_path: Path) -> None:
    spec, folder = read_data_yaml(source), tmp_path / "packed"
    plan = plan_job(spec, str(folder), shard_bytes=SHARD_BYTES, max_side=None)
    pack_one(plan.job, plan.shards[0])
    made = (folder / plan.shards[0].file).stat().st_mtime_ns
    assert not (folder / INDEX).exists()
    pack(spec, folder)
    assert (folder / plan.shards[0].file).stat().st_mtime_ns == made
    pack(spec, tmp_path / "whole")
    assert content(folder) == content(tmp_path / "whole")


def test_pieces_of_another_source_are_refused(source: Path, tmp_path: Path) -> None:
    spec, folder = read_data_yaml(source), str(tmp_path / "packed")
    plan = plan_job(spec, folder, shard_bytes=SHARD_BYTES, max_side=None)
    pack_one(plan.job, plan.shards[0])
    with pytest.raises(DatasetError, match="packed: is of another source, or of other options"):
        plan_job(spec, folder, shard_bytes=SHARD_BYTES, max_side=16)
    (source / "labels" / "train" / "000000.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    with pytest.raises(DatasetError, match="is of another source"):
        plan_job(spec, folder, shard_bytes=SHARD_BYTES, max_side=None)


def test_a_packed_dataset_is_not_written_over(source: Path, tmp_path: Path) -> None:
    spec = read_data_yaml(source)
    pack(spec, tmp_path / "packed")
    with pytest.raises(DatasetError, match="holds a packed dataset already"):
        pack(spec, tmp_path / "packed")


def test_a_node_that_does_not_see_the_source_is_an_error(source: Path, tmp_path: Path) -> None:
    spec = read_data_yaml(source)
    plan = plan_job(spec, str(tmp_path / "p"), shard_bytes=SHARD_BYTES, max_side=None)
    elsewhere = dataclasses.replace(
        plan.job, spec=dataclasses.replace(spec, file=Path("/none.yaml"))
    )
    with pytest.raises(DatasetError, match="not on every node"):
        pack_one(elsewhere, plan.shards[0])


def test_a_class_out_of_range_leaves_no_dataset(source: Path, tmp_path: Path) -> None:
    (source / "labels" / "val" / "000001.txt").write_text("9 0.5 0.5 0.1 0.1\n")
    with pytest.raises(DatasetError, match="class 9 must be"):
        pack(read_data_yaml(source), tmp_path / "packed")
    assert not (tmp_path / "packed" / INDEX).exists()


def test_larger_images_are_shrunk_and_smaller_ones_kept(source: Path, tmp_path: Path) -> None:
    wide = np.full((20, 100, 3), 7, np.uint8)
    assert cv2.imwrite(str(source / "images" / "val" / "000000.jpg"), wide)
    index = pack(read_data_yaml(source), tmp_path / "packed", max_side=50)
    assert index.splits["val"].largest_px == (32, 50)
    packed = prepare_dataset(str(tmp_path / "packed"), tmp_path, DataConfig(), seed=0)
    val = packed.open("val")
    assert val.size(0) == (10, 50) and val.read_image(0).shape == (10, 50, 3)
    assert np.abs(val.read_image(0).astype(int) - 7).max() <= 1
    kept = (source / "images" / "val" / "000001.jpg").read_bytes()
    shard, row = val.shard_of(1)
    assert shard.image(row) == kept


def test_every_image_is_in_one_shard_of_about_the_size(tmp_path: Path) -> None:
    images = []
    for number in range(50):
        images.append(tmp_path / f"{number}.jpg")
        images[-1].write_bytes(bytes(100 + number))
    plans = plan_shards("train", store_files(images), shard_bytes=1000)
    assert sorted(image.file for plan in plans for image in plan.images) == sorted(images)
    assert [plan.file for plan in plans] == [f"train-{n:05d}.arrow" for n in range(len(plans))]
    assert all(sum(i.file.stat().st_size for i in plan.images) <= 1000 for plan in plans)
    (alone,) = plan_shards("train", store_files(images), shard_bytes=10**6)
    assert alone.images == tuple(store_files(images))  # nothing to mix


def test_an_image_larger_than_a_shard_gets_one_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(bytes(5000))
    (tmp_path / "b.jpg").write_bytes(bytes(10))
    images = store_files([tmp_path / "a.jpg", tmp_path / "b.jpg"])
    plans = plan_shards("val", images, shard_bytes=1000)
    assert sorted(len(plan.images) for plan in plans) == [1, 1]


def test_blocks_of_a_file_are_mixed_and_the_rows_of_one_stay_together() -> None:
    images = [
        StoredImage(Path("/a.parquet"), row, block=row // 10, num_bytes=10) for row in range(200)
    ]
    plans = plan_shards("train", images, shard_bytes=250)
    rows = [image.row for plan in plans for image in plan.images]
    blocks = [rows[first : first + 10] for first in range(0, 200, 10)]
    assert all(block == list(range(block[0], block[0] + 10)) for block in blocks)
    assert sorted(rows) == list(range(200)) != rows
    assert [len(plan.images) for plan in plans] == [25] * 8


@pytest.mark.parametrize(
    ("label_format", "fingerprint", "train"),
    [
        (
            "yolo",
            "26783c742ad8f5bf08013552cb48b4d9cc91b2e91789539165ab626068213a7d",
            "245e9b97e6dee35af58c09ee10711cfeb7660cd819c2d8f920ca66f4b24c8cce",
        ),
        (
            "coco",
            "fde44acb5d95bc9ef23cd7cb4c5a1ded4839085ba324a44252381372606a21c8",
            "cdb337c9ce6d8787f680e6848df8041364fbe4c02f21577b78cb6ee50abb2cca",
        ),
        (
            "voc",
            "fde44acb5d95bc9ef23cd7cb4c5a1ded4839085ba324a44252381372606a21c8",
            "cdb337c9ce6d8787f680e6848df8041364fbe4c02f21577b78cb6ee50abb2cca",
        ),
    ],
)
def test_detection_datasets_give_the_bytes_that_they_always_gave(
    label_format: str, fingerprint: str, train: str, tmp_path: Path
) -> None:
    index = pack(read_data_yaml(write_dataset(tmp_path, label_format)), tmp_path / "packed")
    assert (index.fingerprint, index.splits["train"].shards[0].sha256) == (fingerprint, train)


def test_the_keys_of_detection_datasets_are_those_that_they_always_had(tmp_path: Path) -> None:
    spec = read_data_yaml(write_dataset(tmp_path, "coco"))
    splits = {split: (tmp_path / "images" / split,) for split in ("train", "val")}
    annotations = {split: tmp_path / "coco" / f"{split}.json" for split in ("train", "val")}
    digest = hashlib.sha256(repr((1, tmp_path, NAMES, splits, "coco", annotations)).encode())
    for split in splits:
        for file in source_files(spec, split):
            stamp = file.stat()
            digest.update(repr((str(file), (stamp.st_size, stamp.st_mtime_ns))).encode())
    assert source_key(spec, [*splits]) == digest.hexdigest()
