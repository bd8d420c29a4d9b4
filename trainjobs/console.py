"""What the driver shows of a run: a line per epoch, and within an epoch a moving bar on a terminal,
a plain line now and then elsewhere (a job's log, a file)."""

import logging
import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from cluster.logs import ConsoleHandler
from trainjobs.events import StepProgress

logger = logging.getLogger(__name__)

PLAIN_INTERVAL_S = 15.0
"""Between lines within an epoch where no bar can be drawn."""


class Display:
    """Shows progress on stderr. Metrics are COCO's, losses are means over the epoch's images."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs
        self.epoch_s: list[float] = []
        self.epoch_ended = self.spoke_at = time.monotonic()
        self.bar: Progress | None = None
        self.task: TaskID | None = None
        console = Console(stderr=True)
        if console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.fields[note]}"),
            )
            self.bar = Progress(*columns, console=console, transient=True)
            self.task = self.bar.add_task("starting", total=1.0, note="")
            ConsoleHandler.draw_with(
                lambda line: console.print(line, markup=False, highlight=False, soft_wrap=True)
            )
            self.bar.start()

    def step(self, progress: StepProgress) -> None:
        """Move the bar, or log a line if the last one is long ago."""
        note = f"loss {progress.loss:.4f}  {progress.images_per_second:.0f} images/s"
        if self.bar is not None and self.task is not None:
            self.bar.update(
                self.task,
                description=f"epoch {progress.epoch}/{progress.epochs}",
                completed=progress.fraction,
                note=note,
            )
        elif time.monotonic() - self.spoke_at >= PLAIN_INTERVAL_S:
            self.spoke_at = time.monotonic()
            logger.info(
                "epoch %d/%d  %3.0f %%  %s",
                progress.epoch,
                progress.epochs,
                100 * progress.fraction,
                note,
            )

    def epoch(self, row: dict[str, float]) -> None:
        """Log the epoch's line."""
        now = time.monotonic()
        self.epoch_s.append(now - self.epoch_ended)
        self.epoch_ended = self.spoke_at = now
        logger.info("%s", epoch_line(row, self.epochs, self._left_s(row)))

    def close(self) -> None:
        """Take the bar away."""
        if self.bar is not None:
            self.bar.stop()
            ConsoleHandler.draw_with(None)

    def _left_s(self, row: dict[str, float]) -> float:
        # The first epoch includes start-up, so it is left out as soon as there is another.
        recent = self.epoch_s[1:][-5:] or self.epoch_s
        return (self.epochs - row["epoch"]) * sum(recent) / len(recent)


SCORES = {
    "map50": "mAP50",
    "map50_95": "mAP50-95",
    "train_top1": "top-1 in training",
    "top1": "top-1",
}
"""Column of metrics.csv -> its name in an epoch's line."""


def epoch_line(row: dict[str, float], epochs: int, left_s: float) -> str:
    """One epoch as a person reads it."""
    terms = [name for name in row if name.startswith("train_") and name not in SCORES]
    if len(terms) > 1:
        terms.remove("train_loss")  # their sum
    losses = "  ".join(f"{name.removeprefix('train_')} {row[name]:.4f}" for name in terms)
    scores = "".join(f"  {label} {row[key]:.3f}" for key, label in SCORES.items() if key in row)
    return (
        f"epoch {row['epoch']:.0f}/{epochs}  {losses}{scores}  "
        f"{row['images_per_second']:.0f} images/s  {_clock(left_s)} left"
    )


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
