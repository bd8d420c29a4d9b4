"""What the driver shows of a sweep: a live table on a terminal, elsewhere a line per event and the
table now and then."""

import logging
import time
from collections.abc import Sequence

from rich.console import Console
from rich.live import Live
from rich.text import Text

from cluster.logs import ConsoleHandler
from tuning.config import Mode
from tuning.records import TrialRecord
from tuning.scores import best_score
from tuning.settings import SweepSettings
from tuning.table import trial_lines

logger = logging.getLogger(__name__)

TABLE_INTERVAL_S = 60.0
"""Between tables where nothing can be drawn over."""


class SweepDisplay:
    """Shows the trials of one sweep on stderr."""

    def __init__(
        self, settings: SweepSettings, paths: Sequence[str], records: Sequence[TrialRecord]
    ) -> None:
        self.records, self.paths = records, paths
        self.metric, self.mode = settings.metric, settings.mode
        self.epochs = settings.train.epochs
        self.states: dict[int, str] = {}
        self.shown_at = time.monotonic()
        self.live: Live | None = None
        console = Console(stderr=True)
        if console.is_terminal:
            self.live = Live(console=console, refresh_per_second=2, transient=True)
            ConsoleHandler.draw_with(
                lambda line: console.print(line, markup=False, highlight=False, soft_wrap=True)
            )
            self.live.start()

    def changed(self, record: TrialRecord) -> None:
        """Show what a trial did."""
        if self.live is not None:
            self.live.update(Text("\n".join(self.lines())))
        if self.states.get(record.number) != record.state:
            self.states[record.number] = record.state
            logger.info("%s", trial_line(record, self.metric, self.mode, self.epochs))
        if self.live is None and time.monotonic() - self.shown_at >= TABLE_INTERVAL_S:
            self.table()

    def table(self) -> None:
        """Log the table."""
        self.shown_at = time.monotonic()
        for line in self.lines():
            logger.info("%s", line)

    def lines(self) -> list[str]:
        """The table."""
        return trial_lines(self.records, self.paths, self.metric, self.mode, self.epochs)

    def close(self) -> None:
        """Take the live table away, and log it once more."""
        if self.live is not None:
            self.live.stop()
            ConsoleHandler.draw_with(None)
            self.live = None
        self.table()


def trial_line(record: TrialRecord, metric: str, mode: Mode, epochs: int) -> str:
    """One trial's state as a person reads it."""
    values = ", ".join(
        f"{path} {value:.4g}" if isinstance(value, float) else f"{path} {value}"
        for path, value in record.values.items()
    )
    best = best_score(record, mode)
    parts = [
        f"trial {record.number} {record.state}",
        f"at epoch {record.epochs}/{epochs}" if record.epochs else "",
        f"{metric} {best[1]:.4f}" if best else "",
        record.error or "",
        record.notes[-1].text if record.notes and record.state == "stopped" else "",
        f"({values or 'the base config'})",
    ]
    return "  ".join(part for part in parts if part)
