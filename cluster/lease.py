"""One process at a time works on a run: the holder of `lease.json` in the run's folder.

On one machine a holder is live as long as its process is. From another machine it is live while it
renews its lease; machines that share runs need clocks that agree within some seconds.
"""

import contextlib
import dataclasses
import fcntl
import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cluster.config_io import from_dict
from cluster.errors import RunInUseError, StorageError
from cluster.storage import RunPaths

logger = logging.getLogger(__name__)

LEASE, LOCK = "lease.json", ".lease.lock"
RENEW_INTERVAL_S = 10.0
STALE_AFTER_S = 45.0
"""A lease from another machine that was not renewed for so long may be taken over."""
SETTLE_S = 1.0
"""Without a lock (object stores), how long two racing processes wait to see whose lease stayed."""


@dataclass(frozen=True, slots=True)
class Holder:
    """Content of a lease: who holds it, and when it was last renewed."""

    token: str
    host: str
    pid: int
    machine: str
    """Boot and process namespace in which `pid` means something."""
    started: int
    """When the process started, in clock ticks since boot; tells it from a later one of its pid."""
    renewed_at: float
    """Unix time."""

    @classmethod
    def this_process(cls) -> "Holder":
        """This process, with a token of its own."""
        pid = os.getpid()
        started = process_start(pid) or 0
        token = secrets.token_hex(8)
        return cls(token, socket.gethostname(), pid, _machine(), started, time.time())

    def renewed(self) -> "Holder":
        """The same, renewed now."""
        return dataclasses.replace(self, renewed_at=time.time())

    def is_live(self, now: float) -> bool:
        """Whether the lease still counts at Unix time `now`."""
        if self.machine == _machine():
            return process_start(self.pid) == self.started
        return now - self.renewed_at < STALE_AFTER_S


class Lease:
    """A lease that is held; `lost` is set if another process has taken it over."""

    def __init__(self, paths: RunPaths, holder: Holder) -> None:
        self.lost = threading.Event()
        self._paths, self._holder = paths, holder
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lease", daemon=True)
        self._thread.start()

    def release(self) -> None:
        """Stop renewing and give the run free."""
        self._closing.set()
        self._thread.join(RENEW_INTERVAL_S)
        with contextlib.suppress(StorageError):
            if self._is_mine():
                self._paths.delete(LEASE)

    def _run(self) -> None:
        warned = False
        while not self._closing.wait(RENEW_INTERVAL_S):
            try:
                if not self._is_mine():
                    self.lost.set()
                    logger.error("another process has taken over run %s", self._paths.run_name)
                    return
                _write(self._paths, self._holder.renewed())
            except StorageError as error:
                if not warned:
                    logger.warning("the lease of the run cannot be renewed: %s", error)
                warned = True

    def _is_mine(self) -> bool:
        found = read_lease(self._paths)
        return found is None or found.token == self._holder.token


@contextlib.contextmanager
def hold_lease(paths: RunPaths) -> Iterator[Lease]:
    """Hold a run for this process; a lease whose holder is gone is taken over at once.

    Raises:
        RunInUseError: A live process holds the run; names its host, its pid and the lease's age.
        StorageError: The run's folder cannot be written.
    """
    holder = Holder.this_process()
    with _locked(paths) as exclusive:
        _check_free(paths)
        _write(paths, holder)
        if not exclusive:
            time.sleep(SETTLE_S)
            _check_free(paths, mine=holder.token)
    lease = Lease(paths, holder)
    try:
        yield lease
    finally:
        lease.release()


def read_lease(paths: RunPaths) -> Holder | None:
    """Who holds a run, live or not; None if nobody, or if the lease is damaged.

    Raises:
        StorageError: The storage does not answer.
    """
    if not paths.exists(LEASE):
        return None
    try:
        return from_dict(Holder, json.loads(paths.read_bytes(LEASE)))
    except (ValueError, RecursionError) as error:
        logger.warning("%s is damaged (%s) and is replaced", paths.location(LEASE), error)
    except StorageError:
        if paths.exists(LEASE):
            raise
    return None  # was released in this moment


def process_start(pid: int) -> int | None:
    """When a process of this machine started, in clock ticks since boot; None if it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The second field is a name in parentheses that may hold anything (man 5 proc_pid_stat).
    state, *rest = stat.rpartition(")")[2].split()
    return None if state in "ZX" else int(rest[18])


def _check_free(paths: RunPaths, mine: str = "") -> None:
    found, now = read_lease(paths), time.time()
    if found is None or found.token == mine:
        return
    if mine or found.is_live(now):
        raise RunInUseError(
            f"run {paths.run_name} is live: process {found.pid} on {found.host} holds it (lease "
            f"renewed {max(now - found.renewed_at, 0):.0f} s ago). Wait for it, stop it, or give "
            "another --run-name"
        )
    logger.info("process %d on %s, which held the run, is gone", found.pid, found.host)


def _write(paths: RunPaths, holder: Holder) -> None:
    paths.write_text(LEASE, json.dumps(dataclasses.asdict(holder), indent=2))


@contextlib.contextmanager
def _locked(paths: RunPaths) -> Iterator[bool]:
    """Whether others are kept out: not in an object store, nor on file systems without locks."""
    if paths.is_remote:
        yield False
        return
    path = paths.local(LOCK)
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error}") from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            exclusive = True
        except OSError:
            exclusive = False
        yield exclusive
    finally:
        os.close(handle)


def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return f"unknown {secrets.token_hex(8)}"  # like no other: only renewal counts
