"""Messages between the driver and the ranks of a run, through a small actor on the driver's node.

Ranks send events and log records; the driver sends one thing back: a request to stop. Both sides
work in background threads in batches: sending never blocks, and a lost driver never stops a rank.
"""

import contextlib
import logging
import logging.handlers
import math
import pickle
import queue
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

logger = logging.getLogger(__name__)

BATCH_INTERVAL_S = 0.3
"""How long an event may lie before it is sent on, by the ranks and by the driver."""
IDLE_POLL_S = 1.0
"""How often a rank that has nothing to say asks whether to stop."""
CALL_TIMEOUT_S = 5.0
"""How long a call of the mailbox may take before it is tried again."""
FLUSH_TIMEOUT_S = 10.0
"""How long the end of a run waits for the last messages."""


class _Mailbox:
    """The actor. It holds pickled events without looking into them."""

    def __init__(self) -> None:
        self._events: list[bytes] = []
        self._num_dropped = 0
        self._last_of: dict[str, int] = {}
        self._stop = False

    def push(self, sender: str, number: int, batch: list[bytes]) -> bool:
        # A batch whose answer was lost comes a second time.
        if number > self._last_of.get(sender, -1):
            self._last_of[sender] = number
            self._events += batch
        return self._stop

    def read(self, num_read: int) -> list[bytes]:
        # Events stay until the driver says that it has them: an answer may get lost.
        del self._events[: num_read - self._num_dropped]
        self._num_dropped = num_read
        return self._events

    def request_stop(self) -> None:
        self._stop = True


class Sender:
    """A rank's end of the channel. Crosses processes unstarted: pickle it, then `start` it there."""

    def __init__(self, mailbox: Any, log_level: int) -> None:
        self._mailbox, self._log_level = mailbox, log_level
        self._queue: deque[bytes] = deque()
        self._closing, self._stop = threading.Event(), threading.Event()
        self._give_up_at = math.inf
        self._thread: threading.Thread | None = None

    def __reduce__(self) -> tuple[type["Sender"], tuple[Any, int]]:
        return Sender, (self._mailbox, self._log_level)

    def start(self) -> None:
        """Begin to send, and to listen for a request to stop."""
        self._thread = threading.Thread(target=self._run, name="channel-sender", daemon=True)
        self._thread.start()

    def send(self, event: object) -> None:
        """Queue one picklable event for the driver's `on_event`. Never blocks, never raises."""
        self._queue.append(_pickled(event))

    def handler(self) -> logging.Handler:
        """A handler that sends log records to the driver's log, formatted here, at its level."""
        handler = _SendingHandler(self)
        handler.setLevel(self._log_level)
        return handler

    @property
    def stop_requested(self) -> bool:
        """Whether the driver has asked for a stop; known within about a second."""
        return self._stop.is_set()

    def close(self) -> None:
        """Send what is queued, for at most `FLUSH_TIMEOUT_S`, and end the thread."""
        self._give_up_at = time.monotonic() + FLUSH_TIMEOUT_S
        self._closing.set()
        if self._thread is not None:
            self._thread.join(FLUSH_TIMEOUT_S)

    def _run(self) -> None:
        name, number, idle_s = secrets.token_hex(8), 0, 0.0
        while True:
            closing = self._closing.wait(BATCH_INTERVAL_S)
            idle_s += BATCH_INTERVAL_S
            if self._queue or idle_s >= IDLE_POLL_S:
                events = [self._queue.popleft() for _ in range(len(self._queue))]
                if not self._push(name, number, events):
                    self._queue = deque(maxlen=0)  # nobody listens any more
                    return
                number, idle_s = number + 1, 0.0
            if closing and not self._queue:
                return

    def _push(self, name: str, number: int, batch: list[bytes]) -> bool:
        """Push until it is answered; False if there is no mailbox any more, or no time."""
        while time.monotonic() < self._give_up_at:
            try:
                if ray.get(self._mailbox.push.remote(name, number, batch), timeout=CALL_TIMEOUT_S):
                    self._stop.set()
                return True
            except (GetTimeoutError, ActorUnavailableError):
                time.sleep(BATCH_INTERVAL_S)
            except (RayError, RuntimeError, ValueError):  # the actor is gone, or Ray is down
                break
        return False


class _SendingHandler(logging.handlers.QueueHandler):
    """Sends records whose arguments and tracebacks were formatted on this side."""

    def __init__(self, sender: Sender) -> None:
        super().__init__(queue.SimpleQueue())  # unused: `enqueue` is ours
        self._sender = sender

    def enqueue(self, record: logging.LogRecord) -> None:
        self._sender.send(record)


class Channel:
    """The driver's end: `sender` for the ranks, `request_stop` for the user's Ctrl-C."""

    def __init__(self, on_event: Callable[[Any], None]) -> None:
        node = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        actor: Any = ray.remote(_Mailbox)
        self._mailbox = actor.options(num_cpus=0, scheduling_strategy=node).remote()
        self._on_event = on_event
        self._stop, self._closing = threading.Event(), threading.Event()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="channel-driver", daemon=True)
        self._thread.start()

    def sender(self) -> Sender:
        """The end that ranks get; one will do for all of them."""
        return Sender(self._mailbox, logger.getEffectiveLevel())

    def request_stop(self) -> None:
        """Ask the ranks to stop; they know within about two seconds. Safe in a signal handler."""
        self._stop.set()

    def close(self) -> None:
        """Deliver what has arrived and end the mailbox.

        Raises:
            Exception: The first that `on_event` has raised.
        """
        self._closing.set()
        self._thread.join(FLUSH_TIMEOUT_S)
        with contextlib.suppress(RayError, RuntimeError):
            ray.kill(self._mailbox)
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        forwarded, num_read = False, 0
        while True:
            closing = self._closing.wait(BATCH_INTERVAL_S)
            try:
                if self._stop.is_set() and not forwarded:
                    self._mailbox.request_stop.remote()
                    forwarded = True
                events = ray.get(self._mailbox.read.remote(num_read), timeout=CALL_TIMEOUT_S)
            except (GetTimeoutError, ActorUnavailableError):
                continue
            except (RayError, RuntimeError, ValueError) as error:
                logger.warning("Messages from the workers are lost from here on: %s", error)
                return
            for event in events:
                self._deliver(pickle.loads(event))
            num_read += len(events)
            if closing:
                return

    def _deliver(self, item: object) -> None:
        if isinstance(item, logging.LogRecord):
            logging.getLogger().handle(item)
            return
        try:
            self._on_event(item)
        except Exception as error:  # noqa: BLE001  # kept, and raised by close()
            if self._error is None:
                self._error = error
                logger.error("An event of the run was not handled: %s", error)


@contextlib.contextmanager
def open_channel(on_event: Callable[[Any], None]) -> Iterator[Channel]:
    """Open the driver's end for the length of a run; Ray must be connected.

    Args:
        on_event: Gets every event that a rank sends, in each rank's order, in a thread of the
            channel. Log records do not come here: the root logger's handlers get them.

    Raises:
        Exception: At the end, the first that `on_event` raised, unless the body raised itself.
    """
    channel = Channel(on_event)
    try:
        yield channel
    except BaseException:
        with contextlib.suppress(Exception):
            channel.close()
        raise
    channel.close()


def _pickled(event: object) -> bytes:
    """What cannot be pickled becomes a log record that says so."""
    try:
        return pickle.dumps(event)
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        text = f"a message of a rank could not be pickled: {error}"
        return pickle.dumps(
            logging.LogRecord(__name__, logging.ERROR, __file__, 0, text, None, None)
        )
