"""What a tracker delivers: plain data, in the order it was logged."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from trainjobs.tracking.tracker import Status

MAX_METRICS = 1000  # in one batch: mlflow.utils.validation.MAX_METRICS_PER_BATCH


@dataclass(frozen=True, slots=True)
class Metric:
    """One number."""

    name: str
    value: float
    step: int
    logged_ms: int
    """Unix time at which it was logged, which may be long before it is delivered."""


@dataclass(frozen=True, slots=True)
class Metrics:
    """Numbers that are delivered together."""

    values: tuple[Metric, ...]


@dataclass(frozen=True, slots=True)
class Facts:
    """Settings, which never change, and tags, which may."""

    params: Mapping[str, str]
    tags: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Artifact:
    """A file or folder to copy."""

    path: Path
    folder: str | None


@dataclass(frozen=True, slots=True)
class End:
    """How the run ended; the last record."""

    status: Status


Record = Metrics | Facts | Artifact | End


def merged(records: Iterable[Record]) -> Iterator[Record]:
    """The same records in order, neighboring metrics joined up to the size of a batch."""
    joined: tuple[Metric, ...] = ()
    for record in records:
        values = record.values if isinstance(record, Metrics) else ()
        if joined and (not values or len(joined) + len(values) > MAX_METRICS):
            yield Metrics(joined)
            joined = ()
        if isinstance(record, Metrics):
            joined += values
        else:
            yield record
    if joined:
        yield Metrics(joined)
