"""How much each setting explains of the metric, from trials compared at the same epoch.

Ranks instead of values, so that the answer is the same for a learning rate and for its logarithm,
and one diverged trial does not decide it. Each setting is judged alone: interactions are not seen.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tuning.records import TrialRecord
from tuning.scores import common_epoch, finite_curve, search_trials

MIN_TRIALS = 4  # with fewer, any line fits
CURVED_TRIALS = 8
"""From so many trials on, a number may also have its best value in the middle of its range."""
STRAIGHT = "rank correlation squared"
CURVED = "fit of a parabola in ranks"
MIXED = "variance explained (eta squared)"

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Importance:
    """What one setting explains of the metric's ranks."""

    path: str
    share: float
    """Of the variance of the metric's ranks, in [0, 1]."""
    chance: float
    """The share that values drawn without any effect would explain on average."""
    correlation: float | None
    """Spearman's, in [-1, 1]; None for text and flags."""
    n: int
    """Trials that have the setting and the metric."""
    method: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """The search's trials at one epoch."""

    epoch: int
    trials: tuple[TrialRecord, ...]
    scores: tuple[float, ...]


def compare(records: Sequence[TrialRecord]) -> Comparison | None:
    """The trials at the latest epoch that those which ended by plan have all measured, or None.

    Final values would flatter the settings of the trials that happened to train longer.
    """
    epoch = common_epoch(records)
    if epoch is None:
        return None
    measured = [(record, finite_curve(record)) for record in search_trials(records)]
    found = [(record, curve[epoch]) for record, curve in measured if epoch in curve]
    return Comparison(
        epoch=epoch,
        trials=tuple(record for record, _ in found),
        scores=tuple(score for _, score in found),
    )


def importances(comparison: Comparison, paths: Sequence[str]) -> list[Importance]:
    """The settings that can be judged, the most important first.

    A setting that fewer than 4 trials have, or that is the same in all of them, is left out.
    """
    found = []
    for path in paths:
        pairs = [
            (trial.settings[path], score)
            for trial, score in zip(comparison.trials, comparison.scores, strict=True)
            if path in trial.settings
        ]
        judged = _judge(path, [value for value, _ in pairs], [score for _, score in pairs])
        if judged is not None:
            found.append(judged)
    return sorted(found, key=lambda judged: judged.chance - judged.share)


def is_number(value: Any) -> bool:
    """Whether a value has a place on a line; a flag has not."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def rank(values: Sequence[float]) -> Floats:
    """Ranks from 1, the mean rank for equal values."""
    _, group, counts = np.unique(
        np.asarray(values, dtype=np.float64), return_inverse=True, return_counts=True
    )
    last = np.cumsum(counts)
    means: Floats = last - (counts - 1) / 2
    return means[group]


def _judge(path: str, values: Sequence[Any], scores: Sequence[float]) -> Importance | None:
    n = len(values)
    if n < MIN_TRIALS or len({repr(value) for value in values}) < 2 or len(set(scores)) < 2:
        return None
    target = rank(scores)
    correlation = None
    if all(is_number(value) for value in values):
        ranks = rank(values)
        correlation = float(np.corrcoef(ranks, target)[0, 1])
        method = STRAIGHT if n < CURVED_TRIALS else CURVED
        powers = 2 if method == STRAIGHT else 3
        design = np.stack([(ranks / n) ** power for power in range(powers)], axis=1)
    else:
        names = [repr(value) for value in values]
        method = MIXED
        design = np.array([[name == one for one in sorted(set(names))] for name in names], float)
    share, chance = _explained(design, target)
    return Importance(
        path=path, share=share, chance=chance, correlation=correlation, n=n, method=method
    )


def _explained(design: Floats, target: Floats) -> tuple[float, float]:
    # R squared of a least-squares fit, and what it is on average if nothing is there to be found.
    weights, _, degrees, _ = np.linalg.lstsq(design, target, rcond=None)
    rest = float(((target - design @ weights) ** 2).sum())
    total = float(((target - target.mean()) ** 2).sum())
    share = min(max(1 - rest / total, 0.0), 1.0)
    return share, (int(degrees) - 1) / (len(target) - 1)
