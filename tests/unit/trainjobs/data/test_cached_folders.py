"""Folders that are filled once per node: whole or not at all, bounded, never taken from who uses them."""

import errno
import multiprocessing
import os
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from cluster.errors import StorageError
from trainjobs.data.cached_folders import CachedFolders, prepared_folders

NUM_BYTES = 1000
SPAWN = multiprocessing.get_context("spawn")


def fill(folder: Path) -> None:
    (folder / "inner").mkdir()
    (folder / "inner" / "data").write_bytes(bytes(NUM_BYTES))


def refuse(folder: Path) -> None:
    fill(folder)
    raise ValueError("cannot be filled")


def never(folder: Path) -> None:
    raise AssertionError("filled again")


def use(root: Path, name: str, limit_bytes: int = 10**9) -> None:
    CachedFolders(root, limit_bytes).get(name, fill)


@contextmanager
def another_process() -> Iterator[ProcessPoolExecutor]:
    """What it used is free when it has ended."""
    with ProcessPoolExecutor(1, mp_context=SPAWN) as pool:
        yield pool


def use_elsewhere(root: Path, *names: str) -> None:
    """By a process that ended, in this order."""
    with another_process() as pool:
        for number, name in enumerate(names):
            pool.submit(use, root, name).result()
            os.utime(root / name / "in-use.lock", (number, number))  # clocks of disks are coarse


def folders_in(root: Path) -> set[str]:
    return {path.name for path in root.iterdir() if path.is_dir()}


def test_a_folder_is_filled_once(tmp_path: Path) -> None:
    folders = CachedFolders(tmp_path / "new", 10**9)
    folder = folders.get("one", fill)
    assert folder == tmp_path / "new" / "one"
    assert (folder / "inner" / "data").stat().st_size == NUM_BYTES
    assert folders.get("one", never) == folder


def test_what_could_not_be_filled_is_not_there_and_can_be_filled_later(tmp_path: Path) -> None:
    folders = CachedFolders(tmp_path, 10**9)
    with pytest.raises(ValueError, match="cannot be filled"):
        folders.get("one", refuse)
    assert folders_in(tmp_path) == set()
    folders.get("one", fill)
    assert folders_in(tmp_path) == {"one"}


def test_what_a_killed_process_left_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "one.partial").mkdir()
    (tmp_path / "one.partial" / "half").touch()
    folder = CachedFolders(tmp_path, 10**9).get("one", fill)
    assert folders_in(tmp_path) == {"one"} and not (folder / "half").exists()


def test_a_folder_that_someone_deleted_is_filled_again(tmp_path: Path) -> None:
    folders = CachedFolders(tmp_path, 10**9)
    shutil.rmtree(folders.get("one", fill))
    assert (folders.get("one", fill) / "inner" / "data").exists()


def test_the_least_recently_used_go_first(tmp_path: Path) -> None:
    use_elsewhere(tmp_path, "one", "two", "three", "one")
    CachedFolders(tmp_path, 3 * NUM_BYTES).get("four", fill)
    assert folders_in(tmp_path) == {"one", "three", "four"}


def test_nothing_is_removed_while_there_is_room(tmp_path: Path) -> None:
    use_elsewhere(tmp_path, "one", "two")
    CachedFolders(tmp_path, 3 * NUM_BYTES).get("three", fill)
    assert folders_in(tmp_path) == {"one", "two", "three"}


def test_what_a_process_uses_stays_until_it_ends(tmp_path: Path) -> None:
    with another_process() as pool:
        pool.submit(use, tmp_path, "one").result()
        CachedFolders(tmp_path, 0).get("two", fill)
        assert folders_in(tmp_path) == {"one", "two"}
    CachedFolders(tmp_path, 0).get("three", fill)
    assert folders_in(tmp_path) == {"two", "three"}  # this process uses both


def test_a_folder_that_is_being_filled_stays_and_keeps_nobody_waiting(tmp_path: Path) -> None:
    started, finish = threading.Event(), threading.Event()

    def fill_slowly(folder: Path) -> None:
        started.set()
        assert finish.wait(30)
        fill(folder)

    thread = threading.Thread(target=CachedFolders(tmp_path, 0).get, args=("slow", fill_slowly))
    thread.start()
    try:
        assert started.wait(30)
        CachedFolders(tmp_path, 0).get("fast", fill)
        assert folders_in(tmp_path) == {"slow.partial", "fast"}
    finally:
        finish.set()
        thread.join()
    assert (tmp_path / "slow" / "inner" / "data").exists()


def test_what_a_killed_process_left_goes_first(tmp_path: Path) -> None:
    use_elsewhere(tmp_path, "one")
    (tmp_path / "lost.partial").mkdir()
    fill(tmp_path / "lost.partial")
    CachedFolders(tmp_path, 2 * NUM_BYTES).get("two", fill)
    assert folders_in(tmp_path) == {"one", "two"}


def test_other_files_of_the_users_cache_are_not_looked_at(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    fill(tmp_path / "photos")
    use_elsewhere(tmp_path / "prepared", "one")
    prepared_folders(tmp_path, 0).get("two", fill)
    assert (tmp_path / "photos" / "inner" / "data").exists()
    assert folders_in(tmp_path / "prepared") == {"two"}


def test_a_full_disk_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    def fill_up(folder: Path) -> None:
        fill(folder)
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(StorageError, match="No space left on device; make room, or set TRAINJOBS"):
        CachedFolders(tmp_path, NUM_BYTES).get("one", fill_up)
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_a_cache_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (Path("/proc/none"), tmp_path / "file" / "cache"):
        with pytest.raises(StorageError, match=f"{folder}: .*set TRAINJOBS_CACHE"):
            CachedFolders(folder, NUM_BYTES).get("one", fill)
