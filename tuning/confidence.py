"""Which of several candidates is really the best, judged from fresh repeats with other seeds.

The scores by which a search picked its candidates must stay out: the best of many noisy scores is
too good (the winner's curse).
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tuning.config import Mode

METHOD = (
    "P(best) by Monte Carlo from the posterior of the means: normal scores, one variance pooled "
    "over the candidates, flat prior (Student-t)"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """One candidate among the others."""

    name: str
    mean: float
    spread: float | None
    """Sample standard deviation; None for a single score."""
    n: int
    """Scores."""
    p_best: float | None
    """Probability that its true mean is the best of all. None: no candidate was repeated."""


def judge(
    scores: Mapping[str, Sequence[float]], mode: Mode, *, num_draws: int = 100_000, seed: int = 0
) -> list[Standing]:
    """The candidates, best mean first, each with the probability that it really is the best.

    With k candidates, n_i scores y_ij of candidate i, and N = sum(n_i) scores in all:

        s^2 = sum_ij (y_ij - mean_i)^2 / (N - k)
        sigma^2 | y       = s^2 * (N - k) / chi^2 with N - k degrees of freedom
        mu_i | sigma^2, y = Normal(mean_i, sigma^2 / n_i)

    so that each mu_i is Student-t around mean_i with scale s / sqrt(n_i) and N - k degrees of
    freedom; p_best is the share of joint draws in which mu_i is the best. Without spread (s = 0)
    the best mean is certain, and ties share.

    Args:
        scores: candidate -> finite scores of its repeats, at least one each.

    Source: Gelman et al. 2013, "Bayesian Data Analysis", 3rd edition, section 14.2 (ordinary
        regression under the flat prior, here on one indicator per candidate); Box and Tiao 1973,
        "Bayesian Inference in Statistical Analysis", chapter 2.
    """
    means = {name: float(statistics.mean(values)) for name, values in scores.items()}
    p_best = _p_best(scores, means, mode, num_draws, seed)
    standings = [
        Standing(
            name=name,
            mean=means[name],
            spread=float(statistics.stdev(values)) if len(values) > 1 else None,
            n=len(values),
            p_best=p_best[name] if p_best else None,
        )
        for name, values in scores.items()
    ]
    return sorted(standings, key=lambda standing: standing.mean, reverse=mode == "max")


def _p_best(
    scores: Mapping[str, Sequence[float]],
    means: Mapping[str, float],
    mode: Mode,
    num_draws: int,
    seed: int,
) -> dict[str, float] | None:
    freedom = sum(len(values) - 1 for values in scores.values())
    if not freedom:
        return None
    squares = math.fsum(
        statistics.variance(values) * (len(values) - 1)
        for values in scores.values()
        if len(values) > 1
    )
    center = np.array(list(means.values())) * (1 if mode == "max" else -1)  # (k,)
    if squares == 0:
        shares = (center == center.max()) / np.sum(center == center.max())
    else:
        rng = np.random.default_rng(seed)
        sigma = np.sqrt(squares / rng.chisquare(freedom, size=(num_draws, 1)))
        scales = sigma / np.sqrt([len(values) for values in scores.values()])  # (num_draws, k)
        drawn = center + scales * rng.standard_normal(scales.shape)
        shares = np.bincount(drawn.argmax(axis=1), minlength=len(center)) / num_draws
    return dict(zip(scores, shares.tolist(), strict=True))
