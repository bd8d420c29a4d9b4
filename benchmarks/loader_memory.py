"""Memory of the training loader: two ranks beside each other, then one alone.

    python -m benchmarks.loader_memory [--epochs N] [--gigabytes G]

prints a table of docs/performance.md. The dataset is noise in BMP files of 400 to 640 px, which decode
in a fraction of a JPEG's time; all else is a rank's default: mosaics of 640 px, micro-batches of 16,
four loader threads, glibc's settings. Each rank is stopped at the end of an epoch, with its loader full,
while the kernel's account of its pages is read.
"""

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from benchmarks.loader_memory_rank import END, LOADED
from benchmarks.pages import count_pages
from cluster.storage import RunPaths
from trainjobs.data.packed.index import INDEX, DatasetIndex, ShardEntry, SplitEntry, dump_index
from trainjobs.data.packed.schema import FORMAT_VERSION, ImageRecord, encode_shard
from trainjobs.trainer import WORKER_ENVIRONMENT

SHARD_BYTES = 100 * 10**6
SIDES_PX = (400, 640)
BOXES = 8
"""Of each image."""
WORLD_SIZE = 2
MAX_EXCESS_FRACTION = 0.1
"""Of the dataset's bytes: what two ranks may hold beyond what one holds."""
MAX_GROWTH_MB = 20
"""Of all ranks together, from FIRST_EPOCH to the last."""
FIRST_EPOCH = 2
SETTLED_S = 0.5
"""A loader that has used no CPU for so long is full."""
CLOCK_FIELDS = slice(11, 13)
"""User and system time in /proc/PID/stat, after the name in parentheses."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Of some processes together, in MB."""

    shards: float
    """Proportional set size of the mapped shards."""
    rest: float
    """Of all else."""
    anonymous: float
    """Of that, what is no file's."""


def make_dataset(folder: Path, num_bytes: int) -> None:
    """A packed dataset of about so many bytes, in one split."""
    rng = np.random.default_rng(0)
    shards: list[ShardEntry] = []
    while sum(shard.num_bytes for shard in shards) < num_bytes:
        records, images = [], []
        while sum(map(len, images)) < min(SHARD_BYTES, num_bytes):
            height, width = (int(side) for side in rng.integers(*SIDES_PX, 2))
            pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
            images.append(cv2.imencode(".bmp", pixels)[1].tobytes())
            boxes = [(float(x), float(y), 0.1, 0.1) for x, y in rng.uniform(0.1, 0.9, (BOXES, 2))]
            name = f"{len(shards)}-{len(images)}.bmp"
            records.append(
                ImageRecord(
                    id=name,
                    height=height,
                    width=width,
                    classes=[0] * BOXES,
                    boxes_cxcywh_norm=boxes,
                )
            )
        data = encode_shard(records, images, ["noise"])
        shards.append(
            ShardEntry(
                file=f"train-{len(shards):05d}.arrow",
                num_images=len(images),
                num_bytes=len(data),
                sha256=hashlib.sha256(data).hexdigest(),
            )
        )
        (folder / shards[-1].file).write_bytes(data)
    entry = SplitEntry(
        shards=tuple(shards),
        num_background=0,
        num_boxes=(BOXES * sum(shard.num_images for shard in shards),),
        num_skipped=0,
        largest_px=(SIDES_PX[1], SIDES_PX[1]),
    )
    index = DatasetIndex(
        format_version=FORMAT_VERSION, names=("noise",), fingerprint="", splits={"train": entry}
    )
    RunPaths(str(folder), "").write_text(INDEX, dump_index(index))


class Rank:
    """A process that loads as one rank, epoch by epoch."""

    def __init__(self, folder: Path, rank: int, world_size: int, epochs: int) -> None:
        arguments = [str(folder), str(rank), str(world_size), str(epochs)]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.loader_memory_rank", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | WORKER_ENVIRONMENT,
        )

    def go_on(self) -> None:
        """Let it load another epoch."""
        assert self.process.stdin is not None
        print(file=self.process.stdin, flush=True)

    def wait_for(self, mark: str) -> None:
        """Return when it has come to a mark and is idle."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.strip() == mark:
                break
        else:
            raise RuntimeError(f"{self.process.args} ended with {self.process.wait()}")
        used, before = self._clock(), None
        while used != before:
            time.sleep(SETTLED_S)
            used, before = self._clock(), used

    def _clock(self) -> list[str]:
        stat = Path(f"/proc/{self.process.pid}/stat").read_text()
        return stat.rpartition(")")[2].split()[CLOCK_FIELDS]

    def count(self, folder: Path) -> Counter[str]:
        """See `count_pages`; `mapped` are the dataset's shards."""
        return count_pages(Path(f"/proc/{self.process.pid}"), f"{folder}/")


def measure(folder: Path, world_size: int, epochs: int) -> list[Memory]:
    """Memory of all ranks before their loaders are built, and at the end of each epoch."""
    ranks = [Rank(folder, rank, world_size, epochs) for rank in range(world_size)]
    seen = []
    for number in range(epochs + 1):
        for rank in ranks:
            rank.wait_for(END if number else LOADED)
        counted = sum((rank.count(folder) for rank in ranks), Counter())
        amounts = (counted[name] * 1024 / 1e6 for name in ("mapped", "rest", "anonymous"))
        seen.append(Memory(*amounts))
        print(world_size, "ranks, epoch", number, seen[-1], file=sys.stderr)
        for rank in ranks:
            rank.go_on()
    for rank in ranks:
        rank.process.communicate()
    return seen


def report(two: list[Memory], one: list[Memory], num_bytes: int) -> str:
    """The table, and the acceptance line's two limits."""
    lines = [
        "| MB at the end of epoch | shards, two ranks | all else, two ranks | of it anonymous "
        "| all else, one rank | of it anonymous |",
        "|---|---|---|---|---|---|",
    ]
    last = len(two) - 1
    for epoch in sorted({0, 1, FIRST_EPOCH, last // 2, last}):
        both, alone = two[epoch], one[epoch]
        cells = (both.shards, both.rest, both.anonymous, alone.rest, alone.anonymous)
        name = str(epoch) if epoch else "0 (before the loader is built)"
        lines.append(f"| {name} | " + " | ".join(f"{cell:.0f}" for cell in cells) + " |")
    limit = MAX_EXCESS_FRACTION * num_bytes / 1e6
    whole = two[last].rest - one[last].rest
    imports = two[0].rest - one[0].rest
    growth = two[last].rest - two[FIRST_EPOCH].rest
    lines += [
        "",
        _verdict("two ranks beyond one, processes as a whole", whole, limit),
        _verdict("the same without what they held before the loader", whole - imports, limit),
        _verdict(f"growth from epoch {FIRST_EPOCH} to {last}, two ranks", growth, MAX_GROWTH_MB),
    ]
    return "\n".join(lines)


def _verdict(what: str, seen: float, limit: float) -> str:
    return f"{'PASS' if seen < limit else 'FAIL'}: {what}: {seen:.0f} MB (limit {limit:.0f})"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--gigabytes", type=float, default=2.0, help="of the dataset")
    options = parser.parse_args()
    num_bytes = round(options.gigabytes * 1e9)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch).resolve()
        make_dataset(folder, num_bytes)
        two = measure(folder, WORLD_SIZE, options.epochs)
        one = measure(folder, 1, options.epochs)
    print(report(two, one, num_bytes))


if __name__ == "__main__":
    main()
