"""A dataset made ready for training: packed shards, wherever they are.

What is packed already is used as it is. A user's own files are packed once per node into a cache folder
keyed by their names, sizes and times of change, so that an unchanged dataset is ready at once and a
changed one is packed anew.
"""

import csv
import hashlib
import io
from dataclasses import dataclass, field, replace
from pathlib import Path

from cluster.errors import DatasetError, StorageError
from cluster.storage import RunPaths, is_uri
from trainjobs.config import DataConfig
from trainjobs.data.cached_folders import CachedFolders, prepared_folders
from trainjobs.data.generated.datasets import SHAPES, Generated
from trainjobs.data.ordering.copies import Share, images_in_all
from trainjobs.data.packed.cache import CachedShards, LocalShards
from trainjobs.data.packed.index import INDEX, DatasetIndex, parse_index
from trainjobs.data.packed.joined import JoinedSplit, TrainingSplit
from trainjobs.data.packed.shards import Split
from trainjobs.data.packing import (
    QUARANTINE,
    pack_shard,
    plan_shards,
    save_index,
    source_key,
)
from trainjobs.data.scanning import QuarantineRow, open_split
from trainjobs.data.sources import DatasetSpec, log_notes, read_data_yaml

PREPARED_SPLITS = ("train", "val")
ALLOWED_SKIPS = 10
"""So many unusable images in a split never stop a run, whatever their share."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """A dataset ready for training."""

    location: str
    """Folder or URI of the packed dataset."""
    index: DatasetIndex
    quarantine: list[QuarantineRow]
    """Images and label rows that were left out."""
    fetch: LocalShards | CachedShards = field(repr=False)
    also: tuple["Addition", ...] = ()
    """Datasets that are trained on beside it."""

    @property
    def names(self) -> tuple[str, ...]:
        """Class names by class id."""
        return self.index.names

    @property
    def fingerprint(self) -> str:
        """Identifies what the dataset, and those beside it, hold, wherever they lie."""
        if not self.also:
            return self.index.fingerprint
        others = [(other.data.fingerprint, other.weight) for other in self.also]
        return hashlib.sha256(repr((self.index.fingerprint, others)).encode()).hexdigest()

    @property
    def counts(self) -> dict[str, int]:
        """Usable images of each split."""
        return {split: entry.num_images for split, entry in self.index.splits.items()}

    @property
    def skipped(self) -> dict[str, int]:
        """Images of each split that were left out."""
        return {split: entry.num_skipped for split, entry in self.index.splits.items()}

    @property
    def shares(self) -> tuple[Share, ...]:
        """Of the datasets in an epoch, in the order of `open_train`."""
        parts = [(self, 1.0), *((other.data, other.weight) for other in self.also)]
        return tuple((len(part.index.splits["train"].shards), weight) for part, weight in parts)

    @property
    def images_per_epoch(self) -> int:
        """Training images of an epoch, of all datasets."""
        counts = [self.counts["train"], *(other.data.counts["train"] for other in self.also)]
        return int(images_in_all([1.0, *(other.weight for other in self.also)], counts)[-1])

    @property
    def all_quarantine(self) -> list[QuarantineRow]:
        """What was left out of all datasets; of the others, files are named after their source."""
        others = [
            replace(row, file=f"{other.source}: {row.file}")
            for other in self.also
            for row in other.data.quarantine
        ]
        return self.quarantine + others

    def open(self, split: str) -> Split:
        """A split of this dataset alone, `train` or `val`."""
        is_remote = isinstance(self.fetch, CachedShards)
        return Split(self.index.splits[split], self.names, self.fetch, is_remote=is_remote)

    def open_train(self) -> TrainingSplit:
        """The training splits of all datasets, as one."""
        if not self.also:
            return self.open("train")
        return JoinedSplit([self.open("train"), *(other.data.open("train") for other in self.also)])


@dataclass(frozen=True, kw_only=True, slots=True)
class Addition:
    """A dataset that is trained on beside another."""

    source: str
    weight: float
    """How often each of its images comes in an epoch."""
    data: Prepared


def prepare_dataset(
    source: str | None,
    cache: Path,
    data: DataConfig,
    seed: int,
    *,
    generated: Generated = SHAPES,
    splits: tuple[str, ...] = PREPARED_SPLITS,
) -> Prepared:
    """Find a packed dataset, or pack one into the cache; safe to call on all ranks at once.

    Args:
        source: a packed dataset (its folder, index.json or URI), a data.yaml or its folder, or one
            that needs none; None: the generated dataset, made here.
        cache: folder on this node that this service may fill.
        data: size of the generated dataset, how many bad images are too many, room in the cache.
        seed: of the generated dataset.
        generated: what that is.
        splits: that it must have; of what is not packed yet, these alone are read.

    Raises:
        DatasetError: the dataset cannot be used; says which file and why.
        ConfigError: the data.yaml is not YAML, or has a key twice.
    """
    location = packed_location(source)
    if location is None:
        location = str(_pack_here(source or generated, cache, data, seed, splits))
    remote = CachedShards(location, cache / "shards", round(data.cache_gib * 2**30))
    prepared = open_packed(location, remote if is_uri(location) else LocalShards(Path(location)))
    for split in splits:
        if split not in prepared.index.splits:
            raise DatasetError(f"{location}/{INDEX}", f"has no split {split!r}")
        _check_skipped(prepared, split, source or location, data.max_bad_fraction)
    return prepared


def packed_location(source: str | None) -> str | None:
    """Folder or URI of a packed dataset; None if the source is not one.

    Raises:
        DatasetError: a URI holds no packed dataset, or does not answer.
    """
    if source is None:
        return None
    location = source.removesuffix(f"/{INDEX}")
    try:
        if not is_uri(location):
            return location if Path(location, INDEX).is_file() else None
        if RunPaths(location, "").exists(INDEX):
            return location
    except OSError as error:  # the folder may not be entered, or can have no such name
        raise DatasetError(source, error.strerror or str(error)) from error
    except StorageError as error:
        raise DatasetError(source, str(error)) from error
    raise DatasetError(
        source,
        f"has no {INDEX}; at a URI a dataset is packed: `python -m trainjobs.pack SRC {source}`",
    )


def open_packed(location: str, fetch: LocalShards | CachedShards) -> Prepared:
    """Read the index of a packed dataset and the list of what was left out of it.

    Raises:
        DatasetError: one of them cannot be read.
    """
    files = RunPaths(location, "")
    try:
        index = parse_index(files.read_text(INDEX), files.location(INDEX))
        rows = csv.DictReader(io.StringIO(files.read_text(QUARANTINE)))
        quarantine = [
            QuarantineRow(row["file"], int(row["row"]) if row["row"] else None, row["reason"])
            for row in rows
        ]
    except StorageError as error:
        raise DatasetError(location, str(error)) from error
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise DatasetError(files.location(QUARANTINE), f"is damaged ({error!r})") from error
    return Prepared(location=location, index=index, quarantine=quarantine, fetch=fetch)


def _pack_here(
    source: str | Generated, cache: Path, data: DataConfig, seed: int, splits: tuple[str, ...]
) -> Path:
    folders = prepared_folders(cache, data.cache_gib)
    raw = Path(source) if isinstance(source, str) else _generate(source, folders, data, seed)
    spec = read_data_yaml(raw)
    name = f"dataset-{source_key(spec, splits)[:16]}"
    return folders.get(name, lambda new: _pack(spec, splits, new))


def _pack(spec: DatasetSpec, splits: tuple[str, ...], folder: Path) -> None:
    log_notes(spec)
    sources = [open_split(spec, split) for split in splits]
    packed = []
    for source in sources:
        for plan in plan_shards(source.split, source.images):
            file, shard = pack_shard(plan, source)
            if file:
                (folder / shard.entry.file).write_bytes(file)
            packed.append(shard)
    save_index(RunPaths(str(folder), ""), sources, packed)


def _generate(generated: Generated, folders: CachedFolders, data: DataConfig, seed: int) -> Path:
    num_train, size = data.generated_images, data.image_size
    return folders.get(
        f"{generated.name}-{num_train}-{size}px-seed{seed}",
        lambda new: generated.write(
            new, num_train=num_train, num_val=generated.num_val, image_size=size, seed=seed
        ),
    )


def is_too_bad(num_skipped: int, num_images: int, max_bad_fraction: float) -> bool:
    """Whether a split of so many images, unusable ones counted, has too many of these for a run."""
    return num_skipped > ALLOWED_SKIPS and num_skipped > max_bad_fraction * num_images


def _check_skipped(prepared: Prepared, split: str, source: str, max_bad_fraction: float) -> None:
    bad = prepared.skipped[split]
    total = bad + prepared.counts[split]
    if is_too_bad(bad, total, max_bad_fraction):
        raise DatasetError(
            source,
            f"{split}: {bad} of {total} images cannot be used, more than "
            f"data.max_bad_fraction ({max_bad_fraction:g}) allows; they are listed in "
            f"{RunPaths(prepared.location, '').location(QUARANTINE)}",
        )
