"""The first signal asks for a stop, the second ends it."""

import logging
import signal
import threading
from collections.abc import Iterator

import pytest

from trainjobs.interrupt import SIGNALS, Interrupted, StopRequest, fit_in_thread, stop_on_signals


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Whatever a test does, pytest's own handlers come back."""
    before = {signum: signal.getsignal(signum) for signum in SIGNALS}
    yield
    for signum, handler in before.items():
        signal.signal(signum, handler)


@pytest.mark.parametrize("signum", SIGNALS)
def test_the_first_signal_asks_for_a_stop_and_is_remembered(
    signum: int, caplog: pytest.LogCaptureFixture
) -> None:
    stop = StopRequest()
    with caplog.at_level(logging.WARNING), stop_on_signals(stop):
        assert stop.outcome is None and stop.signum is None
        signal.raise_signal(signum)
    assert stop.outcome == "interrupted" and stop.signum == signum
    assert "once more: stop now" in caplog.text


def test_a_second_signal_leaves_at_once_and_says_which_it_was() -> None:
    with pytest.raises(Interrupted) as raised, stop_on_signals(StopRequest()):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
    assert raised.value.signum == signal.SIGTERM


def test_of_two_requests_the_first_counts() -> None:
    stop = StopRequest()
    stop.make("stopped")
    stop.make("interrupted")
    assert stop.outcome == "stopped"


def test_an_interruption_is_no_error_that_somebody_might_handle() -> None:
    assert not issubclass(Interrupted, Exception)


def test_the_handlers_from_before_come_back() -> None:
    before = [signal.getsignal(signum) for signum in SIGNALS]
    with stop_on_signals(StopRequest()):
        assert [signal.getsignal(signum) for signum in SIGNALS] != before
    assert [signal.getsignal(signum) for signum in SIGNALS] == before


def test_the_handlers_come_back_after_an_error_too() -> None:
    before = [signal.getsignal(signum) for signum in SIGNALS]
    with pytest.raises(KeyError), stop_on_signals(StopRequest()):
        raise KeyError
    assert [signal.getsignal(signum) for signum in SIGNALS] == before


def test_outside_the_main_thread_signals_stay_as_they_are() -> None:
    before = [signal.getsignal(signum) for signum in SIGNALS]
    found: list[object] = []

    def trial() -> None:
        stop = StopRequest()
        with stop_on_signals(stop):
            found.extend(signal.getsignal(signum) for signum in SIGNALS)
            found.append(stop.signum)

    thread = threading.Thread(target=trial)
    thread.start()
    thread.join()
    assert found == [*before, None]


def test_a_request_is_passed_on_once_and_the_failure_comes_back() -> None:
    stop, passed_on = StopRequest(), threading.Event()
    calls: list[int] = []

    def fit() -> None:
        stop.make("interrupted")
        assert passed_on.wait(10)
        raise KeyError("cause")

    def pass_on() -> None:
        calls.append(1)
        passed_on.set()

    with pytest.raises(KeyError, match="cause"):
        fit_in_thread(fit, stop, pass_on)
    assert calls == [1]
