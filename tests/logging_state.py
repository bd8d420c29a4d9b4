"""Logging is the process's: a test that calls a command puts it back as it was."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from cluster.logs import OWN_LOGGERS, ConsoleHandler


@contextmanager
def logging_as_it_was() -> Iterator[None]:
    """Undo, at the end, what is done here to levels and handlers."""
    loggers = [logging.getLogger(name) for name in ("", *OWN_LOGGERS)]
    before = [(logger, logger.level, list(logger.handlers)) for logger in loggers]
    try:
        yield
    finally:
        for logger, level, handlers in before:
            logger.setLevel(level)
            logger.handlers[:] = handlers
        logging.captureWarnings(False)
        ConsoleHandler.draw_with(None)
