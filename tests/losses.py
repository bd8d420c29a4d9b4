"""Losses as users write them, good and bad: named by import path in tests."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

NOT_CALLABLE = 3


def scaled(outputs: Tensor, classes: Tensor, factor: float = 1.0) -> Tensor:
    return factor * functional.cross_entropy(outputs, classes)


class Scaled:
    def __init__(self, factor: float = 1.0) -> None:
        self.factor = factor

    def __call__(self, outputs: Tensor, classes: Tensor) -> Tensor:
        return scaled(outputs, classes, self.factor)


@dataclass
class Unhashable:
    """An object of it cannot be a key of a dict."""

    factor: float

    def __call__(self, outputs: Tensor, classes: Tensor) -> Tensor:
        return scaled(outputs, classes, self.factor)


THREEFOLD = Unhashable(3.0)


class Weighted(nn.Module):
    """With a tensor that is not trained."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("factor", torch.tensor(2.0))

    def forward(self, outputs: Tensor, classes: Tensor) -> Tensor:
        return scaled(outputs, classes) * self.factor


class ClassWeighted(nn.Module):
    """With a weight for each of so many classes."""

    def __init__(self, num_classes: float) -> None:
        super().__init__()
        self.register_buffer("weight", torch.arange(1.0, num_classes + 1))

    def forward(self, outputs: Tensor, classes: Tensor) -> Tensor:
        return functional.cross_entropy(outputs, classes, weight=self.weight)


def spread(outputs: Tensor, classes: Tensor, factor: float = 1.0) -> Tensor:
    """Of embeddings."""
    return factor * outputs.square().mean() + 0 * classes.sum()


spread.embedding_size = 7  # type: ignore[attr-defined]  # functions have attributes


class WrongSize:
    embedding_size = 0

    def __call__(self, outputs: Tensor, classes: Tensor) -> Tensor:
        return scaled(outputs, classes)


class Trained(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.center = nn.Parameter(torch.zeros(3))

    def forward(self, outputs: Tensor, classes: Tensor) -> Tensor:
        return scaled(outputs - self.center, classes)


class Broken:
    def __init__(self) -> None:
        raise KeyError("no such table")


def fails(outputs: Tensor, classes: Tensor) -> Tensor:
    raise RuntimeError("shapes do not fit")


def one_per_image(outputs: Tensor, classes: Tensor) -> Tensor:
    return functional.cross_entropy(outputs, classes, reduction="none")


def a_number(outputs: Tensor, classes: Tensor) -> float:
    return float(scaled(outputs.detach(), classes))


def without_gradient(outputs: Tensor, classes: Tensor) -> Tensor:
    return scaled(outputs.detach(), classes)
