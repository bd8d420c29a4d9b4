"""One line of a search space: a setting, the values it may take, and when it is set at all."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from cluster.config_io import leaf_paths, replace_at, unknown_name, value_at
from cluster.errors import ConfigError
from trainjobs.config import TrainConfig
from tuning.records import Values

Kind = Literal["uniform", "loguniform", "int", "logint", "choice", "grid"]
KINDS: tuple[Kind, ...] = get_args(Kind)
_LISTED = ("choice", "grid")
_WHOLE = ("int", "logint")
_LOG = ("loguniform", "logint")
NOT_SEARCHED = {
    "epochs": "it is one for the whole sweep, which sets it",
    "seed": "the sweep gives every trial its seed; repeats with other seeds are --confirm",
    "run_name": "the sweep names its trials",
    "resources": "all trials get the same workers, else their number at a time cannot be planned",
    "tracking": "all trials of a sweep are recorded in one place",
}
"""Setting or section -> why it cannot vary."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Dimension:
    """A setting that a sweep varies."""

    path: str
    """Of the setting, dotted."""
    kind: Kind
    low: float | None = None
    """Smallest value of a range, itself included; None for a list."""
    high: float | None = None
    """Largest value of a range, itself included; None for a list."""
    values: tuple[Any, ...] = ()
    """All values of a choice or a grid; empty for a range."""
    when: tuple[tuple[str, tuple[Any, ...]], ...] = ()
    """(path of another setting, values it must have). Where that does not hold, the base config's
    value stays."""

    @property
    def is_listed(self) -> bool:
        """A choice or a grid, not a range."""
        return self.kind in _LISTED

    @property
    def is_whole(self) -> bool:
        """A range of whole numbers."""
        return self.kind in _WHOLE

    @property
    def is_log(self) -> bool:
        """A range whose logarithm is drawn uniformly."""
        return self.kind in _LOG

    @property
    def extremes(self) -> tuple[Any, ...]:
        """Values to check, for all to be right: a list's all, a range's ends."""
        return self.values if self.is_listed else self._ends()

    def contains(self, value: object) -> bool:
        """Whether a trial may have this value."""
        if self.is_listed:
            return value in self.values
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return False
        low, high = self._ends()
        return low <= value <= high and (not self.is_whole or value == int(value))

    def draw(self, rng: np.random.Generator) -> Any:
        """A value at random; a grid is drawn like a choice."""
        if self.is_listed:
            return self.values[int(rng.integers(len(self.values)))]
        low, high = self._ends()
        # Half a unit on either side gives the ends of a whole range the share of the others.
        margin = 0.5 if self.is_whole else 0.0
        if self.is_log:
            drawn = math.exp(rng.uniform(math.log(low - margin), math.log(high + margin)))
        else:
            drawn = rng.uniform(low - margin, high + margin)
        clipped = min(max(drawn, low), high)  # exp(log(high)) can be above high
        return round(clipped) if self.is_whole else float(clipped)

    def _ends(self) -> tuple[float, float]:
        assert self.low is not None and self.high is not None  # a range
        return self.low, self.high


def parse_dimension(path: str, raw: object, source: str) -> Dimension:
    """A dimension from its YAML form, such as `{uniform: [0.8, 0.98], when: {optim.name: sgd}}`.

    Raises:
        ConfigError: Not of that form, or there is nothing to choose from.
    """
    where = f"{source}: {path}"
    if not isinstance(raw, Mapping):
        raise ConfigError(f"{where} must be a distribution such as choice: [1, 2], got {raw!r}")
    kinds = [key for key in raw if key != "when"]
    for kind in kinds:
        if kind not in KINDS:
            raise ConfigError(
                f"{where}: unknown distribution {kind!r}: {unknown_name(str(kind), KINDS)}"
            )
    if len(kinds) != 1:
        raise ConfigError(f"{where} must have exactly one of {', '.join(KINDS)}, got {kinds}")
    kind = kinds[0]
    when = _parse_when(raw, where)
    if kind in _LISTED:
        values = _parse_listed(raw[kind], kind, where)
        return Dimension(path=path, kind=kind, values=values, when=when)
    low, high = _parse_range(raw[kind], kind, where)
    return Dimension(path=path, kind=kind, low=low, high=high, when=when)


def is_active(dimension: Dimension, base: TrainConfig, values: Values) -> bool:
    """Whether the dimension's conditions hold for a trial with these values so far."""
    return all(
        (values[path] if path in values else value_at(base, path)) in allowed
        for path, allowed in dimension.when
    )


def check_dimension(dimension: Dimension, base: TrainConfig) -> None:
    """Compare a dimension's setting and values with the config that the trials share.

    Raises:
        ConfigError: There is no such setting, it cannot vary, or a value is not allowed.
    """
    path = dimension.path
    for fixed, reason in NOT_SEARCHED.items():
        if path == fixed or path.startswith(f"{fixed}."):
            raise ConfigError(f"{path} cannot vary: {reason}")
    check_no_section(path)
    for value in dimension.extremes:
        try:
            replace_at(base, path, value)
        except ConfigError as error:
            is_range_of_floats = not dimension.is_listed and not dimension.is_whole
            hint = "; whole numbers are int or logint" if "whole number" in str(error) else ""
            raise ConfigError(f"{error}{hint if is_range_of_floats else ''}") from error


def check_conditions(
    dimension: Dimension, dimensions: Sequence[Dimension], base: TrainConfig
) -> None:
    """Check that what a dimension depends on exists and can be so.

    Raises:
        ConfigError: There is no such setting, or it never has such a value.
    """
    for path, allowed in dimension.when:
        try:
            check_no_section(path)
            for value in allowed:
                replace_at(base, path, value)
        except ConfigError as error:
            raise ConfigError(f"when of {dimension.path}: {error}") from error
        for varied in dimensions:
            if varied.path == path:
                _check_condition(dimension.path, allowed, varied, value_at(base, path))


def check_no_section(path: str) -> None:
    """Refuse a path that names several settings.

    Raises:
        ConfigError: It does.
    """
    below = [leaf for leaf in leaf_paths(TrainConfig) if leaf.startswith(f"{path}.")]
    if below:
        raise ConfigError(f"{path} is a group of settings; name one of them, such as {below[0]}")


def _check_condition(
    path: str, allowed: Sequence[Any], varied: Dimension, base_value: object
) -> None:
    """`path` is set where the setting that `varied` draws has one of the `allowed` values."""
    if not varied.is_listed and not varied.is_whole:
        raise ConfigError(
            f"when of {path} must name a setting with a list of values or whole numbers, "
            f"got {varied.path} ({varied.kind})"
        )
    for value in allowed:
        # Where `varied` is itself conditional, the base config's value may stand.
        if not varied.contains(value) and not (varied.when and value == base_value):
            raise ConfigError(
                f"when of {path}: {varied.path} is never {value!r}; its {varied.kind} is "
                f"{list(varied.extremes)}"
            )


def _parse_listed(raw: object, kind: Kind, where: str) -> tuple[Any, ...]:
    if not isinstance(raw, (list, tuple)) or not raw:
        raise ConfigError(f"{where}: {kind} must be a list of at least one value, got {raw!r}")
    values = tuple(raw)
    for value in values:
        if isinstance(value, (list, tuple, Mapping)):
            raise ConfigError(f"{where}: {kind} must list single values, got {value!r}")
        if values.count(value) > 1:
            raise ConfigError(f"{where}: {kind} must list each value once, got {value!r} twice")
    return values


def _parse_range(raw: object, kind: Kind, where: str) -> tuple[float, float]:
    whole = kind in _WHOLE
    ends = [_end(end, whole) for end in raw] if isinstance(raw, (list, tuple)) else []
    if len(ends) != 2 or ends[0] is None or ends[1] is None:
        numbers = "whole numbers" if whole else "finite numbers"
        raise ConfigError(f"{where}: {kind} must be two {numbers} [low, high], got {raw!r}")
    low, high = ends[0], ends[1]
    if not low < high:
        raise ConfigError(
            f"{where}: {kind} must be [low, high] with low < high, got {raw!r}; for a single value "
            "set it in the config that the trials share"
        )
    if kind in _LOG and low <= 0:
        raise ConfigError(
            f"{where}: {kind} must begin above 0, got {raw!r}; from 0 on there is "
            f"{'int' if whole else 'uniform'}"
        )
    return low, high


def _end(raw: object, whole: bool) -> float | None:
    """One end of a range, or None. Text counts: by the rules of YAML 1.1 `1e-4` is text."""
    if isinstance(raw, bool) or not isinstance(raw, (int, float, str)):
        return None
    try:
        number = float(raw)
    except (ValueError, OverflowError):
        return None
    if not math.isfinite(number) or (whole and not number.is_integer()):
        return None
    return int(number) if whole else number


def _parse_when(raw: Mapping[Any, Any], where: str) -> tuple[tuple[str, tuple[Any, ...]], ...]:
    if "when" not in raw:
        return ()
    conditions = raw["when"]
    if not isinstance(conditions, Mapping) or not conditions:
        raise ConfigError(
            f"{where}: when must be a mapping such as {{optim.name: sgd}}, got {conditions!r}"
        )
    allowed = {
        str(path): tuple(values) if isinstance(values, (list, tuple)) else (values,)
        for path, values in conditions.items()
    }
    for path, values in allowed.items():
        if not values:
            raise ConfigError(f"{where}: when {path} must list at least one value, got []")
    return tuple(allowed.items())
