"""Folders of the cache of a node, which its processes fill once, one of them for all."""

import fcntl
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Wait until no other process holds this lock, then hold it."""
    with file.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)  # released when the file is closed, also by a kill
        yield


def make_whole(folder: Path, fill: Callable[[Path], None]) -> None:
    """Fill a folder that does not exist yet, so that it exists whole or not at all."""
    if folder.exists():
        return
    new = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=folder.parent))
    try:
        fill(new)
        new.rename(folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)
