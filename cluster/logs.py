"""One log format, on the console and in train.log, for the driver and all ranks.

2026-11-21 12:00:00 INFO node-2 rank 1/8 | message
"""

import contextlib
import logging
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

from cluster.errors import ConfigError, ServiceError, StorageError
from cluster.redact import redact
from cluster.storage import RunPaths

logger = logging.getLogger(__name__)

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
OWN_LOGGERS = ("__main__", "cluster", "trainjobs", "tuning")
"""Loggers that follow the log level; what libraries say counts from WARNING on."""
UPLOAD_INTERVAL_S = 30.0
"""How often a log in an object store, which knows no appending, is written anew."""

_FORMAT = "%(asctime)s %(levelname)s %(origin)s | %(message)s"


class ConsoleHandler(logging.Handler):
    """Writes to stderr, or through whatever draws a progress bar there.

    Python warnings and Ray's own messages below ERROR go to train.log alone.
    """

    _draw: ClassVar[Callable[[str], object] | None] = None

    @classmethod
    def draw_with(cls, draw: Callable[[str], object] | None) -> None:
        """Hand lines to `draw`, which keeps its progress bar below them; None: write again."""
        cls._draw = draw

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        if record.name == "py.warnings" or (
            record.name.partition(".")[0] == "ray" and record.levelno < logging.ERROR
        ):
            return
        line, draw = self.format(record), type(self)._draw
        if draw is not None:
            draw(line)
        else:
            with contextlib.suppress(BrokenPipeError):  # the reader of the pipe has left
                print(line, file=sys.stderr, flush=True)  # noqa: T201  # the console itself


def configure_logging(level: str = "INFO") -> None:
    """Set up the driver's log: own loggers from `level` on, everyone else's warnings.

    Raises:
        ConfigError: `level` is no log level.
    """
    if level.upper() not in LEVELS:
        raise ConfigError(f"--log-level must be one of {', '.join(LEVELS)}, got {level!r}")
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, ConsoleHandler)]:
        root.removeHandler(handler)
    console = ConsoleHandler()
    console.setFormatter(_formatter())
    _listen(console, level.upper())


def configure_rank_logging(handler: logging.Handler, *, rank: int, world_size: int) -> None:
    """Send a rank's log through `handler` (`cluster.channel.Sender.handler`), at its level."""
    origin = f"{socket.gethostname()} rank {rank}/{world_size}"

    def mark(record: logging.LogRecord) -> bool:
        record.origin = origin
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, ServiceError):  # says all that there is to say
            record.msg, record.args = str(error), ()
            record.exc_info = record.exc_text = None
        return True

    handler.addFilter(mark)
    _listen(handler, logging.getLevelName(handler.level))


@contextlib.contextmanager
def write_log_to(paths: RunPaths, relative: str) -> Iterator[None]:
    """Append the log to a file of a run for the length of a launch.

    Raises:
        StorageError: The file cannot be written.
    """
    with contextlib.ExitStack() as stack:
        handler: logging.FileHandler
        if paths.is_remote:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            handler = _UploadingHandler(folder / "log", paths, relative)
        else:
            try:
                handler = _LogFile(paths.local(relative), encoding="utf-8")
            except OSError as error:
                raise StorageError(
                    f"{paths.location(relative)} cannot be written: {error}"
                ) from error
        handler.setFormatter(_formatter())
        for name in OWN_LOGGERS:  # a script or notebook may not have configured any logging
            if logging.getLogger(name).level == logging.NOTSET:
                logging.getLogger(name).setLevel(logging.INFO)
        stack.callback(handler.close)
        stack.callback(logging.getLogger().removeHandler, handler)
        logging.getLogger().addHandler(handler)
        yield


class _LogFile(logging.FileHandler):
    """A log file that may become impossible to write, which is a warning and not the run's end."""

    _has_failed = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  logging's name
        """Warn once: the console still shows what the file lacks."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self._has_failed:
            self._has_failed = True
            logger.warning("%s cannot be written: %s", self.baseFilename, error)

    def close(self) -> None:
        """Close the file, whatever of it can still be written."""
        with contextlib.suppress(OSError):
            super().close()


class _UploadingHandler(_LogFile):
    def __init__(self, spool: Path, paths: RunPaths, relative: str) -> None:
        if paths.exists(relative):
            spool.write_bytes(paths.read_bytes(relative))
        super().__init__(spool, encoding="utf-8")
        self._paths, self._relative, self._uploaded_at = paths, relative, time.monotonic()

    def emit(self, record: logging.LogRecord) -> None:
        super().emit(record)
        if time.monotonic() - self._uploaded_at >= UPLOAD_INTERVAL_S:
            self._upload()

    def close(self) -> None:
        super().close()
        self._upload()

    def _upload(self) -> None:
        self._uploaded_at = time.monotonic()
        with contextlib.suppress(StorageError):  # a log that cannot be kept stops no run
            self._paths.copy_from(self.baseFilename, self._relative)


def _listen(handler: logging.Handler, level: str) -> None:
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    for name in OWN_LOGGERS:
        logging.getLogger(name).setLevel(level)
    logging.captureWarnings(True)


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record)).rstrip()  # Python's warnings end in a line break


def _formatter() -> logging.Formatter:
    origin = f"{socket.gethostname()} driver"
    return _Formatter(_FORMAT, datefmt="%Y-%m-%d %H:%M:%S", defaults={"origin": origin})
