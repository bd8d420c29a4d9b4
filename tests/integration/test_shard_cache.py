"""Shards in an object store: fetched once, verified, fetched again where that helps, bounded."""

import multiprocessing
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from cluster.errors import DatasetError
from tests.object_store import Relay, object_store
from trainjobs.config import DataConfig
from trainjobs.data.generated.shapes import generate_shapes
from trainjobs.data.ordering.sampler import SampleRef
from trainjobs.data.pack_job import finish, pack_one, plan_job
from trainjobs.data.packed import cache as module
from trainjobs.data.packed.cache import CachedShards
from trainjobs.data.packed.index import INDEX
from trainjobs.data.prepare import Prepared, prepare_dataset
from trainjobs.data.read_ahead import ReadAhead
from trainjobs.data.sources import read_data_yaml

pytestmark = pytest.mark.integration

SHARD_BYTES = 5000  # some images of 32 px


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    generate_shapes(folder, num_train=12, num_val=3, image_size=32, seed=0)
    return folder


@pytest.fixture(scope="module")
def packed(source: Path) -> Iterator[tuple[Relay, str]]:
    """A store, and the URI of the packed dataset in it."""
    with pytest.MonkeyPatch.context() as patch, object_store("data") as relay:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "testing")
        patch.setenv("AWS_REGION", "us-east-1")
        uri = f"s3://data/shapes?endpoint_override={relay.direct_endpoint}"
        plan = plan_job(read_data_yaml(source), uri, shard_bytes=SHARD_BYTES, max_side=None)
        finish(plan, [pack_one(plan.job, shard) for shard in plan.shards])
        yield relay, f"s3://data/shapes?endpoint_override={relay.endpoint}"


@pytest.fixture
def uri(packed: tuple[Relay, str]) -> str:
    return packed[1]


@pytest.fixture
def store(packed: tuple[Relay, str], monkeypatch: pytest.MonkeyPatch) -> Relay:
    relay, _ = packed
    relay.fault = lambda path, body: body
    relay.reads.clear()
    monkeypatch.setattr(module, "FIRST_PAUSE_S", 0.001)
    return relay


def prepare(uri: str, folder: Path, cache_gib: float = 1.0) -> Prepared:
    return prepare_dataset(uri, folder / "cache", DataConfig(cache_gib=cache_gib), seed=0)


def shard_reads(store: Relay) -> list[str]:
    return [path.partition("?")[0] for path in store.reads if ".arrow" in path]


def test_a_dataset_in_an_object_store_is_the_local_one(
    source: Path, uri: str, tmp_path: Path
) -> None:
    remote, local = prepare(uri, tmp_path), prepare(str(source), tmp_path)
    assert remote.fingerprint == local.fingerprint
    one, other = remote.open("val"), local.open("val")
    for index in range(len(other)):
        assert one.id(index) == other.id(index)
        assert np.array_equal(one.read_image(index), other.read_image(index))


def test_a_shard_is_fetched_once_per_node(uri: str, store: Relay, tmp_path: Path) -> None:
    prepared = prepare(uri, tmp_path)
    store.reads.clear()
    with multiprocessing.get_context("spawn").Pool(3) as pool:  # three ranks
        sizes = pool.starmap(read_all, [(prepared,)] * 3)
    assert sizes == [12] * 3
    fetched = shard_reads(store)
    assert len(fetched) == len(set(fetched)) == len(prepared.index.splits["train"].shards)


def read_all(prepared: Prepared) -> int:
    train = prepared.open("train")
    return sum(train.read_image(index) is not None for index in range(len(train)))


@pytest.mark.parametrize("fault", ["broken off", "damaged", "unavailable"])
def test_a_fetch_that_fails_is_made_again(
    uri: str, store: Relay, tmp_path: Path, fault: str
) -> None:
    prepared = prepare(uri, tmp_path)
    failed: list[str] = []

    def fail_first(path: str, body: bytes) -> bytes | int:
        if ".arrow" not in path or failed:
            return body
        failed.append(path)
        changed = bytes([body[0] ^ 1]) + body[1:]
        return {"broken off": body[: len(body) // 2], "damaged": changed, "unavailable": 503}[fault]

    store.fault = fail_first
    assert read_all(prepared) == 12
    assert len(failed) == 1


def test_a_shard_that_stays_damaged_is_named(uri: str, store: Relay, tmp_path: Path) -> None:
    prepared = prepare(uri, tmp_path)
    store.fault = lambda path, body: body[::-1] if ".arrow" in path else body
    with pytest.raises(
        DatasetError, match=r"data/shapes/train-00000\.arrow.*: does not have the ch"
    ):
        prepared.open("train").read_image(0)
    assert not list((tmp_path / "cache" / "shards").glob("*.arrow"))


def test_a_shard_that_is_gone_is_named(uri: str, store: Relay, tmp_path: Path) -> None:
    prepared = prepare(uri, tmp_path)
    store.fault = lambda path, body: 404 if ".arrow" in path else body
    with pytest.raises(DatasetError, match=r"train-00000\.arrow.*: cannot be fetched, 6 times"):
        prepared.open("train").read_image(0)


def test_the_cache_is_bounded_and_its_oldest_shards_go(
    uri: str, store: Relay, tmp_path: Path
) -> None:
    whole = prepare(uri, tmp_path).index.splits["train"].shards
    room = 2.5 * max(shard.num_bytes for shard in whole)
    prepared = prepare(uri, tmp_path / "small", cache_gib=room / 2**30)
    shards = prepared.index.splits["train"].shards
    assert len(shards) > 3
    for _ in range(2):
        assert read_all(prepared) == 12
        kept = list((tmp_path / "small" / "cache" / "shards").glob("*.arrow"))
        assert sum(file.stat().st_size for file in kept) <= room
    fetch = CachedShards(prepared.location, tmp_path / "small" / "cache" / "shards", round(room))
    assert fetch(shards[-1]).exists() and fetch(shards[0]).exists()


def test_a_uri_without_a_packed_dataset_says_how_to_make_one(store: Relay, tmp_path: Path) -> None:
    nothing = f"s3://data/nothing?endpoint_override={store.endpoint}"
    with pytest.raises(DatasetError, match=rf"has no {INDEX}; at a URI .* trainjobs\.pack SRC"):
        prepare(nothing, tmp_path)


def test_shards_are_on_the_node_before_their_batch_is_built(
    uri: str, store: Relay, tmp_path: Path
) -> None:
    prepared = prepare(uri, tmp_path)
    train, shards = prepared.open("train"), prepared.index.splits["train"].shards
    batches = [[SampleRef(0, at, at)] for at in range(len(train))] * 3
    store.reads.clear()

    def slowly(_path: str, body: bytes) -> bytes:
        time.sleep(0.02)
        return body

    store.fault = slowly
    stream = iter(ReadAhead(batches, train, room_bytes=10**9))
    assert next(stream) == batches[0]
    deadline = time.monotonic() + 20
    while len([*(tmp_path / "cache" / "shards").glob("*.arrow")]) < len(shards):
        assert time.monotonic() < deadline  # nobody has opened a shard yet
        time.sleep(0.01)
    read = [train.read_image(batch[0].image) for batch in [*stream]]
    assert len(read) == len(batches) - 1
    assert len(shard_reads(store)) == len(shards)


def test_a_shard_that_cannot_be_read_ahead_is_named_by_who_needs_it(
    uri: str, store: Relay, tmp_path: Path
) -> None:
    prepared = prepare(uri, tmp_path)
    train, broken = prepared.open("train"), prepared.index.splits["train"].shards[1].file
    store.fault = lambda path, body: body[:-9] + b"damaged!!" if broken in path else body
    failed = []
    for (ref,) in ReadAhead([[SampleRef(0, at, at)] for at in range(len(train))], train, 10**9):
        try:
            train.read_image(ref.image)
        except DatasetError as error:
            assert broken in str(error)
            failed.append(ref.image)
    first = train.shard_sizes[0]
    assert failed == [*range(first, first + train.shard_sizes[1])]
