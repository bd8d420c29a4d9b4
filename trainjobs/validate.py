"""`python -m trainjobs.validate`: measure trained weights on a dataset, as training measured them.

In this process, on its GPU if it has one; neither Ray nor MLflow take part.
"""

import functools
import json
import logging
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cluster.command import SUCCESS, run_command
from cluster.config_io import to_dict
from cluster.errors import CheckpointError, ConfigError
from cluster.places import dataset_cache
from trainjobs.command_line import read_arguments
from trainjobs.config import DataConfig, EvalConfig
from trainjobs.locate import new_run_name
from trainjobs.ranges import check_range

if TYPE_CHECKING:
    import torch

    from trainjobs.data.prepare import Prepared
    from trainjobs.jobs import Job
    from trainjobs.measurement import Measured, Measurement
    from trainjobs.task import Batch, RankContext
    from trainjobs.weights_file import WeightsFile

logger = logging.getLogger(__name__)

RESULT = "result.json"


@dataclass(frozen=True, kw_only=True)
class Validate:
    """Measure trained weights on a split of a dataset. The last line printed is the result's path."""

    weights: str
    """Weights file of a run, by path or URI."""
    data: str | None = None
    """Dataset, as in training. Default: the one that the weights' job generates."""
    split: str = "val"
    """Of the dataset: val, train, or test where there is one."""
    image_size: int | None = None
    """Px of the longer side of an image. Default: what the weights were trained at."""
    output: str | None = None
    """Folder for the result and its pictures, new or empty. Default: a new one in runs/validate."""
    seed: int = 0
    """Of the generated dataset."""
    max_bad_fraction: float = DataConfig().max_bad_fraction
    """Largest fraction of unusable images in the split, as data.max_bad_fraction in training."""
    cache_gib: float = DataConfig().cache_gib
    """GiB of datasets that this machine keeps, as data.cache_gib in training."""
    loader_workers: int | Literal["auto"] = "auto"
    """Data-loading threads. `auto`: one for each CPU, 8 at most."""
    eval: EvalConfig = field(default_factory=EvalConfig)
    """How. Default: as training did."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Least important lines to show."""


def main(argv: Sequence[str] | None = None) -> int:
    """Measure as the command line says. Returns the exit code."""

    def run() -> int:
        # Not at the top: these need packages that `run_command` looks for first.
        from cluster.credentials import credentials_apart  # noqa: PLC0415
        from cluster.logs import configure_logging  # noqa: PLC0415

        configure_logging()
        args = sys.argv[1:] if argv is None else argv
        options = read(args)
        configure_logging(options.log_level)
        with credentials_apart(options) as bare:
            # Torch loads here: help and mistakes in the command line answer before.
            from trainjobs.weights_file import read_weights  # noqa: PLC0415

            weights = read_weights(bare.weights)
            # Once more, now that it is known what the flags are laid over.
            settings = read(args, weights.eval).eval
            print(validate(replace(bare, eval=settings), weights))
        return SUCCESS

    return run_command(run)


def read(args: Sequence[str], settings: EvalConfig | None = None) -> Validate:
    """The command line, with `settings` where it says nothing of them.

    Raises:
        ConfigError: a value is wrong.
        SystemExit: with 2, after tyro's message, for unknown flags; with 0 after --help.
    """
    import tyro  # noqa: PLC0415

    return read_arguments(
        Validate,
        args,
        default=Validate(weights=tyro.MISSING, eval=settings or EvalConfig()),
        prog="python -m trainjobs.validate",
    )


def validate(options: Validate, weights: "WeightsFile") -> Path:
    """Measure weights, and write what came out.

    Args:
        options: What the command was told.
        weights: Of `options.weights`.

    Returns:
        The file with the result.

    Raises:
        ServiceError: weights or dataset cannot be used, or do not fit each other.
    """
    from trainjobs.jobs import JOBS  # noqa: PLC0415
    from trainjobs.measurement import Measurement, match_classes  # noqa: PLC0415

    image_size = weights.image_size if options.image_size is None else options.image_size
    check_range("image_size", image_size, 32)
    job = JOBS.get(weights.job)
    if job is None:
        raise CheckpointError(
            weights.location, f"is of a job {weights.job!r}, not of {', '.join(JOBS)}"
        )
    folder = empty_folder(options.output or f"runs/validate/{new_run_name(weights.model)}")
    data = open_data(options, job, weights.image_size)
    split = data.open(options.split)
    wanted = Measurement(
        weights=weights,
        split=split,
        class_ids=match_classes(weights, split.names, options.data or data.location),
        image_size=image_size,
        batch_size=weights.batch_size,
        settings=options.eval,
        context=only_rank(options.loader_workers),
    )
    logger.info(
        "%s on %s: %d images, %d px", weights.model, options.split, len(split), wanted.image_size
    )
    return save(folder, job.measure(wanted), wanted, options)


def open_data(options: Validate, job: "Job", image_size: int) -> "Prepared":
    """The dataset with the split, packed into this machine's cache.

    Args:
        options: Of the command.
        job: That the weights are of.
        image_size: Px at which a dataset is generated if none is given.

    Raises:
        DatasetError: it cannot be used, or has no such split.
    """
    from trainjobs.data.prepare import prepare_dataset  # noqa: PLC0415

    prepared = prepare_dataset(
        options.data,
        Path(dataset_cache()).expanduser(),
        DataConfig(
            source=options.data,
            image_size=image_size,
            max_bad_fraction=options.max_bad_fraction,
            cache_gib=options.cache_gib,
        ),
        options.seed,
        generated=job.generated,
        splits=(options.split,),
    )
    job.check_data(prepared, options.data or job.generated.name)
    return prepared


def empty_folder(name: str) -> Path:
    """A folder for the result, made if it is not there.

    Raises:
        ConfigError: it is a file, or holds something.
    """
    folder = Path(name)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"--output {folder} exists; give a new or an empty folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--output {folder} cannot be made: {error.strerror}") from error
    return folder


class MovedBatches:
    """A loader whose batches are moved to a device; it may be iterated again."""

    def __init__(self, device: "torch.device", loader: "Iterable[Batch]") -> None:
        self._device, self._loader = device, loader

    def __iter__(self) -> "Iterator[Batch]":
        """Yield the batches."""
        for batch in self._loader:
            yield {name: part.to(self._device, non_blocking=True) for name, part in batch.items()}


def only_rank(loader_workers: int | str) -> "RankContext":
    """What the one rank of this process is told."""
    import torch  # noqa: PLC0415

    from trainjobs.data.loader import resolve_loader_workers  # noqa: PLC0415
    from trainjobs.task import RankContext  # noqa: PLC0415

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return RankContext(
        rank=0,
        world_size=1,
        ranks_on_node=1,
        device=device,
        loader_workers=resolve_loader_workers(
            loader_workers, node_cpus=os.cpu_count() or 1, ranks_on_node=1, batch_size=2
        ),
        prepare_loader=functools.partial(MovedBatches, device),
        cache=Path(dataset_cache()).expanduser(),
    )


def save(folder: Path, measured: "Measured", wanted: "Measurement", options: Validate) -> Path:
    """Write result.json, what else the job has to tell, and its plots.

    Returns:
        Where result.json is.
    """
    measured.draw_plots(folder)
    for name, content in measured.files.items():
        (folder / name).write_text(json.dumps(content))
    result: dict[str, Any] = {
        **measured.summary,
        "per_class": measured.per_class,
        "num_images": len(wanted.split),
        "ms_per_image": measured.ms_per_image,
        "job": wanted.weights.job,
        "model": wanted.weights.model,
        "weights": wanted.weights.location,
        "data": options.data,
        "split": options.split,
        "image_size": wanted.image_size,
        "eval": to_dict(wanted.settings),
    }
    scores = "  ".join(f"{key} {value:.3f}" for key, value in measured.summary["metrics"].items())
    logger.info("%s  (%.1f ms an image)", scores, measured.ms_per_image)
    file = folder / RESULT
    file.write_text(json.dumps(result, indent=2))
    return file


if __name__ == "__main__":
    sys.exit(main())
