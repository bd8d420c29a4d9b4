"""Packing a dataset as many small pieces of work, each done once however often it is begun.

A shard is written first, then a note of what it holds; the index comes when all notes are there. So a
packing that was interrupted goes on where it was, and an index says that everything is whole.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from cluster.config_io import from_dict
from cluster.errors import DatasetError
from cluster.storage import RunPaths
from trainjobs.data.packed.index import INDEX, DatasetIndex
from trainjobs.data.packing import (
    PackedShard,
    ShardPlan,
    pack_shard,
    plan_shards,
    save_index,
    source_key,
)
from trainjobs.data.scanning import OpenSplit, open_split
from trainjobs.data.sources import DatasetSpec, log_notes

NOTES = "notes"
"""Folder beside the shards, until there is an index."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PackJob:
    """A source, and where and how it is packed."""

    spec: DatasetSpec
    destination: str
    """Absolute path or URI of a folder."""
    max_side: int | None
    """Px to which larger images are shrunk."""
    key: str
    """Changes with the source and with how it is packed."""

    @property
    def files(self) -> RunPaths:
        """The destination."""
        return RunPaths(self.destination, "")


@dataclass(frozen=True, kw_only=True, slots=True)
class PackPlan:
    """All of a job, where it is planned and finished."""

    job: PackJob
    sources: list[OpenSplit]
    shards: list[ShardPlan]


def plan_job(
    spec: DatasetSpec, destination: str, *, shard_bytes: int, max_side: int | None
) -> PackPlan:
    """Cut all splits of a source into shards.

    Raises:
        DatasetError: a folder of the source is gone or has no image; or the destination holds a packed
            dataset, or pieces of another one.
    """
    log_notes(spec)
    sources = [open_split(spec, split) for split in spec.splits]
    shards = [
        s for source in sources for s in plan_shards(source.split, source.images, shard_bytes)
    ]
    settings = repr((source_key(spec, [*spec.splits]), shard_bytes, max_side))
    job = PackJob(
        spec=spec,
        destination=destination,
        max_side=max_side,
        key=hashlib.sha256(settings.encode()).hexdigest(),
    )
    if job.files.exists(INDEX):
        raise DatasetError(destination, "holds a packed dataset already; give another folder")
    for name in job.files.list_names(NOTES):
        _load_note(job, name)  # raises if it is of another source
    return PackPlan(job=job, sources=sources, shards=shards)


def pack_one(job: PackJob, plan: ShardPlan) -> PackedShard:
    """Pack one shard of a job, unless that was done.

    Raises:
        DatasetError: the source as a whole cannot be used, or this node does not see it.
        StorageError: the destination cannot be written.
    """
    files, note = job.files, f"{plan.file}.json"
    if files.exists(f"{NOTES}/{note}"):
        return _load_note(job, note)
    if not job.spec.file.exists():  # its images would all be listed as missing
        raise DatasetError(
            str(job.spec.file), "is not on every node; give a folder that they share"
        )
    data, packed = pack_shard(plan, _opened(job, plan.split), job.max_side)
    if data:
        files.write_bytes(plan.file, data)
    files.write_text(f"{NOTES}/{note}", json.dumps({"key": job.key, "shard": asdict(packed)}))
    return packed


def finish(plan: PackPlan, packed: Iterable[PackedShard]) -> DatasetIndex:
    """Write the index of a job whose shards are all there, in any order.

    Raises:
        DatasetError: no image of a split can be used, or none has an object.
    """
    job, by_file = plan.job, {shard.entry.file: shard for shard in packed}
    shards = [by_file[shard.file] for shard in plan.shards]
    index = save_index(job.files, plan.sources, shards)
    RunPaths(job.destination, NOTES).delete_folder()
    return index


_open_splits: dict[tuple[str, str], OpenSplit] = {}
"""Of this process's last job: a large JSON is parsed once, not once per shard."""


def _opened(job: PackJob, split: str) -> OpenSplit:
    if any(key != job.key for key, _ in _open_splits):
        _open_splits.clear()
    if (job.key, split) not in _open_splits:
        _open_splits[job.key, split] = open_split(job.spec, split)
    return _open_splits[job.key, split]


def _load_note(job: PackJob, name: str) -> PackedShard:
    where = job.files.location(f"{NOTES}/{name}")
    try:
        content = json.loads(job.files.read_text(f"{NOTES}/{name}"))
        key, shard = content["key"], from_dict(PackedShard, content["shard"], where)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise DatasetError(where, "is damaged; delete the folder and pack anew") from error
    if key != job.key:
        reason = (
            "is of another source, or of other options; give another folder, or delete this one"
        )
        raise DatasetError(job.destination, reason)
    return shard
