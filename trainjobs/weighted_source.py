"""`SOURCE#WEIGHT`: a dataset, and how often each of its images comes in an epoch.

A URI's part after `#` is its fragment, which no storage looks at, so the weight cannot be part of it.
"""

import re
from dataclasses import dataclass

from cluster.errors import ConfigError

MIN_WEIGHT, MAX_WEIGHT = 0.001, 1000.0
"""Each whole number of it lists all shards once more."""
_WITH_WEIGHT = re.compile(r"(?P<source>.+)#(?P<weight>\d+(\.\d*)?|\.\d+)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class WeightedSource:
    """A dataset by its source, as in `data.source`, and its weight."""

    source: str
    weight: float = 1.0

    def __str__(self) -> str:
        return f"{self.source}#{self.weight!r}"


def parse_weighted(text: str, path: str) -> WeightedSource:
    """Read `SOURCE` or `SOURCE#WEIGHT`; what follows the last `#` is a weight if it is a number.

    Args:
        text: Of the setting.
        path: Of the setting, for errors.

    Raises:
        ConfigError: There is no source, or the weight is out of its range.
    """
    found = _WITH_WEIGHT.fullmatch(text)
    source, weight = (found["source"], float(found["weight"])) if found else (text, 1.0)
    if not source or source.startswith("#"):
        raise ConfigError(f"{path} must be SOURCE or SOURCE#WEIGHT, got {text!r}")
    if not MIN_WEIGHT <= weight <= MAX_WEIGHT:
        raise ConfigError(
            f"{path}: the weight of {source} must be from {MIN_WEIGHT:g} to {MAX_WEIGHT:g}, "
            f"got {weight:g}"
        )
    return WeightedSource(source, weight)
