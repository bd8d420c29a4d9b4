"""The triplet loss against its formula, on embeddings that can be checked by hand."""

import math

import pytest
import torch
from torch import Tensor, nn

from trainjobs.classifier.triplet import TripletLoss

EAST, NORTH, WEST = (1.0, 0.0), (0.0, 1.0), (-1.0, 0.0)


def squared(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    lengths = [math.hypot(*vector) for vector in (one, other)]
    return sum((a / lengths[0] - b / lengths[1]) ** 2 for a, b in zip(one, other, strict=True))


def by_formula(
    vectors: list[tuple[float, ...]], classes: list[int], *, t1: float, t2: float, beta: float
) -> float:
    terms = [
        max(squared(vectors[a], vectors[p]) - squared(vectors[a], vectors[n]), t1)
        + beta * max(squared(vectors[a], vectors[p]), t2)
        for a in range(len(vectors))
        for p in range(len(vectors))
        for n in range(len(vectors))
        if a != p and classes[a] == classes[p] and classes[a] != classes[n]
    ]
    return sum(terms) / len(terms)


def loss_of(vectors: object, classes: list[int], **settings: float) -> Tensor:
    return TripletLoss(**settings)(torch.as_tensor(vectors), torch.tensor(classes))


def test_three_embeddings_by_hand() -> None:
    # (east, north | west) and (north, east | west): squares are 2 for a right angle, 4 for opposites.
    # max(2 - 4, -1) + 0.002 * 2 and max(2 - 2, -1) + 0.002 * 2.
    assert float(loss_of([EAST, NORTH, WEST], [0, 0, 1])) == pytest.approx((-0.996 + 0.004) / 2)


def test_pairs_that_are_near_and_apart_from_the_others_have_the_least_loss() -> None:
    found = loss_of([EAST, EAST, WEST, WEST], [0, 0, 1, 1])
    assert float(found) == pytest.approx(-1 + 0.002 * 0.01)


@pytest.mark.parametrize("classes", [[0, 0, 1, 1], [0, 1, 0, 2], [5, 5, 5, 3]])
@pytest.mark.parametrize("limits", [(-1.0, 0.01, 0.002), (-3.0, 1.5, 0.7)])
def test_it_is_the_mean_over_all_triplets(
    classes: list[int], limits: tuple[float, float, float]
) -> None:
    settings = dict(zip(("t1", "t2", "beta"), limits, strict=True))
    vectors = [(0.3, 2.0, 1.0), (-1.0, 0.2, 0.4), (0.5, 0.5, -2.0), (3.0, 1.0, 0.0)]
    expected = by_formula(vectors, classes, **settings)
    assert float(loss_of(vectors, classes, **settings)) == pytest.approx(expected, rel=1e-5)


def every_triplet(outputs: Tensor, classes: Tensor, *, t1: float, t2: float, beta: float) -> Tensor:
    unit = nn.functional.normalize(outputs)
    squares = 2 - 2 * unit @ unit.T
    same = classes[:, None] == classes
    pairs = same & ~torch.eye(len(classes), dtype=torch.bool)
    terms = (squares[:, :, None] - squares[:, None]).clamp(min=t1)  # anchor, positive, negative
    terms = terms + beta * squares.clamp(min=t2)[:, :, None]
    return terms[pairs[:, :, None] & ~same[:, None]].mean()


@pytest.mark.parametrize("limits", [(-1.0, 0.01, 0.002), (-0.1, 1.5, 0.7), (0.3, 0.0, 0.0)])
def test_its_gradient_is_that_of_the_formula(limits: tuple[float, float, float]) -> None:
    settings = dict(zip(("t1", "t2", "beta"), limits, strict=True))
    generator = torch.Generator().manual_seed(0)
    classes = torch.randint(4, (24,), generator=generator)
    outputs = torch.randn(24, 6, generator=generator)
    outputs[3] = outputs[2]  # equally far from all others
    found, wanted = outputs.clone().requires_grad_(), outputs.clone().requires_grad_()
    loss, expected = (
        TripletLoss(**settings)(found, classes),
        every_triplet(wanted, classes, **settings),
    )
    torch.testing.assert_close(loss, expected)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(found.grad, wanted.grad)


def test_order_length_and_names_of_classes_do_not_matter() -> None:
    generator = torch.Generator().manual_seed(0)
    outputs, classes = torch.randn(9, 5, generator=generator), torch.arange(9) % 3
    expected, order = TripletLoss()(outputs, classes), torch.randperm(9, generator=generator)
    lengths = torch.rand(9, 1, generator=generator) + 0.5
    for same, names in (
        (outputs[order], classes[order]),
        (outputs * lengths, classes),
        (outputs, 7 - classes),
    ):
        torch.testing.assert_close(TripletLoss()(same, names), expected)


@pytest.mark.parametrize("classes", [[0, 0, 0], [0, 1, 2]], ids=["no negative", "no positive"])
def test_without_a_triplet_it_is_0_with_a_gradient(classes: list[int]) -> None:
    outputs = torch.randn(3, 4, requires_grad=True)
    loss = TripletLoss()(outputs, torch.tensor(classes))
    loss.backward()
    assert float(loss.detach()) == 0 and outputs.grad is not None and not outputs.grad.any()


def test_embeddings_of_length_0_have_a_finite_gradient() -> None:
    outputs = torch.zeros(4, 3, requires_grad=True)
    TripletLoss()(outputs, torch.tensor([0, 0, 1, 1])).backward()
    assert outputs.grad is not None and outputs.grad.isfinite().all()
