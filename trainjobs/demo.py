"""What a job trains with when nothing else is said. Each job's module has one."""

from dataclasses import dataclass, field

from trainjobs.config import TrainConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Demo:
    """A recipe for the generated dataset, and the settings for all others."""

    config: TrainConfig
    """Where there is no data."""
    defaults: TrainConfig = field(default_factory=TrainConfig)
    """Where there is."""
    note: str
    """Says on the console that this is a demonstration, and of what."""
