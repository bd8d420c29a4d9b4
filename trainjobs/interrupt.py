"""How a run is asked to stop: by a search, or by Ctrl-C and SIGTERM (the second one ends it now)."""

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Literal

logger = logging.getLogger(__name__)

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(BaseException):
    """A second signal: leave at once. Not an Exception, so that nothing handles it by accident."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


class StopRequest:
    """The wish that a run leaves a checkpoint and stops. Any thread may make it; the first counts."""

    def __init__(self) -> None:
        self.outcome: Literal["stopped", "interrupted"] | None = None
        """What the run's result will say: `stopped` for good, or `interrupted` and to go on."""
        self.signum: int | None = None

    def make(self, outcome: Literal["stopped", "interrupted"]) -> None:
        """Ask for the stop."""
        self.outcome = self.outcome or outcome


@contextmanager
def stop_on_signals(stop: StopRequest) -> Iterator[None]:
    """Make the request on the first signal. In a thread (a search's trial) signals stay as they are.

    Raises:
        Interrupted: a second signal came.
    """

    def handle(signum: int, frame: FrameType | None) -> None:
        if stop.signum is not None:
            raise Interrupted(signum)
        stop.signum = signum
        logger.warning("stopping after this step, with a checkpoint; once more: stop now")
        stop.make("interrupted")

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {signum: signal.signal(signum, handle) for signum in SIGNALS}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def fit_in_thread(
    fit: Callable[[], object], stop: StopRequest, pass_on: Callable[[], object]
) -> None:
    """Call Ray's `fit` in a thread: in the main thread it would put its own handler on SIGINT.

    Args:
        fit: runs to its end; what it raises is raised here.
        stop: looked at meanwhile.
        pass_on: called once if the stop is asked for; `fit` should then return soon.
    """
    failures: list[BaseException] = []

    def run() -> None:
        try:
            fit()
        except BaseException as error:  # noqa: BLE001  # raised again below, in the caller's thread
            failures.append(error)

    thread = threading.Thread(target=run, name="fit", daemon=True)
    thread.start()
    passed_on = False
    while thread.is_alive():
        thread.join(0.2)  # a join without limit would not let signals through
        if stop.outcome and not passed_on:
            pass_on()
            passed_on = True
    if failures:
        raise failures[0]
