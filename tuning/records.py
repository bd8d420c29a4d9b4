"""What a sweep remembers of its trials: plain data, saved after every change, read by everything else."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from cluster.config_io import from_dict
from cluster.errors import ConfigError
from trainjobs.config import RUN_NAME

Values = dict[str, Any]
"""Dotted path of a setting -> value."""
State = Literal["pending", "running", "finished", "stopped", "interrupted", "failed"]
"""stopped: by the scheduler, early. interrupted: by a signal or a crash; goes on with --resume."""
Origin = Literal["default", "point", "random", "grid", "optuna", "confirm", "retrain"]

DONE: frozenset[State] = frozenset({"finished", "stopped", "failed"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Note:
    """Something that a scheduler did to a trial."""

    epoch: int
    text: str


@dataclass(kw_only=True, slots=True)
class TrialRecord:
    """One trial, from its proposal to its end."""

    number: int
    """From 0, in order of proposal."""
    origin: Origin
    values: Values
    """What the search chose; the rest is the base config."""
    implied: Values = field(default_factory=dict)
    """Of the searched settings, those that the base config gives, as the launch resolves them."""
    seed: int
    state: State = "pending"
    run_names: list[str] = field(default_factory=list)
    """Runs under trials/, oldest first; more than one where population-based training replaced it."""
    epochs: int = 0
    """Completed."""
    curve: dict[int, float] = field(default_factory=dict)
    """Epoch (from 1) -> the sweep's metric, where it was measured."""
    images_per_step: int | None = None
    weight_decay_in_force: float | None = None
    world_size: int = 0
    training_s: float = 0.0
    """Seconds in optimizer steps, of all epochs."""
    wall_s: float = 0.0
    """Seconds from the trial's start to its end, over all attempts."""
    startup_s: float | None = None
    """Seconds from the start of the newest attempt to its first step."""
    attempts: int = 0
    start_from: str | None = None
    """Folder of the run whose weights the newest run went on from."""
    repeats: int | None = None
    """Of a confirmation: number of the trial that it repeats with another seed."""
    mlflow_run_id: str | None = None
    notes: list[Note] = field(default_factory=list)
    error: str | None = None

    @property
    def settings(self) -> Values:
        """Every searched setting that the trial has, with its value."""
        return {**self.implied, **self.values}


def to_plain(record: TrialRecord) -> dict[str, Any]:
    """As JSON can hold it."""
    return asdict(record)


def from_plain(raw: Any, number: int) -> TrialRecord:
    """The inverse of `to_plain`, after JSON made the curve's keys text, for a file of any content.

    Raises:
        ConfigError: It is no record, of another number, or its runs have names that cannot be.
    """
    record = from_dict(TrialRecord, raw, f"trial {number}")
    if record.number != number:
        raise ConfigError(f"trial {number} has the number {record.number}")
    for name in record.run_names or [""]:
        if not RUN_NAME.fullmatch(name):  # it becomes a path
            raise ConfigError(f"trial {number} has a run named {name!r}")
    return record
