"""Population-based training: which member goes on from whom, and with which values. Pure.

Source: Jaderberg et al. 2017, "Population Based Training of Neural Networks" (arXiv:1711.09846),
truncation selection and perturbation.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from cluster.config_io import value_at
from trainjobs.config import TrainConfig
from tuning.config import Mode
from tuning.dimension import Dimension, is_active
from tuning.records import Values

QUANTILE = 0.25
"""Members below this fraction of the population are replaced by one of as many at the top."""
FACTORS = (0.8, 1.2)
"""A copied number is multiplied by one of these, as in the paper."""
RESAMPLE_FRACTION = 0.25
"""How often a value is drawn anew instead."""


def choose_donors(
    scores: Mapping[int, float], mode: Mode, rng: np.random.Generator
) -> dict[int, int]:
    """Who goes on from whom.

    Args:
        scores: of each member, at equal epochs.
        mode: which way is better.
        rng: picks among the best.

    Returns:
        Member among the worst -> a member among the best, which is strictly better.
    """
    sign = 1.0 if mode == "max" else -1.0
    # One that diverged is the worst.
    known = {m: sign * s if math.isfinite(s) else -math.inf for m, s in scores.items()}
    size = min(max(1, round(QUANTILE * len(known))), len(known) // 2)
    ranked = sorted(known, key=lambda m: (known[m], m))
    worst, best = ranked[:size], ranked[len(ranked) - size :]
    return {member: int(rng.choice(best)) for member in worst if known[member] < known[best[0]]}


def explore(
    values: Values, dimensions: Sequence[Dimension], base: TrainConfig, rng: np.random.Generator
) -> Values:
    """A donor's values, each moved a little within its range, or drawn anew now and then.

    Settings whose condition no longer holds are dropped, those whose condition now holds are drawn.
    """
    moved: Values = {}
    for dimension in dimensions:
        if not is_active(dimension, base, moved):
            continue
        value = values.get(dimension.path, value_at(base, dimension.path))
        if not dimension.contains(value) or rng.random() < RESAMPLE_FRACTION:
            moved[dimension.path] = dimension.draw(rng)
        elif dimension.is_listed:
            moved[dimension.path] = value
        else:
            moved[dimension.path] = _scaled(value, dimension, rng)
    return moved


def _scaled(value: float, dimension: Dimension, rng: np.random.Generator) -> float:
    assert dimension.low is not None and dimension.high is not None  # a range
    scaled = value * float(rng.choice(FACTORS))
    if isinstance(value, int):  # a small whole number moves by one at least
        scaled = value + max(1, round(abs(scaled - value))) * (1 if scaled > value else -1)
    return type(value)(min(max(scaled, dimension.low), dimension.high))
