"""`python -m trainjobs.pack SRC DST`: a dataset into Arrow shards, on all nodes of the cluster.

With `--check SRC` it tells what a dataset holds instead (`check_data`).
"""

import logging
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cluster.command import FAILED, SUCCESS, run_command
from cluster.config import ClusterConfig
from cluster.errors import ConfigError

if TYPE_CHECKING:
    from trainjobs.data.packed.index import DatasetIndex
    from trainjobs.data.packing import PackedShard

logger = logging.getLogger(__name__)

PROGRESS_INTERVAL_S = 5.0


@dataclass(frozen=True, kw_only=True)
class Pack:
    """Pack a dataset into Arrow shards and an index, which `--data DST` then trains on; or check it.

    Interrupted, the same command goes on where it was. Nothing of SRC is changed.
    """

    check: bool = False
    """Report on SRC instead of packing it; SRC may be packed. Exit code 1: unfit for a run."""
    output: str | None = None
    """With --check, folder for the report and its pictures, not inside SRC. Default: the name of SRC
    and `-check`, here."""
    image_size: int = 640
    """With --check, px of the longer side of an image in training; tiny boxes are counted at it."""
    max_side: int | None = None
    """Shrink larger images to this many px, as JPEG. Default: keep every file as it is."""
    shard_mib: int = 64
    """MiB of images in a shard, about."""
    address: str | None = None
    """Of the cluster, host:port. Default: RAY_ADDRESS, else the one on this machine, else an
    embedded one."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Least important lines to show."""


def main(argv: Sequence[str]) -> int:
    """Pack as the command line says. Returns the exit code."""

    def run() -> int:
        # Not at the top: these need packages that `run_command` looks for first.
        import tyro  # noqa: PLC0415

        from cluster.logs import configure_logging  # noqa: PLC0415

        def read(
            source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SRC")],
            options: Annotated[Pack, tyro.conf.arg(name="")],
            destination: Annotated[
                str | None, tyro.conf.Positional, tyro.conf.arg(metavar="[DST]")
            ] = None,
        ) -> tuple[str, str | None, Pack]:
            return source, destination, options

        read.__doc__ = Pack.__doc__
        source, destination, options = tyro.cli(
            read, args=argv, prog="python -m trainjobs.pack", config=(tyro.conf.FlagCreatePairsOff,)
        )
        configure_logging(options.log_level)
        if options.check:
            return _check(source, destination, options)
        if destination is None:
            raise ConfigError("give SRC and DST; or --check SRC, to report on a dataset")
        index = pack(source, destination, options)
        print(summary(index, destination))
        return SUCCESS

    return run_command(run)


def _check(source: str, destination: str | None, options: Pack) -> int:
    from cluster.credentials import credentials_apart  # noqa: PLC0415
    from trainjobs.check_data import check_dataset  # noqa: PLC0415
    from trainjobs.config import DataConfig  # noqa: PLC0415

    if destination is not None:
        raise ConfigError(f"--check packs nothing, so {destination} has no use; see --output")
    with credentials_apart(Place(source)) as bare:
        checked = check_dataset(bare.uri, options.output, DataConfig(image_size=options.image_size))
    print(checked.text)
    return FAILED if checked.refusals else SUCCESS


def pack(source: str, destination: str, options: Pack) -> "DatasetIndex":
    """Pack a dataset.

    Args:
        source: a data.yaml or its folder, which all nodes see.
        destination: a folder that they share, or a URI.
        options: how.

    Raises:
        ServiceError: source or destination cannot be used, or a dataset is there already.
    """
    from cluster.credentials import credentials_apart  # noqa: PLC0415
    from cluster.session import connect  # noqa: PLC0415
    from cluster.storage import is_uri  # noqa: PLC0415
    from cluster.storage_check import check_storage  # noqa: PLC0415
    from cluster.tasks import run_tasks  # noqa: PLC0415
    from trainjobs.data.pack_job import finish, pack_one, plan_job  # noqa: PLC0415
    from trainjobs.data.sources import read_data_yaml  # noqa: PLC0415

    place = destination if is_uri(destination) else str(Path(destination).absolute())
    with credentials_apart(Place(place)) as bare:
        plan = plan_job(
            read_data_yaml(Path(source)),
            bare.uri,
            shard_bytes=options.shard_mib * 2**20,
            max_side=options.max_side,
        )
        with connect(ClusterConfig(address=options.address)) as session:
            check_storage(bare.uri, session.run_everywhere)
            calls = ((plan.job, shard) for shard in plan.shards)
            packed = [*_watched(run_tasks(pack_one, calls), num_shards=len(plan.shards))]
        return finish(plan, packed)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a dataset is, or goes to."""

    uri: str
    """Or path."""


def summary(index: "DatasetIndex", destination: str) -> str:
    """What was packed."""
    lines = []
    for split, entry in index.splits.items():
        size = sum(shard.num_bytes for shard in entry.shards) / 2**20
        lines.append(
            f"{split:<6}{entry.num_images} images, {sum(entry.num_boxes)} boxes, "
            f"{entry.num_skipped} left out; {len(entry.shards)} shards, {size:.1f} MiB"
        )
    return "\n".join([*lines, f"train on it with --data {destination}"])


def _watched(packed: Iterable["PackedShard"], num_shards: int) -> Iterator["PackedShard"]:
    """Pass packed shards on, and log how far it is now and then."""
    started = told = time.monotonic()
    num_images = num_bytes = 0
    for count, shard in enumerate(packed, start=1):
        yield shard
        num_images += shard.entry.num_images
        num_bytes += shard.entry.num_bytes
        now = time.monotonic()
        if now - told >= PROGRESS_INTERVAL_S:
            told = now
            speed = num_bytes / 1e6 / (now - started)
            logger.info(
                "%d of %d shards, %d images, %.0f MB/s", count, num_shards, num_images, speed
            )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
