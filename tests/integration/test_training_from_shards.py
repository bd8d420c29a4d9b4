"""Packing as tasks of a real cluster, and training from what was packed, on disk and in an object store."""

import csv
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.config import ResourceRequest
from cluster.session import Session
from tests.object_store import object_store
from trainjobs.config import AugmentConfig, DataConfig, ModelConfig, OptimConfig, TrainConfig
from trainjobs.data.generated.shapes import generate_shapes
from trainjobs.data.pack_job import finish, pack_one, plan_job
from trainjobs.data.sources import read_data_yaml
from trainjobs.launch import launch
from trainjobs.pack import Pack, pack

pytestmark = [
    pytest.mark.integration,
    # As in test_training.py.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

SHARD_MIB = 1


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of about 20 kB: some shards of a MiB."""
    folder = tmp_path_factory.mktemp("data")
    generate_shapes(folder, num_train=180, num_val=6, image_size=224, seed=0)
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def pack_here(source: Path, destination: str) -> None:
    plan = plan_job(
        read_data_yaml(source), destination, shard_bytes=SHARD_MIB * 2**20, max_side=None
    )
    finish(plan, [pack_one(plan.job, shard) for shard in plan.shards])


@pytest.fixture(scope="module")
def packed(source: Path, ray_session: Session, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Packed by tasks of the cluster."""
    folder = tmp_path_factory.mktemp("packed") / "shapes"
    pack(str(source), str(folder), Pack(shard_mib=SHARD_MIB))
    return folder


def test_tasks_of_a_cluster_write_what_one_process_writes(
    packed: Path, source: Path, tmp_path: Path
) -> None:
    pack_here(source, str(tmp_path / "here"))
    assert len(list(packed.glob("train-*.arrow"))) > 2
    assert content(packed) == content(tmp_path / "here")


@pytest.fixture(scope="module")
def remote(source: Path) -> Iterator[str]:
    """The URI of the same dataset in an object store."""
    with pytest.MonkeyPatch.context() as patch, object_store("data") as relay:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "testing")
        patch.setenv("AWS_REGION", "us-east-1")
        pack_here(source, f"s3://data/shapes?endpoint_override={relay.direct_endpoint}")
        yield f"s3://data/shapes?endpoint_override={relay.endpoint}"


def curve(data: str, storage: Path, name: str) -> list[dict[str, str]]:
    config = TrainConfig(
        run_name=name,
        epochs=2,
        batch_size_per_worker=4,
        data=DataConfig(source=data, image_size=64),
        model=ModelConfig(name="yolov5n"),
        augment=AugmentConfig(close_mosaic=1),
        optim=OptimConfig(images_per_step=32),
        resources=ResourceRequest(num_workers=1, storage=str(storage)),
    )
    assert launch(config).status == "finished"
    with (storage / name / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    clock = ("epoch_s", "images_per_second")
    return [{key: text for key, text in row.items() if key not in clock} for row in rows]


@pytest.mark.slow
def test_a_run_on_an_object_store_draws_the_curve_of_one_on_a_disk(
    packed: Path, remote: str, tmp_path: Path
) -> None:
    local = curve(str(packed), tmp_path, "local")
    assert len(local) == 2
    assert curve(remote, tmp_path, "remote") == local
