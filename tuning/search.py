"""How the values of the next trial are proposed: at random, from a grid, or by Optuna.

A search keeps no state: a proposal follows from its number, the seed and what was observed, so a
sweep that is resumed goes on as if it had never stopped.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from cluster.errors import ConfigError
from trainjobs.config import TrainConfig
from tuning.config import Mode
from tuning.constraints import value_in_force
from tuning.dimension import Dimension, is_active
from tuning.records import Values
from tuning.space import Space, grid_points, is_allowed, listed_points, sample

if TYPE_CHECKING:
    import optuna

NUM_RANDOM = 10
"""Measured trials before Optuna's estimator is asked; its own default for random trials."""
MAX_ASKS = 50
"""Proposals of Optuna that the constraints may reject before one is drawn at random."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Observation:
    """What is known of a trial."""

    number: int
    values: Values
    value: float | None
    """Of the metric, finite; None: still running, or nothing was measured."""
    stopped_at: int | None = None
    """Epoch after which the scheduler stopped it; None: it was not stopped."""


class Search(Protocol):
    """Proposes trials, numbered from 0, one after the other."""

    def propose(self, number: int, observed: Sequence[Observation]) -> Values | None:
        """The values of trial `number`; None: the space is exhausted."""
        ...


class RandomSearch:
    """Independent draws: trial k is a pure function of (seed, k), whatever was observed.

    Settings of kind grid take their turns: trial k has point k of their grid, then from the start.
    """

    def __init__(self, space: Space, base: TrainConfig, *, seed: int, world_size: int) -> None:
        self._space, self._base, self._world_size = space, base, world_size
        self._seed = seed
        self._points = self._satisfiable(_grid_part(space, base))

    def propose(self, number: int, observed: Sequence[Observation]) -> Values | None:
        """The values of trial `number`; never exhausted."""
        del observed
        point = self._points[number % len(self._points)]
        rng = np.random.default_rng([self._seed, number])
        return sample(self._space, self._base, rng, self._world_size, point)

    def _satisfiable(self, points: list[Values]) -> list[Values]:
        """Those points of the grid with which some trial satisfies the constraints."""
        found = [point for point in points if self._is_satisfiable(point)]
        return found or points[:1]  # with none, the first proposal says so

    def _is_satisfiable(self, point: Values) -> bool:
        if not self._space.constraints or not point:
            return True
        try:
            sample(self._space, self._base, np.random.default_rng(0), self._world_size, point)
        except ConfigError:
            return False
        return True


class GridSearch:
    """Every combination of a finite space once, in order."""

    def __init__(self, space: Space, base: TrainConfig, *, world_size: int) -> None:
        self.points = grid_points(space, base, world_size)

    def propose(self, number: int, observed: Sequence[Observation]) -> Values | None:
        """Point `number` of the grid; None after the last."""
        del observed
        return dict(self.points[number]) if number < len(self.points) else None


class OptunaSearch:
    """Optuna's tree-structured Parzen estimator (TPE), after `NUM_RANDOM` measured random trials.

    Settings without conditions are modeled together, conditional ones one by one. Trials without
    a value count as bad ones (the constant liar), so that parallel trials spread out.

    Source: Bergstra et al. 2011, "Algorithms for Hyper-Parameter Optimization", section 4.
    """

    def __init__(
        self, space: Space, base: TrainConfig, *, seed: int, mode: Mode, world_size: int
    ) -> None:
        self._space, self._base, self._world_size = space, base, world_size
        self._seed, self._mode = seed, mode
        self._random = RandomSearch(space, base, seed=seed, world_size=world_size)

    def propose(self, number: int, observed: Sequence[Observation]) -> Values | None:
        """The values of trial `number`; never exhausted."""
        known = [
            dataclasses.replace(observation, values=values)
            for observation in sorted(observed, key=lambda observation: observation.number)
            if (values := self._completed(observation.values)) is not None
        ]
        if sum(observation.value is not None for observation in known) < NUM_RANDOM:
            return self._random.propose(number, observed)
        study = self._study(number, known)
        for _ in range(MAX_ASKS):
            # A proposal that is rejected stays in the study as a running trial: the next differs.
            values = self._suggest(study.ask())
            if is_allowed(self._space, self._base, values, self._world_size):
                return values
        return self._random.propose(number, observed)

    def _completed(self, given: Values) -> Values | None:
        """A value for each active setting, from the base config where a trial names none.

        None if one lies outside of the space.
        """
        values: Values = {}
        for dimension in self._space.dimensions:
            if not is_active(dimension, self._base, {**given, **values}):
                continue
            path = dimension.path
            if path in given:
                value = given[path]
            else:
                value = value_in_force(self._base, path, self._world_size)
            if not dimension.contains(value):
                return None
            values[path] = value
        return values

    def _study(self, number: int, known: Sequence[Observation]) -> "optuna.Study":
        import optuna  # noqa: PLC0415  1 s, and few sweeps need it

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        # A seed of its own, or every proposal would begin with the same random numbers.
        seed = int(np.random.SeedSequence([self._seed, number]).generate_state(1)[0])
        study = optuna.create_study(
            direction="maximize" if self._mode == "max" else "minimize",
            sampler=optuna.samplers.TPESampler(
                seed=seed, n_startup_trials=0, multivariate=True, constant_liar=True
            ),
        )
        distributions: dict[frozenset[str], Any] = {}  # of the settings that a trial has
        for observation in known:
            active = frozenset(observation.values)
            if active not in distributions:
                asked = optuna.trial.FixedTrial(observation.values)
                self._suggest(asked)
                distributions[active] = asked.distributions
            study.add_trial(
                optuna.trial.create_trial(
                    params=observation.values,
                    distributions=distributions[active],
                    **_outcome(observation),
                )
            )
        return study

    def _suggest(self, trial: "optuna.trial.BaseTrial") -> Values:
        """Ask a trial for every active setting."""
        values: Values = {}
        for dimension in self._space.dimensions:
            if is_active(dimension, self._base, values):
                values[dimension.path] = _suggested(dimension, trial)
        return values


def build_search(
    kind: Literal["random", "grid", "optuna"],
    space: Space,
    base: TrainConfig,
    *,
    seed: int,
    mode: Mode,
    world_size: int,
) -> Search:
    """The search of that kind over a checked space.

    Raises:
        ConfigError: A grid over a space with ranges, or over one that the constraints empty.
    """
    if kind == "grid":
        return GridSearch(space, base, world_size=world_size)
    if kind == "optuna":
        return OptunaSearch(space, base, seed=seed, mode=mode, world_size=world_size)
    return RandomSearch(space, base, seed=seed, world_size=world_size)


def _grid_part(space: Space, base: TrainConfig) -> list[Values]:
    """Combinations of the settings of kind grid alone; one empty one if there is none."""
    grid = {dimension.path for dimension in space.dimensions if dimension.kind == "grid"}
    drawn = {dimension.path for dimension in space.dimensions} - grid
    part = tuple(
        # Whether a drawn setting's condition holds is not known yet: such a value is kept ready.
        dataclasses.replace(d, when=tuple(pair for pair in d.when if pair[0] not in drawn))
        for d in space.dimensions
        if d.path in grid
    )
    return listed_points(dataclasses.replace(space, dimensions=part), base)


def _outcome(observation: Observation) -> dict[str, Any]:
    """How far Optuna is to think a trial came.

    TPE ranks pruned trials below complete ones, and among them those first that went on for longer.
    """
    from optuna.trial import TrialState  # noqa: PLC0415  1 s, and few sweeps need it

    if observation.value is None:
        return {"state": TrialState.RUNNING}
    if observation.stopped_at is None:
        return {"state": TrialState.COMPLETE, "value": observation.value}
    measured = {observation.stopped_at: observation.value}
    return {"state": TrialState.PRUNED, "intermediate_values": measured}


def _suggested(dimension: Dimension, trial: "optuna.trial.BaseTrial") -> Any:
    path = dimension.path
    if dimension.is_listed:
        return trial.suggest_categorical(path, dimension.values)
    assert dimension.low is not None and dimension.high is not None  # a range
    if dimension.is_whole:
        low, high = int(dimension.low), int(dimension.high)
        return trial.suggest_int(path, low, high, log=dimension.is_log)
    return trial.suggest_float(path, dimension.low, dimension.high, log=dimension.is_log)
