"""What a run tells the outside world, and the tracker that tells nobody."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Protocol

Status = Literal["finished", "stopped", "failed", "interrupted"]


class Tracker(Protocol):
    """Where a run is recorded beside its own folder.

    Calls return at once and raise nothing: the work is done in the background until `close`.
    """

    @property
    def run_id(self) -> str | None:
        """The tracker's own id of the run, waited for while it opens; None if nothing records."""

    def log_params(self, params: Mapping[str, object]) -> None:
        """Record settings, by dotted path."""

    def set_tags(self, tags: Mapping[str, object]) -> None:
        """Record facts about the run; a later value replaces an earlier one."""

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Record numbers as of optimizer step or epoch `step`."""

    def log_artifact(self, path: Path, folder: str = "") -> None:
        """Copy a file or folder, which must stay as it is until `close`, into `folder`."""

    def close(self, status: Status) -> None:
        """Record how the run ended and deliver what is waiting, for a bounded time."""


class NullTracker:
    """Records nothing."""

    @property
    def run_id(self) -> None:
        """None: nothing is recorded."""
        return

    def log_params(self, params: Mapping[str, object]) -> None:
        """Ignore the settings."""

    def set_tags(self, tags: Mapping[str, object]) -> None:
        """Ignore the tags."""

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Ignore the numbers."""

    def log_artifact(self, path: Path, folder: str = "") -> None:
        """Ignore the file."""

    def close(self, status: Status) -> None:
        """Do nothing."""
