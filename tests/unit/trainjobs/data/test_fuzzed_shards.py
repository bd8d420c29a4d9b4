"""A shard or an index with any content is read or refused with one error; nothing crashes or hangs."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import DatasetError
from tests.fuzz import damaged, damages, quick, shapes
from trainjobs.data.packed.index import (
    DatasetIndex,
    ShardEntry,
    SplitEntry,
    dump_index,
    parse_index,
)
from trainjobs.data.packed.schema import ImageRecord, encode_shard
from trainjobs.data.packed.shards import Shard

RECORDS = [
    ImageRecord(
        id=f"{number}.jpg",
        height=10,
        width=20,
        classes=[0] * number,
        boxes_cxcywh_norm=[(0.5, 0.5, 0.25, 0.25)] * number,
        polygons_norm=[[0.25, 0.25, 0.5, 0.75, 0.75, 0.25]] * number,
    )
    for number in range(3)
]
SHARD = encode_shard(RECORDS, [b"a", b"bc", b""], ["cat"])
INDEX = DatasetIndex(
    format_version=1,
    names=("cat",),
    fingerprint="f",
    splits={
        "train": SplitEntry(
            shards=(ShardEntry(file="x.arrow", num_images=3, num_bytes=9, sha256="0"),),
            num_background=1,
            num_boxes=(3,),
            num_skipped=0,
            largest_px=(10, 20),
        )
    },
)


def read_all(file: Path) -> None:
    try:
        shard = Shard(file, 3, 1)
        for row in range(3):
            shard.id(row), shard.labels(row), shard.outlines(row), shard.crowd(row)
            shard.areas_px(row), bytes(shard.image(row))
    except DatasetError as error:
        assert error.path == str(file) and "\n" not in str(error)


@given(damage=damages)
@quick
def test_a_damaged_shard_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, damage: list[tuple[str, float, bytes]]
) -> None:
    file = tmp_path_factory.mktemp("shard") / "x.arrow"
    file.write_bytes(damaged(SHARD, damage))
    read_all(file)


@pytest.mark.parametrize("value", [b"\xff" * 4, b"\x00" * 4, b"\x7f\xff\xff\xff", b"\x01" * 4])
def test_no_number_anywhere_in_a_shard_crashes_its_reader(tmp_path: Path, value: bytes) -> None:
    file = tmp_path / "x.arrow"
    for at in range(0, len(SHARD) - 3, 12):
        file.write_bytes(SHARD[:at] + value + SHARD[at + 4 :])
        read_all(file)


@given(damage=damages)
@quick
def test_a_damaged_index_is_read_or_refused(damage: list[tuple[str, float, bytes]]) -> None:
    text = damaged(dump_index(INDEX).encode(), damage).decode("utf-8", "replace")
    try:
        parse_index(text, "index.json")
    except DatasetError as error:
        assert error.path == "index.json" and "\n" not in str(error)


@given(
    tree=shapes(st.sampled_from(["names", "splits", "train", "shards", "file", "num_images"])),
    key=st.sampled_from(["names", "splits", "fingerprint", "format_version"]),
)
@quick
def test_an_index_of_any_shape_is_read_or_refused(tree: Any, key: str) -> None:
    try:
        parse_index(json.dumps(asdict(INDEX) | {key: tree}), "index.json")
    except DatasetError as error:
        assert error.path == "index.json" and "\n" not in str(error)


def test_an_index_comes_back_as_it_was() -> None:
    assert parse_index(dump_index(INDEX), "index.json") == INDEX


@pytest.mark.parametrize("file", ["../x.arrow", "/etc/passwd", "", "..", "a/b"])
def test_an_index_names_files_beside_it_and_no_others(file: str) -> None:
    text = dump_index(INDEX).replace("x.arrow", file)
    with pytest.raises(DatasetError, match="is no name of a file beside it"):
        parse_index(text, "index.json")


def test_an_index_of_another_format_is_refused() -> None:
    text = dump_index(INDEX).replace('"format_version": 1', '"format_version": 2')
    with pytest.raises(DatasetError, match="has format_version 2, this is format 1; pack anew"):
        parse_index(text, "index.json")
