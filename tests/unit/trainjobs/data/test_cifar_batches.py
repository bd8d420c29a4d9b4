"""CIFAR's pickled batches: read if they are what was published, and without running anything."""

import contextlib
import dataclasses
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from cluster.errors import DatasetError
from tests.classified_images import (
    make_batch,
    python2_array,
    python2_int,
    python2_list,
    python2_pickle,
    python2_text,
    write_cifar,
)
from trainjobs.data.formats.array_pickles import BadPickleError, load_arrays
from trainjobs.data.formats.cifar_batches import CifarFiles, find_cifar_classes, open_cifar
from trainjobs.data.formats.class_names import DEFAULT_COLUMNS, ClassSource
from trainjobs.data.formats.labels import LabeledSplit, SplitFiles
from trainjobs.data.images import decode_image

PIXELS = np.random.default_rng(0).integers(0, 256, (3, 3072), np.uint8)
META = python2_pickle({b"label_names": python2_list([python2_text(b"cat"), python2_text(b"dog")])})


class Runs:
    """Leaves a file behind where its pickle is loaded."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.file}",)


def open_files(folder: Path, batch: bytes) -> tuple[LabeledSplit, CifarFiles, SplitFiles]:
    cifar = write_cifar(folder, {"data_batch_1": batch, "batches.meta": META})
    files = SplitFiles(
        images=[folder / "data_batch_1"],
        folders=(folder / "data_batch_1",),
        root=folder,
        names=("cat", "dog"),
    )
    return open_cifar(files, cifar), cifar, files


def test_rows_are_images_without_loss_and_their_classes(tmp_path: Path) -> None:
    split, cifar, _ = open_files(tmp_path, make_batch(PIXELS, [1, 0, 1]))
    for row, image in enumerate(split.images):
        pixels = decode_image(split.fetch(image), "x")
        assert (pixels == PIXELS[row].reshape(3, 32, 32).transpose(1, 2, 0)).all()
        assert split.read(image, 32, 32).classes == [[1], [0], [1]][row]
    source = ClassSource(
        tmp_path, {"train": (tmp_path / "data_batch_1",)}, (), columns=DEFAULT_COLUMNS
    )
    assert find_cifar_classes(source, cifar).names == ("cat", "dog")


def test_a_file_that_is_not_as_published_is_not_read(tmp_path: Path) -> None:
    _, cifar, files = open_files(tmp_path, make_batch(PIXELS, [1, 0, 1]))
    (tmp_path / "data_batch_1").write_bytes(pickle.dumps(Runs(tmp_path / "ran")))
    with pytest.raises(DatasetError, match=r"data_batch_1.*not the published file.*MD5"):
        open_cifar(files, cifar)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_that_would_run_something_runs_nothing(protocol: int, tmp_path: Path) -> None:
    with pytest.raises(BadPickleError, match=r"it names (posix|nt)\.system, which is no array"):
        load_arrays(pickle.dumps({1: Runs(tmp_path / "ran")}, protocol))
    assert not (tmp_path / "ran").exists()


def test_a_damaged_pickle_is_one_error() -> None:
    whole = make_batch(PIXELS[:, :30], [1, 0, 1])
    rng = np.random.default_rng(1)
    assert isinstance(load_arrays(whole), dict)
    for length in range(0, len(whole) - 1, 7):
        with pytest.raises(BadPickleError):
            load_arrays(whole[:length])
    for _ in range(300):
        damaged = bytearray(whole)
        for place in rng.integers(0, len(whole), 3):
            damaged[place] = rng.integers(0, 256)
        with contextlib.suppress(BadPickleError):  # any other exception fails the test
            load_arrays(bytes(damaged))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (make_batch(PIXELS, [1, 0]), "one label per image"),
        (make_batch(PIXELS, [1, 0, 2]), "label 2 must be from 0 to 1"),
        (make_batch(PIXELS[:, :3000], [1, 0, 1]), "rows of 3072 bytes"),
        (python2_list([python2_int(1)]) + b".", "must hold a dict"),
        (python2_pickle({b"data": python2_array(PIXELS, b"f4")}), "must be of bytes"),
    ],
)
def test_a_batch_of_another_form_is_named(content: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=rf"data_batch_1.*{message}"):
        open_files(tmp_path, content)


def test_a_file_of_another_name_is_none_of_the_dataset(tmp_path: Path) -> None:
    _, cifar, files = open_files(tmp_path, make_batch(PIXELS, [1, 0, 1]))
    (tmp_path / "other").write_bytes(b"")
    with pytest.raises(DatasetError, match="is no file of CIFAR-10"):
        open_cifar(dataclasses.replace(files, images=[tmp_path / "other"]), cifar)
