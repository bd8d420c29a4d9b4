"""Where a dataset's shards lie on this node: in its own folder, or fetched into a bounded cache."""

import hashlib
import logging
import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fcntl import LOCK_EX, flock
from pathlib import Path

from cluster.errors import DatasetError, StorageError
from cluster.storage import RunPaths
from trainjobs.data.cached_folders import open_lock
from trainjobs.data.packed.index import ShardEntry

logger = logging.getLogger(__name__)

FETCH_ATTEMPTS = 6
FIRST_PAUSE_S = 0.25
"""Between the first two attempts; doubled from one to the next, 8 s in all."""


@dataclass(frozen=True, slots=True)
class LocalShards:
    """Shards in a folder that this node sees."""

    folder: Path

    def __call__(self, entry: ShardEntry) -> Path:
        """The shard's file.

        Raises:
            DatasetError: it is gone, or not as long as the index says.
        """
        file = self.folder / entry.file
        try:
            num_bytes = file.stat().st_size
        except OSError as error:
            raise DatasetError(str(file), error.strerror or str(error)) from error
        if num_bytes != entry.num_bytes:
            reason = (
                f"has {num_bytes} bytes, the index says {entry.num_bytes}; pack the dataset anew"
            )
            raise DatasetError(str(file), reason)
        return file


@dataclass(frozen=True, slots=True)
class CachedShards:
    """Shards in an object store; each is fetched once per node, verified, and kept while there is room.

    Files are named by their checksums. The least recently opened ones go first; who has one mapped
    keeps it.
    """

    location: str
    """URI of the dataset."""
    folder: Path
    """Of this node, for the shards of all datasets."""
    limit_bytes: int
    """Of all files there, but for the one that is wanted."""

    def __call__(self, entry: ShardEntry) -> Path:
        """The shard's file on this node.

        Raises:
            DatasetError: it cannot be fetched, or arrives damaged twice.
            StorageError: the cache cannot be written to.
        """
        file = self.folder / f"{entry.sha256}.arrow"
        with self._locked(entry.sha256[:2]):
            try:
                os.utime(file)  # when it was last wanted
            except FileNotFoundError:
                self._fetch(entry, file)
                self._make_room(file)
        return file

    def _fetch(self, entry: ShardEntry, file: Path) -> None:
        for is_last in (False, True):
            data = self._read(entry)
            if hashlib.sha256(data).hexdigest() == entry.sha256:
                break
            name = RunPaths(self.location, "").location(entry.file)
            if is_last:
                raise DatasetError(
                    name, "does not have the checksum that the index states; pack anew"
                )
            logger.warning("%s arrived damaged; fetching it again", name)
        partial = file.with_suffix(".partial")  # under the lock, so nobody else writes it
        partial.write_bytes(data)
        partial.replace(file)

    def _read(self, entry: ShardEntry) -> bytes:
        pause_s = FIRST_PAUSE_S
        for attempt in range(1, FETCH_ATTEMPTS + 1):
            try:
                return RunPaths(self.location, "").read_bytes(entry.file)
            except StorageError as error:
                if attempt == FETCH_ATTEMPTS:
                    raise DatasetError(
                        RunPaths(self.location, "").location(entry.file),
                        f"cannot be fetched, {FETCH_ATTEMPTS} times: {error}",
                    ) from error
                logger.warning("%s; trying again in %.1f s", error, pause_s)
            time.sleep(pause_s * random.uniform(0.5, 1.5))  # nodes must not come together
            pause_s *= 2
        raise AssertionError("not reached")

    def _make_room(self, wanted: Path) -> None:
        with self._locked("room"):
            found = [
                (f.stat().st_mtime_ns, f.stat().st_size, f) for f in self.folder.glob("*.arrow")
            ]
            excess = sum(size for _, size, _ in found) - self.limit_bytes
            for _, size, file in sorted(found):
                if excess <= 0:
                    break
                if file != wanted:
                    file.unlink()
                    excess -= size

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        with open_lock(self.folder / f"lock-{name}") as handle:
            flock(handle, LOCK_EX)  # released when the file is closed, also by a kill
            yield
