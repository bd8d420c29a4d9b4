"""Can the driver and every node write and read a storage? Asked before a run starts."""

import secrets
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from cluster.errors import StorageError
from cluster.storage import RunPaths

CHECK_FOLDER = ".storage-check"

# Calls a function with arguments on every node; gives host -> what it returned.
RunEverywhere = Callable[..., Mapping[str, Any]]


def check_storage(storage: str, run_everywhere: RunEverywhere | None = None) -> None:
    """Check, before a run starts, that the driver and every node can write and read its storage.

    Args:
        storage: Absolute path or URI, as `resolve_storage` gives it.
        run_everywhere: Runs a function on every other node. None: there is no other node.

    Raises:
        StorageError: Names the hosts that cannot write, or do not see what the driver wrote.
    """
    scratch, token = RunPaths(storage, CHECK_FOLDER), secrets.token_hex(16)
    try:
        scratch.write_text(token, token)
        if scratch.read_text(token) != token:
            raise StorageError(f"{storage} does not give back what was written")
        found = run_everywhere(storage_problem, storage, token) if run_everywhere else {}
    finally:
        clear_check(storage, (token,))
    problems = [f"  {host}: {problem}" for host, problem in found.items() if problem]
    if problems:
        raise StorageError(
            f"resources.storage {storage} (written by the driver on {socket.gethostname()}) cannot be "
            "used by every node; give a folder that all nodes share, or a URI:\n"
            + "\n".join(problems)
        )


def clear_check(storage: str, files: Sequence[str]) -> None:
    """Delete files that a check has written, and its folder if nothing is left."""
    scratch = RunPaths(storage, CHECK_FOLDER)
    with suppress(StorageError, OSError):  # another driver's check may be in there
        for file in files:
            scratch.delete(file)
        scratch.local().rmdir()


def storage_problem(storage: str, token: str) -> str:
    """What keeps this node from using a storage into which the driver wrote a token; "" if nothing."""
    scratch, mine = RunPaths(storage, CHECK_FOLDER), secrets.token_hex(16)
    try:
        if not scratch.exists(token):
            return "does not see what the driver wrote there"
        scratch.write_text(mine, token)
        scratch.delete(mine)
    except StorageError as error:
        return str(error)
    return ""
