"""What a job trains when it is given no data. Each job's module has one."""

from dataclasses import dataclass

from trainjobs.config import TrainConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Demo:
    """A recipe for the generated dataset."""

    config: TrainConfig
    note: str
    """Says on the console that this is a demonstration, and of what."""
