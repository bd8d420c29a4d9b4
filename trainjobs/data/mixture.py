"""The datasets of a run: one that it is measured on, and others that it trains on beside it."""

import logging
from dataclasses import replace
from pathlib import Path

from cluster.errors import DatasetError
from cluster.storage import RunPaths
from trainjobs.config import DataConfig
from trainjobs.data.formats.class_names import listed
from trainjobs.data.generated.datasets import SHAPES, Generated
from trainjobs.data.packing import QUARANTINE
from trainjobs.data.prepare import Addition, Prepared, prepare_dataset
from trainjobs.weighted_source import parse_weighted

logger = logging.getLogger(__name__)


def prepare_datasets(
    data: DataConfig, cache: Path, seed: int, generated: Generated = SHAPES
) -> Prepared:
    """Prepare the dataset of a run and those beside it; see `prepare_dataset`.

    Raises:
        DatasetError: as `prepare_dataset`, or one has a class that the first one does not have.
        ConfigError: as `prepare_dataset`.
    """
    main = prepare_dataset(data.source, cache, data, seed, generated=generated)
    also = []
    for text in data.also:
        wanted = parse_weighted(text, "data.also")
        other = prepare_dataset(wanted.source, cache, data, seed, splits=("train",))
        for name in other.names:
            if name not in main.names:
                known = f"{data.source or 'the generated dataset'}: {listed(main.names)}"
                raise DatasetError(
                    wanted.source, f"class {name!r:.60} is not among the names of {known}"
                )
        also.append(Addition(source=wanted.source, weight=wanted.weight, data=other))
    return replace(main, also=tuple(also))


def log_summary(prepared: Prepared) -> None:
    """Log what was found, and one warning for each dataset of which anything was left out.

    Separate from `prepare_dataset`, which each rank calls.
    """
    sizes = ", ".join(f"{count} {split}" for split, count in prepared.counts.items())
    logger.info(
        "dataset: %s images (%s without objects), %s classes: %s",
        sizes,
        sum(entry.num_background for entry in prepared.index.splits.values()),
        len(prepared.names),
        ", ".join(prepared.names[:10]) + (", ..." if len(prepared.names) > 10 else ""),
    )
    for other in prepared.also:
        logger.info(
            "and %s: %s train images, each %g times an epoch",
            other.source,
            other.data.counts["train"],
            other.weight,
        )
    if prepared.also:
        logger.info("an epoch has %s images of all", prepared.images_per_epoch)
    for part in (prepared, *(other.data for other in prepared.also)):
        _warn_of_left_out(part)


def _warn_of_left_out(prepared: Prepared) -> None:
    if prepared.quarantine:
        num_images = sum(prepared.skipped.values())
        first = prepared.quarantine[0]
        logger.warning(
            "left out %s images and %s label rows, all listed in %s; the first: %s: %s",
            num_images,
            len(prepared.quarantine) - num_images,
            RunPaths(prepared.location, "").location(QUARANTINE),
            first.file if first.row is None else f"{first.file}, row {first.row}",
            first.reason,
        )
