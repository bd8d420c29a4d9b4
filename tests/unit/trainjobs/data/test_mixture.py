"""Several datasets in one run: what is prepared, counted, mapped and left out."""

import csv
import io
import logging
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import ConfigError, DatasetError
from tests.builders import make_config, make_split
from trainjobs.config import DataConfig
from trainjobs.data.generated.shapes import generate_shapes
from trainjobs.data.mixture import log_summary, prepare_datasets
from trainjobs.data.ordering.class_weights import class_weights
from trainjobs.data.ordering.copies import weights_of_images
from trainjobs.data.packed.joined import JoinedSplit
from trainjobs.data.packed.schema import ImageRecord
from trainjobs.data.packing import quarantine_csv
from trainjobs.data.prepare import Prepared
from trainjobs.locate import locate
from trainjobs.weighted_source import WeightedSource, parse_weighted

URIS = [
    "s3://bucket",
    "s3://bucket/x?endpoint_override=http://127.0.0.1:9000&scheme=http",
    "s3://key:se%40cret@bucket/cells@2",
    "gs://123/4.5",
]


@pytest.mark.parametrize("uri", URIS)
def test_no_part_of_a_uri_is_taken_for_a_weight(uri: str) -> None:
    assert parse_weighted(uri, "data.also") == WeightedSource(uri, 1.0)
    assert parse_weighted(f"{uri}#2.5", "data.also") == WeightedSource(uri, 2.5)


@given(source=st.text(min_size=1).filter(lambda s: s[0] != "#"), weight=st.floats(0.001, 1000))
def test_a_weighted_source_is_read_back_from_its_text(source: str, weight: float) -> None:
    wanted = WeightedSource(source, weight)
    assert parse_weighted(str(wanted), "data.also") == wanted


@pytest.mark.parametrize("text", ["", "#2", "a#0", "a#0.0001", "a#1001"])
def test_a_weight_out_of_range_or_without_a_source_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^data\.also"):
        DataConfig(also=(text,))


def test_what_is_no_number_behind_the_sign_is_part_of_the_source() -> None:
    assert parse_weighted("a#b", "data.also") == WeightedSource("a#b", 1.0)
    assert parse_weighted("cells #2#1", "data.also") == WeightedSource("cells #2", 1.0)


def test_sources_are_absolute_before_they_leave_the_driver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = make_config({"data.also": ["cells#0.5", "s3://b/x", str(tmp_path / "y")]})
    config, _ = locate(config)
    found = [f"{tmp_path}/cells#0.5", "s3://b/x#1.0", f"{tmp_path}/y#1.0"]
    assert list(config.data.also) == found
    again, _ = locate(config)
    assert again.data.also == config.data.also


def make_dataset(folder: Path, num_train: int, seed: int, names: str | None = None) -> Path:
    folder.mkdir()
    generate_shapes(folder, num_train=num_train, num_val=2, image_size=32, seed=seed)
    if names:
        yaml = folder / "data.yaml"
        yaml.write_text(f"{yaml.read_text().partition('names:')[0]}names: {names}\n")
    return folder


def prepare(tmp_path: Path, *also: str) -> Prepared:
    main = tmp_path / "main"
    if not main.exists():
        make_dataset(main, 6, seed=0)
    config = DataConfig(source=str(main), also=also)
    return prepare_datasets(config, tmp_path / "cache", seed=0)


def test_an_epoch_has_the_images_of_all_by_their_weights(tmp_path: Path) -> None:
    one, other = (make_dataset(tmp_path / name, n, seed=n) for name, n in (("one", 4), ("two", 5)))
    prepared = prepare(tmp_path, f"{one}#2.5", f"{other}#0.5")
    assert prepared.images_per_epoch == 6 + 10 + 3  # 18.5, rounded up
    assert prepared.shares == ((1, 1.0), (1, 2.5), (1, 0.5))
    assert len(prepared.open_train()) == 6 + 4 + 5
    assert prepared.counts == {"train": 6, "val": 2} and len(prepared.open("val")) == 2
    alone = prepare(tmp_path)
    assert alone.images_per_epoch == 6 and alone.all_quarantine == []


def test_of_further_datasets_only_the_training_images_are_packed(tmp_path: Path) -> None:
    other = make_dataset(tmp_path / "other", 3, seed=1)
    for label in (other / "labels" / "val").iterdir():
        label.write_text("99 0.5 0.5 0.1 0.1\n")  # would be an error of the run
    (addition,) = prepare(tmp_path, str(other)).also
    assert addition.data.counts == {"train": 3}


def test_classes_are_matched_by_name(tmp_path: Path) -> None:
    other = make_dataset(tmp_path / "other", 8, seed=1, names="[star, circle, square, triangle]")
    prepared = prepare(tmp_path, str(other))
    train, alone = prepared.open_train(), prepared.also[0].data.open("train")
    assert isinstance(train, JoinedSplit)
    seen = set()
    for index in range(len(alone)):
        classes, boxes = train.labels(6 + index)
        original, same = alone.labels(index)
        assert [train.names[c] for c in classes] == [alone.names[c] for c in original]
        assert np.array_equal(boxes, same)
        assert train.size(6 + index) == alone.size(index) and train.id(6 + index) == alone.id(index)
        assert np.array_equal(train.read_image(6 + index, 2), alone.read_image(index, 2))
        assert train.outlines(6 + index) is None
        seen |= set(classes.tolist())
    assert len(seen) > 1
    assert np.array_equal(train.sizes[6:], alone.sizes) and train.shard_sizes == (6, 8)


def test_a_class_that_the_main_dataset_does_not_have_is_an_error_that_names_both(
    tmp_path: Path,
) -> None:
    other = make_dataset(tmp_path / "other", 3, seed=1, names="[circle, square, triangle, wheel]")
    wanted = rf"{other}.*'wheel' is not among .*{tmp_path / 'main'}: circle, square, triangle, star"
    with pytest.raises(DatasetError, match=wanted):
        prepare(tmp_path, str(other))


def test_the_fingerprint_covers_all_datasets_and_their_weights(tmp_path: Path) -> None:
    other = make_dataset(tmp_path / "other", 3, seed=1)
    found = [prepare(tmp_path, *also) for also in ((), (str(other),), (f"{other}#2",))]
    assert len({prepared.fingerprint for prepared in found}) == 3
    (other / "labels" / "train" / "000000.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    assert prepare(tmp_path, str(other)).fingerprint != found[1].fingerprint


def test_what_was_left_out_of_any_dataset_is_listed_and_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = make_dataset(tmp_path / "other", 4, seed=1)
    (other / "images" / "train" / "000002.jpg").write_bytes(b"")
    prepared = prepare(tmp_path, f"{other}#3")
    (row,) = csv.DictReader(io.StringIO(quarantine_csv(prepared.all_quarantine)))
    assert row["file"] == f"{other}: images/train/000002.jpg"
    with caplog.at_level(logging.INFO):
        log_summary(prepared)
    assert f"{other}: 3 train images, each 3 times an epoch" in caplog.text
    assert "an epoch has 15 images" in caplog.text
    assert "left out 1 images" in caplog.text


def test_a_missing_further_dataset_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="nowhere"):
        prepare(tmp_path, str(tmp_path / "nowhere"))


def labeled(folder: Path, classes: list[list[int]], names: str) -> JoinedSplit:
    folder.mkdir()
    records = [
        ImageRecord(
            id=str(n),
            height=9,
            width=9,
            classes=found,
            boxes_cxcywh_norm=[(0.5, 0.5, 0.5, 0.5)] * len(found),
        )
        for n, found in enumerate(classes)
    ]
    return make_split(folder, records, names=names)


def test_classes_are_as_rare_as_an_epoch_has_them(tmp_path: Path) -> None:
    one = labeled(tmp_path / "one", [[0], [0, 1]], "ab")
    other = labeled(tmp_path / "other", [[0], []], "ba")
    joined, shares = JoinedSplit([one, other]), [(1, 1.0), (1, 3.0)]
    assert weights_of_images(joined.shard_sizes, shares).tolist() == [1, 1, 3, 3]
    # Of b an epoch has 1 + 3 boxes, of a 2; the background has the mean of five images, thrice.
    weights = [1 / 2, 1 / 2 + 1 / 4, 3 * 1 / 4]
    np.testing.assert_allclose(class_weights(joined, shares), [*weights, 3 * sum(weights) / 5])
