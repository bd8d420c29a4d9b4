"""Ctrl-C and SIGTERM: the first asks for a checkpoint and a stop, the second ends it now."""

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

logger = logging.getLogger(__name__)

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(BaseException):
    """A second signal: leave at once. Not an Exception, so that nothing handles it by accident."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


class Interruption:
    """Which signal, if any, has asked for a stop."""

    def __init__(self) -> None:
        self.signum: int | None = None


@contextmanager
def stop_on_signals(request_stop: Callable[[], None]) -> Iterator[Interruption]:
    """Call `request_stop` on the first signal. In a thread (a search's trial) signals stay as they are.

    Raises:
        Interrupted: a second signal came.
    """
    interruption = Interruption()

    def handle(signum: int, frame: FrameType | None) -> None:
        if interruption.signum is not None:
            raise Interrupted(signum)
        interruption.signum = signum
        logger.warning("stopping after this step, with a checkpoint; once more: stop now")
        request_stop()

    if threading.current_thread() is not threading.main_thread():
        yield interruption
        return
    before = {signum: signal.signal(signum, handle) for signum in SIGNALS}
    try:
        yield interruption
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
