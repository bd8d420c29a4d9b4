"""Folders of the cache of a node, which its processes fill once, one of them for all."""

import errno
import fcntl
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TextIO

from cluster.errors import StorageError

logger = logging.getLogger(__name__)

IN_USE = "in-use.lock"
"""In each folder, locked by all who use it; its time of change is when the last of them came."""
PARTIAL = ".partial"
"""Ends the name of a folder that is being filled or removed."""

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)

_held: dict[Path, int] = {}
"""File descriptors of the locks of the folders that this process uses, open until it ends."""


@dataclass(frozen=True, slots=True)
class CachedFolders:
    """Folders that are filled once per node, and kept while there is room.

    The least recently used ones go first; one that a process uses stays.
    """

    folder: Path
    """Of this node, for all of them."""
    limit_bytes: int
    """Of all their files; folders that are in use may take more."""

    def get(self, name: str, fill: Callable[[Path], None]) -> Path:
        """The folder of this name, which stays at least as long as this process lives.

        Args:
            name: Says all that the folder's content depends on.
            fill: Called with an empty folder if there is none of this name yet. Others that want it
                wait; if this fails, there is still none.

        Raises:
            StorageError: the cache cannot be written to, or the disk is full.
        """
        folder = self.folder / name
        with self._locked(name):
            is_new = not folder.exists()
            if is_new:
                _fill_whole(folder, fill)
            _hold(folder)
        if is_new:
            self._make_room()
        return folder

    def _make_room(self) -> None:
        with self._locked("room"):
            names = {
                path.name.removesuffix(PARTIAL) for path in self.folder.iterdir() if path.is_dir()
            }
            uses = sorted(use for name in names if (use := self._measure(name)))
            excess = sum(use.num_bytes for use in uses) - self.limit_bytes
            for use in uses:
                if excess <= 0:
                    break
                if self._remove(use.name):
                    logger.info("removed %s from the cache, %d bytes", use.name, use.num_bytes)
                    excess -= use.num_bytes

    def _measure(self, name: str) -> "_Use | None":
        """None: it is being filled."""
        folder = self.folder / name
        with suppress(BlockingIOError), self._locked(name, fcntl.LOCK_NB):
            lock = folder / IN_USE
            # A folder without it was left by a process that was killed.
            last_ns = lock.stat().st_mtime_ns if lock.exists() else 0
            return _Use(last_ns, _num_bytes(folder) + _num_bytes(_partial(folder)), name)
        return None

    def _remove(self, name: str) -> bool:
        """Unless it is in use, or being filled."""
        folder = self.folder / name
        with suppress(BlockingIOError), self._locked(name, fcntl.LOCK_NB):
            if folder.exists():
                with (folder / IN_USE).open("a") as handle:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    folder.rename(_partial(folder))
            shutil.rmtree(_partial(folder), ignore_errors=True)
            return True
        return False

    @contextmanager
    def _locked(self, name: str, flags: int = 0) -> Iterator[None]:
        with open_lock(self.folder / f"{name}.lock") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX | flags)  # released with the file, also by a kill
            yield


def open_lock(file: Path) -> TextIO:
    """A file of the cache of a node to lock, made with its folder if it is not there.

    Raises:
        StorageError: that cannot be done.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        return file.open("a")
    except OSError as error:
        raise StorageError(
            f"{file.parent}: {error.strerror}; set TRAINJOBS_CACHE to a folder that can be written to"
        ) from error


def prepared_folders(cache: Path, cache_gib: float) -> CachedFolders:
    """Where a node keeps what it makes of datasets: of all runs, at most `cache_gib` GiB.

    Args:
        cache: Folder on this node that this service may fill.
        cache_gib: `data.cache_gib`.
    """
    return CachedFolders(cache / "prepared", round(cache_gib * 2**30))


class _Use(NamedTuple):
    last_ns: int
    """Time of the last use; 0: it was never whole."""
    num_bytes: int
    name: str


def _partial(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}{PARTIAL}")


def _fill_whole(folder: Path, fill: Callable[[Path], None]) -> None:
    """So that it exists whole or not at all."""
    partial = _partial(folder)  # under the lock, so nobody else writes it
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir()
        fill(partial)
        partial.rename(folder)
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        raise StorageError(
            f"{folder.parent}: {error.strerror}; make room, or set TRAINJOBS_CACHE to another folder"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _hold(folder: Path) -> None:
    """Under the folder's lock, so that nobody removes it meanwhile."""
    before = _held.pop(folder, None)
    if before is not None:
        os.close(before)
    lock = os.open(folder / IN_USE, os.O_CREAT | os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_SH)
    os.utime(lock)
    _held[folder] = lock


def _num_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
