"""Settings that mean nothing to a job: whoever sets one is told, rather than left to wonder."""

from collections.abc import Iterable

from cluster.config_io import value_at
from cluster.errors import ConfigError
from trainjobs.config import TrainConfig


def check_unused(
    config: TrainConfig, defaults: TrainConfig, paths: Iterable[str], job: str
) -> None:
    """Raise ConfigError for settings, by path, that differ from the job's defaults though it has no
    use for them."""
    for path in paths:
        value, default = value_at(config, path), value_at(defaults, path)
        if value != default:
            raise ConfigError(
                f"{path} has no meaning for trainjobs.{job}: leave it at {default!r}, got {value!r}"
            )
