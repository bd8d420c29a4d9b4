"""A dataset made ready for training: scanned once per node into index files in a cache folder.

The cache is keyed by a fingerprint of the dataset's file names, sizes and times of change, so
that an unchanged dataset is ready at once and a changed one is scanned anew.
"""

import csv
import fcntl
import hashlib
import json
import logging
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, astuple, dataclass
from pathlib import Path

from cluster.errors import DatasetError
from trainjobs.config import DataConfig
from trainjobs.data.schema import SCHEMA_VERSION, ImageRecord, Split, write_split
from trainjobs.data.shapes import SHAPES_VERSION, generate_shapes
from trainjobs.data.sources import (
    DatasetSpec,
    QuarantineRow,
    list_split,
    load_split,
    read_data_yaml,
)
from trainjobs.data.yolo_layout import label_path

logger = logging.getLogger(__name__)

PREPARED_SPLITS = ("train", "val")

ALLOWED_SKIPS = 10
"""So many unusable images in a split never stop a run, whatever their share."""

GENERATED_VAL_IMAGES = 200
"""Validation images of the generated dataset: enough for a mAP that is steady to about 0.02."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """A dataset ready for training."""

    folder: Path
    """Holds train.arrow, val.arrow, dataset.json and quarantine.csv."""
    names: tuple[str, ...]
    """Class names by class id."""
    counts: dict[str, int]
    """Usable images of each split."""
    skipped: dict[str, int]
    """Images of each split that were left out."""
    num_background: int
    """Images without objects, of all splits."""
    fingerprint: str
    """Identifies what the dataset holds, wherever it lies."""
    quarantine: list[QuarantineRow]
    """Images and label rows that were left out."""

    def open(self, split: str) -> Split:
        """The split `train` or `val`."""
        return Split(self.folder / f"{split}.arrow")


def prepare_dataset(source: str | None, cache: Path, data: DataConfig, seed: int) -> Prepared:
    """Scan a dataset into the cache, unless that was done; safe to call on all ranks at once.

    Args:
        source: A data.yaml or its folder; None: the generated dataset, made here.
        cache: Folder on this node that this service may fill.
        data: Size of the generated dataset, and how many bad images are too many.
        seed: Of the generated dataset.

    Raises:
        DatasetError: The dataset cannot be used; says which file and why.
        ConfigError: The data.yaml is not YAML, or has a key twice.
    """
    cache.mkdir(parents=True, exist_ok=True)
    with _locked(cache / "prepare.lock"):
        spec = read_data_yaml(Path(source) if source else _generate(cache, data, seed))
        folder = cache / f"dataset-{_cache_key(spec)[:16]}"
        _make_whole(folder, lambda new: _scan(spec, new))
    prepared = _load(folder)
    _check_skipped(prepared, spec, data.max_bad_fraction)
    return prepared


def log_summary(prepared: Prepared) -> None:
    """Log what was found: one INFO line and, if anything was left out, one warning.

    Separate from `prepare_dataset`, which each rank calls.
    """
    sizes = ", ".join(f"{count} {split}" for split, count in prepared.counts.items())
    logger.info(
        "dataset: %s images (%s without objects), %s classes: %s",
        sizes,
        prepared.num_background,
        len(prepared.names),
        ", ".join(prepared.names[:10]) + (", ..." if len(prepared.names) > 10 else ""),
    )
    if prepared.quarantine:
        num_images = sum(prepared.skipped.values())
        first = prepared.quarantine[0]
        logger.warning(
            "left out %s images and %s label rows, all listed in %s; the first: %s: %s",
            num_images,
            len(prepared.quarantine) - num_images,
            prepared.folder / "quarantine.csv",
            first.file if first.row is None else f"{first.file}, row {first.row}",
            first.reason,
        )


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    with file.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)  # released when the file is closed, also by a kill
        yield


def _make_whole(folder: Path, fill: Callable[[Path], None]) -> None:
    """Fill a folder that does not exist yet, so that it exists whole or not at all."""
    if folder.exists():
        return
    new = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=folder.parent))
    try:
        fill(new)
        new.rename(folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _generate(cache: Path, data: DataConfig, seed: int) -> Path:
    num_train, size = data.generated_images, data.image_size
    folder = cache / f"shapes-v{SHAPES_VERSION}-{num_train}-{size}px-seed{seed}"
    _make_whole(
        folder,
        lambda new: generate_shapes(
            new, num_train=num_train, num_val=GENERATED_VAL_IMAGES, image_size=size, seed=seed
        ),
    )
    return folder


def _cache_key(spec: DatasetSpec) -> str:
    """Changes with every file on this node, whatever is in it."""
    digest = hashlib.sha256()
    digest.update(repr((SCHEMA_VERSION, spec.root, spec.names, spec.splits)).encode())
    for split in PREPARED_SPLITS:
        for image in list_split(spec, split):
            for file in (image, label_path(image)):
                digest.update(repr((str(file), _stamp(file))).encode())
    return digest.hexdigest()


def _stamp(file: Path) -> tuple[int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


def _add_identity(digest: "hashlib._Hash", spec: DatasetSpec, records: list[ImageRecord]) -> None:
    """Count a split in: what it holds, wherever and whenever it was copied."""
    for record in records:
        image = spec.root / record.id
        name = image.name if Path(record.id).is_absolute() else record.id
        facts = (name, image.stat().st_size, record.height, record.width, record.classes)
        digest.update(repr((*facts, record.boxes_cxcywh_norm)).encode())


def _scan(spec: DatasetSpec, folder: Path) -> None:
    identity = hashlib.sha256(repr(spec.names).encode())
    quarantine: list[QuarantineRow] = []
    counts, skipped, num_background = {}, {}, 0
    for split in PREPARED_SPLITS:
        scanned = load_split(spec, split)
        write_split(folder / f"{split}.arrow", scanned.records, root=spec.root, names=spec.names)
        identity.update(split.encode())
        _add_identity(identity, spec, scanned.records)
        counts[split], skipped[split] = len(scanned.records), scanned.num_skipped
        num_background += sum(not record.classes for record in scanned.records)
        quarantine += scanned.quarantine
    with (folder / "quarantine.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("file", "row", "reason"))
        writer.writerows(astuple(row) for row in quarantine)
    summary = {
        "root": str(spec.root),
        "names": spec.names,
        "counts": counts,
        "skipped": skipped,
        "num_background": num_background,
        "fingerprint": identity.hexdigest(),
        "quarantine": [asdict(row) for row in quarantine],
    }
    (folder / "dataset.json").write_text(json.dumps(summary, indent=2), encoding="utf-8")


def _load(folder: Path) -> Prepared:
    summary = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    return Prepared(
        folder=folder,
        names=tuple(summary["names"]),
        counts=summary["counts"],
        skipped=summary["skipped"],
        num_background=summary["num_background"],
        fingerprint=summary["fingerprint"],
        quarantine=[QuarantineRow(**row) for row in summary["quarantine"]],
    )


def _check_skipped(prepared: Prepared, spec: DatasetSpec, max_bad_fraction: float) -> None:
    for split, bad in prepared.skipped.items():
        total = bad + prepared.counts[split]
        if bad > ALLOWED_SKIPS and bad > max_bad_fraction * total:
            raise DatasetError(
                str(spec.file),
                f"{split}: {bad} of {total} images cannot be used, more than "
                f"data.max_bad_fraction ({max_bad_fraction:g}) allows; they are listed in "
                f"{prepared.folder / 'quarantine.csv'}",
            )
