"""What every section of the settings checks its numbers with."""

from cluster.errors import ConfigError


def check_range(path: str, value: float, low: float, high: float = float("inf")) -> None:
    """Raise ConfigError unless `value`, of the setting at `path`, is in [low, high]."""
    if not low <= value <= high:  # NaN fails too
        wanted = f">= {low:g}" if high == float("inf") else f"in [{low:g}, {high:g}]"
        raise ConfigError(f"{path} must be {wanted}, got {value}")
