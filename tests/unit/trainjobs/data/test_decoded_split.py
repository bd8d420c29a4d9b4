"""A split decoded once: the pixels that are evaluated, one decoding per node, no half-filled folder."""

import errno
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from cluster.errors import DatasetError, StorageError
from tests.builders import CPU, make_split
from tests.classified_images import make_png, write_folders
from tests.classifiers import make_classifier_config, write_thumbnails
from trainjobs.data.cached_folders import CachedFolders
from trainjobs.data.device.decoded_split import (
    CLASSES,
    IMAGES,
    DecodedSplit,
    decoded_bytes,
    load_decoded,
)
from trainjobs.data.loader import EvaluationSamples
from trainjobs.data.mixture import prepare_datasets
from trainjobs.data.packed.joined import JoinedSplit, TrainingSplit
from trainjobs.data.packed.schema import ImageRecord
from trainjobs.data.prepare import Prepared

SIDE = 32


@dataclass
class CountedSplit:
    """A split that counts the images read from it."""

    split: TrainingSplit
    reads: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.split)

    def __getattr__(self, name: str) -> object:
        return getattr(self.split, name)

    def read_image(self, index: int, reduce: int = 1) -> np.ndarray:
        self.reads.append(index)
        return self.split.read_image(index, reduce)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of several sizes and shapes, in three classes."""
    folder = tmp_path_factory.mktemp("mixed") / "data"
    write_folders(folder, {"train": ["ant", "bee", "cat"], "val": ["ant", "bee", "cat"]})
    rng = np.random.default_rng(0)
    for number, (height, width) in enumerate([(32, 32), (20, 40), (90, 31), (12, 50), (300, 200)]):
        pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
        cv2.imwrite(str(folder / "train" / "bee" / f"big{number}.jpg"), pixels)
    return folder


def prepare(source: Path, *also: str) -> Prepared:
    config = make_classifier_config({"data.source": str(source), "data.also": list(also)})
    return prepare_datasets(config.data, source.parent / "cache", seed=0)


def decode(split: TrainingSplit, cache: Path) -> DecodedSplit:
    return load_decoded(split, image_size=SIDE, folders=CachedFolders(cache, 0), device=CPU)


def files_of(cache: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(file.relative_to(cache)): (file.stat().st_mtime_ns, file.read_bytes())
        for file in cache.rglob("*.npy")
    }


def test_pixels_are_those_that_are_evaluated_and_classes_the_labels(
    source: Path, tmp_path: Path
) -> None:
    split = prepare(source).open_train()
    found = decode(split, tmp_path)
    samples = EvaluationSamples(split=split, image_size=SIDE)
    assert found.images.shape == (len(split), SIDE, SIDE, 3) and len(split) == 11
    for index in range(len(split)):
        image, labels = samples[index, SIDE, SIDE]
        assert torch.equal(found.images[index], torch.tensor(image))
        assert found.classes[index] == labels[0, 0] == split.label(index)
    assert found.images.nbytes == decoded_bytes(len(split), SIDE)


def test_classes_of_joined_splits_are_the_first_datasets(source: Path, tmp_path: Path) -> None:
    other = write_folders(tmp_path / "other", {"train": ["cat", "bee"], "val": ["cat", "bee"]})
    split = prepare(source, str(other)).open_train()
    assert isinstance(split, JoinedSplit)
    found = decode(split, tmp_path / "cache")
    classes = [split.names[number] for number in found.classes]
    ids = [split.id(index) for index in range(len(split))]
    assert len(classes) == 11 + 4
    assert all(name in id_ for name, id_ in zip(classes, ids, strict=True))


def test_a_second_load_maps_the_same_files_and_decodes_nothing(
    source: Path, tmp_path: Path
) -> None:
    split = prepare(source).open_train()
    first = decode(split, tmp_path)
    files = files_of(tmp_path)
    counted = CountedSplit(split)
    again = decode(counted, tmp_path)  # type: ignore[arg-type]  # stands for the split
    assert counted.reads == [] and files_of(tmp_path) == files and len(files) == 2
    assert torch.equal(first.images, again.images) and torch.equal(first.classes, again.classes)


def test_who_writes_to_what_was_loaded_changes_it_for_nobody_else(
    source: Path, tmp_path: Path
) -> None:
    split = prepare(source).open_train()
    decode(split, tmp_path).images.zero_()
    assert decode(split, tmp_path).images.any()


def test_another_split_or_size_is_decoded_apart(source: Path, tmp_path: Path) -> None:
    prepared = prepare(source)
    decode(prepared.open_train(), tmp_path)
    decode(prepared.open("val"), tmp_path)
    folders = CachedFolders(tmp_path, 0)
    load_decoded(prepared.open("val"), image_size=40, folders=folders, device=CPU)
    assert len({file.parent for file in tmp_path.rglob(IMAGES)}) == 3


def test_the_same_images_in_another_order_are_decoded_apart(tmp_path: Path) -> None:
    images = [make_png(number) for number in range(4)]
    records = [
        ImageRecord(
            id=f"{number}.png", height=12, width=16, classes=[number % 2],
            boxes_cxcywh_norm=[(0.5, 0.5, 1.0, 1.0)],
        )
        for number in range(4)
    ]  # fmt: skip
    for name, order in (("one", [0, 1, 2, 3]), ("other", [2, 1, 0, 3])):
        (tmp_path / name).mkdir()
        split = make_split(tmp_path / name, [records[i] for i in order], [images[i] for i in order])
        found = decode(split, tmp_path / "cache")
        assert found.classes.tolist() == [i % 2 for i in order]
        for index in range(4):
            image, _ = EvaluationSamples(split=split, image_size=SIDE)[index, SIDE, SIDE]
            assert torch.equal(found.images[index], torch.tensor(image))


def test_those_who_ask_at_once_decode_once(source: Path, tmp_path: Path) -> None:
    counted = CountedSplit(prepare(source).open_train())
    barrier = threading.Barrier(4)

    def load(_: int) -> DecodedSplit:
        barrier.wait()
        return decode(counted, tmp_path)  # type: ignore[arg-type]  # stands for the split

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(load, range(4)))
    assert sorted(counted.reads) == list(range(11))
    assert all(torch.equal(found[0].images, other.images) for other in found)


def test_a_damaged_image_is_named_and_leaves_no_folder_behind(tmp_path: Path) -> None:
    prepared = prepare(write_thumbnails(tmp_path / "data", num_train=10, num_val=10))
    split = prepared.open_train()
    shard = next(Path(prepared.location).glob("train-*.arrow"))
    content = bytearray(shard.read_bytes())
    start = content.index(bytes(split.encoded(3)))
    content[start : start + 60] = bytes(60)
    shard.write_bytes(content)
    cache = tmp_path / "decoded"
    with pytest.raises(DatasetError, match=split.id(3)):
        decode(prepare(tmp_path / "data").open_train(), cache)
    assert [file for file in cache.iterdir() if file.is_dir()] == []
    assert not list(cache.rglob(CLASSES))


def test_an_image_of_no_class_is_named(tmp_path: Path) -> None:
    record = ImageRecord(id="plain", height=12, width=16, classes=[], boxes_cxcywh_norm=[])
    with pytest.raises(DatasetError, match="plain"):
        decode(make_split(tmp_path, [record], [make_png(0)]), tmp_path / "cache")


def test_a_disk_without_room_for_the_pixels_is_an_error(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int, start: int, length: int) -> None:
        assert length > decoded_bytes(len(split), SIDE)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    split = prepare(source).open("val")
    monkeypatch.setattr(os, "posix_fallocate", refuse)
    with pytest.raises(StorageError, match="No space left on device"):
        decode(split, tmp_path)
    assert not list(tmp_path.rglob(IMAGES))
