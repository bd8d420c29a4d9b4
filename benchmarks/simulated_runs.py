"""Simulated training runs: learning curves with the structure that a search has to cope with.

No constant here was fitted to measurements; each is an assumption that names its reason. Where the
optimum lies is drawn per problem, so that a ranking of searches does not hang on one place.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from trainjobs.config import TrainConfig
from trainjobs.resolve import resolve_launch
from tuning.space import apply, default_space, parse_space

BASE = TrainConfig()
DEFAULT_SPACE = parse_space(default_space(BASE), "default search space")
WORLD_SIZE = 2
"""Workers of a run: 32, 64 or 128 images per step over the default space."""
NOMINAL = BASE.optim.nominal_batch_size

BEST = 0.6
"""Limit of the best config: about the map50_95 of a good detector on an easy data set."""
PLACE = 1_000_000
"""Of random numbers, a stream that no search draws from: else trial 0 would know the optimum."""
AWAY_DECADES = 0.7
"""Largest distance of the optimum from the defaults, of the space's one decade either way."""
LR_WIDTH = 1.0
"""Decades of learning rate that cost a factor exp(-1/2): a tenth of the best rate is clearly bad."""
DECAY_WIDTH = 2.0
"""The same for weight decay, which is known to matter less."""
IMAGES_WIDTH = 2.0
"""The same for images per step, in doublings: three values apart by one each differ a little."""
DIVERGES_ABOVE = 0.8
"""Decades above the best learning rate at which nothing is learned: it lies near the edge of
stability, and 6 times too much is over it."""
LR_OF_IMAGES = 0.5
"""Exponent with which the best rate falls as images per step grow: the recipe scales updates
linearly, while noise asks for the square root (Krizhevsky 2014, arXiv:1404.5997, section 5)."""
DECAY_OF_LR = 0.5
"""Exponent with which the best decay falls as the rate grows: their product is what shrinks the
weights, but for SGD both count (Loshchilov and Hutter 2019, arXiv:1711.05101, figure 1)."""
POWER = 1.0
"""Of the power law by which quality nears its limit; learning curves are often given one near 1."""
SPEED = 0.5
"""Inverse of the epochs to half of the limit, at the best rate: 93 % after 27 epochs."""
SPEED_OF_LR = 0.5
"""Exponent: a low rate is slow. So early epochs favor rates above the best one, and curves cross."""
FORGETTING = 0.5
"""Of what weights from elsewhere have above a config's own limit, lost per epoch."""


@dataclass(frozen=True, slots=True)
class Curve:
    """Noise-free quality of a config over the epochs; of many configs if these are arrays."""

    limit: Any
    speed: Any

    def quality(self, epochs: float) -> Any:
        """After so many epochs from the start."""
        return self.limit * (1 - (1 + self.speed * epochs) ** -POWER)

    def next_quality(self, quality: float) -> float:
        """One epoch after `quality`, which weights from another run may have brought along."""
        if quality >= self.limit:
            return float(quality + FORGETTING * (self.limit - quality))
        epochs = ((1 - quality / self.limit) ** (-1 / POWER) - 1) / self.speed
        return float(self.quality(epochs + 1))


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """A data set, by the settings that its limit is highest for."""

    lr: float
    """At 64 images per step."""
    weight_decay: float
    images_per_step: float

    def curve(self, lr: Any, weight_decay: Any, images_per_step: Any) -> Curve:
        """How runs with these settings learn; arrays of one shape, or numbers."""
        rate = np.log10(lr / self.lr)
        away = rate + LR_OF_IMAGES * np.log10(images_per_step / NOMINAL)
        decay = np.log10(weight_decay / self.weight_decay) + DECAY_OF_LR * rate
        images = np.log2(images_per_step / self.images_per_step)
        bowl = (away / LR_WIDTH) ** 2 + (decay / DECAY_WIDTH) ** 2 + (images / IMAGES_WIDTH) ** 2
        limit = np.where(away < DIVERGES_ABOVE, BEST * np.exp(-bowl / 2), 0.0)
        return Curve(limit, SPEED * 10 ** (SPEED_OF_LR * away))

    def curve_of(self, config: TrainConfig) -> Curve:
        """How a run of this config learns."""
        optim = resolve_launch(config, world_size=WORLD_SIZE).optim
        curve = self.curve(optim.lr, optim.weight_decay, optim.images_per_step)
        return Curve(float(curve.limit), float(curve.speed))


def draw_problem(seed: int) -> Problem:
    """The optimum around the defaults, away from the edges of the default space."""
    lr, decay, images = np.random.default_rng([seed, PLACE]).uniform(-1, 1, size=3)
    return Problem(
        lr=BASE.optim.lr * 10 ** (AWAY_DECADES * lr),
        weight_decay=BASE.optim.weight_decay * 10 ** (AWAY_DECADES * decay),
        images_per_step=NOMINAL * 2**images,
    )


def best_quality(problem: Problem, epochs: int) -> float:
    """The highest quality after `epochs` in the default space: a dense grid, refined nine times."""
    *ranges, accumulate = DEFAULT_SPACE.dimensions
    ends = np.log10([dimension.extremes for dimension in ranges])  # (2 settings, low and high)
    found = 0.0
    for value in accumulate.values:
        config = apply(BASE, {accumulate.path: value})
        images = resolve_launch(config, world_size=WORLD_SIZE).optim.images_per_step
        center, half = ends.mean(axis=1), np.diff(ends)[:, 0] / 2
        for _ in range(10):
            offsets = np.linspace(-half, half, 81).T  # (2 settings, 81)
            axes = np.clip(center[:, None] + offsets, ends[:, :1], ends[:, 1:])
            lr, decay = 10 ** axes[0][:, None], 10 ** axes[1][None, :]
            quality = problem.curve(lr, decay, images).quality(epochs)
            row, column = np.unravel_index(np.argmax(quality), quality.shape)
            center, half = np.array([axes[0][row], axes[1][column]]), half / 20
            found = max(found, float(quality.max()))
    return found
