"""The search space of a sweep: which settings vary, over what, and which combinations are allowed.

Written as a mapping, in YAML or by hand:

    optim.lr: {loguniform: [1e-4, 1e-1]}
    optim.accumulate: {int: [1, 4]}                  # both ends included; also uniform, logint
    model.name: {choice: [yolov5n, yolov5s]}
    optim.name: {grid: [sgd, adamw]}                 # a choice of which every value has its turn
    optim.momentum: {uniform: [0.8, 0.98], when: {optim.name: sgd}}
    constraints: ["images_per_step <= 256", "epochs * optim.accumulate <= 100"]

Whatever is wrong with it is said before a trial starts.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cluster.config_io import merge
from cluster.errors import ConfigError
from trainjobs.config import TrainConfig
from tuning.constraints import check_constraint, holds
from tuning.dimension import (
    Dimension,
    check_conditions,
    check_dimension,
    is_active,
    parse_dimension,
)
from tuning.records import Values

MAX_DRAWS = 1000
"""Draws that the constraints may reject before the space counts as empty: a space of which one in
200 draws is allowed still passes with probability 0.993."""
MAX_GRID = 10_000
"""Points of a grid; far more than anybody trains, few enough to list."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Space:
    """Settings that vary, in an order in which conditions are drawn before what depends on them."""

    dimensions: tuple[Dimension, ...]
    constraints: tuple[str, ...] = ()
    """Comparisons that every trial satisfies."""
    source: str = "search space"
    """Named in errors."""


def default_space(base: TrainConfig) -> dict[str, Any]:
    """The space of a sweep that names none: a decade either side of the base config's values."""
    optim = base.optim
    return {
        "optim.lr": {"loguniform": [optim.lr / 10, optim.lr * 10]},
        "optim.weight_decay": {"loguniform": [optim.weight_decay / 10, optim.weight_decay * 10]},
        "optim.accumulate": {"choice": [1, 2, 4]},
    }


def parse_space(raw: object, source: str) -> Space:
    """A space from its written form; `check_space` compares it with a config.

    Raises:
        ConfigError: Not of that form, or conditions depend on each other in a circle.
    """
    if not isinstance(raw, Mapping):
        raise ConfigError(f"{source} must be a mapping of settings to distributions, got {raw!r}")
    constraints = raw.get("constraints") or []
    if not isinstance(constraints, (list, tuple)) or not all(
        isinstance(text, str) for text in constraints
    ):
        raise ConfigError(f"{source}: constraints must be a list of text, got {constraints!r}")
    dimensions = [
        parse_dimension(str(path), distribution, source)
        for path, distribution in raw.items()
        if path != "constraints"
    ]
    if not dimensions:
        raise ConfigError(f"{source} names no setting to vary, such as optim.lr")
    return Space(
        dimensions=_ordered(dimensions, source), constraints=tuple(constraints), source=source
    )


def apply(base: TrainConfig, values: Values) -> TrainConfig:
    """The config of a trial.

    Raises:
        ConfigError: There is no such setting, or a value is not allowed.
    """
    tree: dict[str, Any] = {}
    for path, value in values.items():
        *sections, name = path.split(".")
        below = tree
        for section in sections:
            below = below.setdefault(section, {})
        below[name] = value
    return merge(base, tree)


def is_allowed(space: Space, base: TrainConfig, values: Values, world_size: int) -> bool:
    """Whether a trial satisfies every constraint."""
    if not space.constraints:
        return True
    config = apply(base, values)
    return all(holds(text, config, world_size) for text in space.constraints)


def sample(
    space: Space,
    base: TrainConfig,
    rng: np.random.Generator,
    world_size: int,
    fixed: Mapping[str, Any] | None = None,
) -> Values:
    """Values of one trial at random, of those that the constraints allow.

    Args:
        fixed: values of settings that are not drawn; used where their conditions hold.

    Raises:
        ConfigError: No trial satisfies the constraints, or almost none.
    """
    fixed = fixed or {}
    is_random = any(dimension.path not in fixed for dimension in space.dimensions)
    num_draws = MAX_DRAWS if is_random else 1
    for _ in range(num_draws):
        values: Values = {}
        for dimension in space.dimensions:
            if is_active(dimension, base, values):
                path = dimension.path
                values[path] = fixed[path] if path in fixed else dimension.draw(rng)
        if is_allowed(space, base, values, world_size):
            return values
    raise _unsatisfied(space, f"{num_draws} draws tried")


def is_finite(space: Space) -> bool:
    """Whether every setting has a list of values."""
    return all(dimension.is_listed for dimension in space.dimensions)


def grid_points(space: Space, base: TrainConfig, world_size: int) -> list[Values]:
    """Every trial of a finite space once; the setting named last changes fastest.

    Raises:
        ConfigError: A setting has a range, no trial satisfies the constraints, or too many do.
    """
    ranges = [f"{d.path} ({d.kind})" for d in space.dimensions if not d.is_listed]
    if ranges:
        raise ConfigError(
            f"{space.source}: a grid needs lists of values; give {', '.join(ranges)} as a grid or "
            "a choice, or search at random"
        )
    points = [
        point for point in listed_points(space, base) if is_allowed(space, base, point, world_size)
    ]
    if not points:
        raise _unsatisfied(space, "the whole grid tried")
    return points


def listed_points(space: Space, base: TrainConfig) -> list[Values]:
    """Every combination of a finite space, also of those that the constraints forbid.

    Raises:
        ConfigError: Too many to list.
    """
    size = math.prod(len(dimension.values) for dimension in space.dimensions)
    if size > MAX_GRID:
        raise ConfigError(f"{space.source}: a grid must have <= {MAX_GRID} points, got {size}")
    return list(_combinations(space.dimensions, base, {}))


def check_space(space: Space, base: TrainConfig) -> None:
    """Compare a space with the config that its trials share.

    Raises:
        ConfigError: A setting does not exist or cannot vary, a value is not allowed, or a condition
            makes no sense. One line.
    """
    try:
        for dimension in space.dimensions:
            check_dimension(dimension, base)
            check_conditions(dimension, space.dimensions, base)
        _check_images_per_step(space, base)
    except ConfigError as error:
        raise ConfigError(f"{space.source}: {error}") from error


def check_constraints(space: Space, base: TrainConfig, world_size: int) -> None:
    """See whether trials of a checked space satisfy its constraints.

    Raises:
        ConfigError: A constraint makes no sense, or no trial satisfies them all. One line.
    """
    if not space.constraints:
        return
    try:
        for text in space.constraints:
            check_constraint(text, space.dimensions, base, world_size)
    except ConfigError as error:
        raise ConfigError(f"{space.source}: {error}") from error
    try:
        sample(space, base, np.random.default_rng(0), world_size)
    except ConfigError:
        if not is_finite(space):
            raise
        grid_points(space, base, world_size)  # looks at every point


def _ordered(dimensions: Sequence[Dimension], source: str) -> tuple[Dimension, ...]:
    """As written, but what a condition looks at stands before what depends on it."""
    waiting, ordered = list(dimensions), list[Dimension]()
    while waiting:
        open_paths = {dimension.path for dimension in waiting}
        ready = (d for d in waiting if not any(path in open_paths for path, _ in d.when))
        chosen = next(ready, None)
        if chosen is None:
            raise ConfigError(
                f"{source}: the conditions (when) of {', '.join(sorted(open_paths))} depend on "
                "each other in a circle; one of them must do without"
            )
        waiting.remove(chosen)
        ordered.append(chosen)
    return tuple(ordered)


def _combinations(
    dimensions: Sequence[Dimension], base: TrainConfig, values: Values
) -> Iterator[Values]:
    if not dimensions:
        yield values
        return
    first, *rest = dimensions
    if not is_active(first, base, values):
        yield from _combinations(rest, base, values)
        return
    for value in first.values:
        yield from _combinations(rest, base, {**values, first.path: value})


def _check_images_per_step(space: Space, base: TrainConfig) -> None:
    """Accumulation and images per step are two names for one thing."""
    varied = {dimension.path for dimension in space.dimensions}
    accumulate, images = "optim.accumulate", "optim.images_per_step"
    if {accumulate, images} <= varied:
        raise ConfigError(f"{images} overrides {accumulate}: vary one of them")
    if accumulate in varied and base.optim.images_per_step is not None:
        raise ConfigError(
            f"{accumulate} cannot vary while {images} is {base.optim.images_per_step}, which "
            "overrides it: leave that open"
        )
    if images in varied and base.optim.accumulate != "auto":
        raise ConfigError(
            f"{images} cannot vary while {accumulate} is {base.optim.accumulate}, which it "
            "would override: leave that at auto"
        )


def _unsatisfied(space: Space, tried: str) -> ConfigError:
    constraints = " and ".join(map(repr, space.constraints))
    return ConfigError(
        f"{space.source}: no trial satisfies {constraints} ({tried}): widen a range or relax a "
        "constraint"
    )
