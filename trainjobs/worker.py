"""What one rank does: it wires the parts, calls `fit`, and reports to Ray Train and the driver."""

import logging
import secrets
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch
import torch
from pyarrow.fs import FileSystem
from ray.train import Checkpoint, CheckpointUploadMode

from cluster.channel import Sender
from cluster.config_io import from_dict
from cluster.credentials import Credentials
from cluster.errors import DatasetError, StorageError
from cluster.logs import configure_rank_logging
from cluster.storage import RunPaths
from trainjobs.config import TrainConfig
from trainjobs.data.loader import resolve_loader_workers
from trainjobs.data.mixture import prepare_datasets
from trainjobs.distributed import DDP_OPTIONS, broadcast_object
from trainjobs.events import GroupStarted
from trainjobs.jobs import JOBS
from trainjobs.loop import fit
from trainjobs.reporter import PendingCheckpoint, RankReporter
from trainjobs.task import RankContext
from trainjobs.training import build_training

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerSettings:
    """What every rank gets from the driver."""

    job: str
    """A key of `JOBS`."""
    config: dict[str, Any]
    """A resolved `TrainConfig` as plain values."""
    storage: str
    """Absolute path or URI that holds the run's folder."""
    cache: str
    """Folder for prepared datasets on each node; `~` is the node's own home."""
    dataset_fingerprint: str
    """Of the dataset that the driver saw; every node must see the same."""
    cpus: float
    """CPUs of this worker."""
    resume_from: tuple[str, ...]
    """Checkpoints of earlier launches, relative to the run's folder, newest first."""
    sender: Sender
    credentials: Credentials
    """In the rank's environment by the time it reads this."""


def train_worker(settings: WorkerSettings) -> None:
    """Train as one rank of a Ray Train worker group."""
    context = ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    settings.sender.start()
    configure_rank_logging(settings.sender.handler(), rank=rank, world_size=world_size)
    try:
        _train(settings, rank, world_size, context.get_local_world_size())
    finally:
        settings.sender.close()


def _train(settings: WorkerSettings, rank: int, world_size: int, ranks_on_node: int) -> None:
    config = from_dict(TrainConfig, settings.config)
    device: torch.device = ray.train.torch.get_device()
    torch.set_num_threads(max(1, int(settings.cpus)))
    paths = RunPaths(settings.storage, config.run_name or "")
    loader_workers = resolve_loader_workers(
        config.data.loader_workers,
        node_cpus=settings.cpus * ranks_on_node,
        ranks_on_node=ranks_on_node,
        batch_size=config.batch_size_per_worker,
    )
    _log_rank(device, loader_workers)
    cache = Path(settings.cache).expanduser()
    context = RankContext(
        rank=rank,
        world_size=world_size,
        ranks_on_node=ranks_on_node,
        device=device,
        loader_workers=loader_workers,
        prepare_loader=partial(ray.train.torch.prepare_data_loader, add_dist_sampler=False),
        cache=cache,
    )
    job = JOBS[settings.job]
    data = prepare_datasets(config.data, cache, config.seed, job.generated)
    if data.fingerprint != settings.dataset_fingerprint:
        raise DatasetError(
            ", ".join([str(config.data.source), *config.data.also]),
            f"holds something else on {socket.gethostname()} than where the run was launched; give "
            "all nodes the same files, or a folder that they share",
        )
    task = job.build_task(config, data, context)
    training = build_training(
        config,
        task,
        rank=rank,
        world_size=world_size,
        device=device,
        checkpoints=_checkpoints(settings, paths),
        prepare_model=partial(ray.train.torch.prepare_model, parallel_strategy_kwargs=DDP_OPTIONS),
    )
    if rank == 0:
        settings.sender.send(GroupStarted(world_size))
    reporter = RankReporter(
        paths,
        settings.sender,
        submit_checkpoint,
        rank=rank,
        attempt=broadcast_object(secrets.token_hex(3)),
        checkpoint_every=config.checkpoint.every_epochs,
        tensorboard=config.tracking.tensorboard,
    )
    reporter.finish(training, fit(training, reporter, device))


def submit_checkpoint(
    metrics: dict[str, float], pending: PendingCheckpoint | None, name: str, wait: bool
) -> None:
    """Report to Ray Train, as every rank must; what is written is stored, then deleted here."""

    def store(checkpoint: Checkpoint, name: str) -> Checkpoint:
        assert pending is not None
        pending.written.result()
        storage = ray.train.get_context().get_storage()
        try:
            stored: Checkpoint = storage.persist_current_checkpoint(checkpoint, name)
        except OSError as error:
            raise StorageError(f"the checkpoint {name} cannot be stored: {error}") from error
        return stored

    ray.train.report(
        metrics,
        checkpoint=Checkpoint.from_directory(pending.folder) if pending else None,
        checkpoint_dir_name=name,
        checkpoint_upload_mode=CheckpointUploadMode.SYNC if wait else CheckpointUploadMode.ASYNC,
        checkpoint_upload_fn=store,
        delete_local_checkpoint_after_upload=True,
    )


def _checkpoints(settings: WorkerSettings, paths: RunPaths) -> Iterator[Path]:
    """Local copies of the checkpoints to try: this launch's last one first, then earlier launches'."""
    if current := ray.train.get_checkpoint():
        with current.as_directory() as folder:
            yield Path(folder)
    for relative in settings.resume_from:
        location = paths.location(relative)
        if not paths.is_remote:
            yield Path(location)
            continue
        filesystem, path = FileSystem.from_uri(location)
        with tempfile.TemporaryDirectory() as scratch:
            yield Path(Checkpoint(path, filesystem).to_directory(scratch))


def _log_rank(device: torch.device, loader_workers: int) -> None:
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        what = f"{device} {torch.cuda.get_device_name(device)}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free"
    else:
        what = (
            f"cpu, {torch.get_num_threads()} threads, {_free_memory_gib():.1f} GiB of memory free"
        )
    logger.info("%s, %d loader threads", what, loader_workers)


def _free_memory_gib() -> float:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable"):
            return int(line.split()[1]) / 2**20
    return 0.0
