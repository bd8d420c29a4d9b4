"""A command from its first line to its exit code, the same for all commands.

Stdlib only: what it runs may lack packages, and imports them when it is called.
"""

import os
import select
import signal
import sys
from collections.abc import Callable

from cluster.errors import ServiceError, TrainingError
from cluster.packages import check_packages_here
from cluster.redact import redact

SUCCESS, FAILED, MISTAKE = 0, 1, 2


def run_command(run: Callable[[], int]) -> int:
    """Call a command; an error becomes one message on stderr and the command's exit code.

    Returns:
        What `run` returns; 1 a run failed, 2 a mistake of the user's or a package that is missing,
        128 + signal if interrupted, or if the reader of stdout has left.
    """
    try:
        return _run(run)
    except BrokenPipeError:
        if not _reader_has_left():
            raise
        # At exit Python flushes once more what was not read.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE


def _run(run: Callable[[], int]) -> int:
    try:
        check_packages_here()
        return run()
    except TrainingError as error:
        print_error(error)
        return FAILED
    except ServiceError as error:
        print_error(error)
        return MISTAKE
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    finally:
        sys.stdout.flush()


def print_error(error: ServiceError) -> None:
    """One message on stderr, without a traceback."""
    sys.stderr.write(redact(f"error: {error}\n"))


def _reader_has_left() -> bool:
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)  # errors are told unasked
    return bool(poll.poll(0))
