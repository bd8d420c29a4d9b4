"""Where a run lives, in absolute terms: its name and folder, and the places that it names.

What the environment says about that is read here and handed on as values.
"""

import dataclasses
import os
import secrets
from datetime import datetime
from pathlib import Path

from cluster.places import in_job
from cluster.storage import RunPaths, is_uri, resolve_storage
from trainjobs.config import TrainConfig
from trainjobs.weighted_source import WeightedSource, parse_weighted


def locate(config: TrainConfig) -> tuple[TrainConfig, RunPaths]:
    """Give the run its name, and its folder in absolute terms."""
    storage = resolve_storage(
        config.resources.storage,
        environ=os.environ,
        cwd=Path.cwd(),
        in_job=in_job(),
    )
    name = config.run_name or new_run_name(config.model.name)
    config = dataclasses.replace(
        config,
        run_name=name,
        # Ranks run in another directory.
        data=dataclasses.replace(
            config.data,
            source=_absolute(config.data.source),
            also=tuple(str(_absolute_weighted(text)) for text in config.data.also),
        ),
        model=dataclasses.replace(config.model, weights=_absolute(config.model.weights)),
        checkpoint=dataclasses.replace(
            config.checkpoint, start_from=_absolute(config.checkpoint.start_from)
        ),
        resources=dataclasses.replace(config.resources, storage=storage),
    )
    return config, RunPaths(storage, name)


def new_run_name(model: str) -> str:
    """A name no other run has: model, time and three random digits."""
    return f"{model}-{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)[:3]}"


def _absolute(path: str | None) -> str | None:
    return None if path is None else _absolute_path(path)


def _absolute_path(path: str) -> str:
    return path if is_uri(path) else str(Path(path).absolute())


def _absolute_weighted(text: str) -> WeightedSource:
    given = parse_weighted(text, "data.also")
    return WeightedSource(_absolute_path(given.source), given.weight)
