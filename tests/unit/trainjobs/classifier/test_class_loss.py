"""Losses of classification: cross entropy, torch's by path, and a user's own with all its mistakes."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cluster.errors import ConfigError
from trainjobs.classifier.loss import build_loss, embedding_size
from trainjobs.config import LossConfig

SCORES = torch.tensor([[2.0, 0.0, -1.0], [0.0, 1.0, 3.0]])
CLASSES = torch.tensor([0, 1])


def loss_of(custom: str | None, smoothing: float = 0.0, **options: float) -> Tensor:
    loss = build_loss(LossConfig(custom=custom, label_smoothing=smoothing, options=options))
    return loss(SCORES, CLASSES)


def log_shares(scores: list[float]) -> list[float]:
    total = math.log(sum(math.exp(score) for score in scores))
    return [score - total for score in scores]


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.6])
def test_cross_entropy_gives_each_class_its_part_of_what_is_smoothed(smoothing: float) -> None:
    terms = []
    for scores, label in zip(SCORES.tolist(), CLASSES.tolist(), strict=True):
        shares = log_shares(scores)
        targets = [smoothing / 3 + (1 - smoothing) * (index == label) for index in range(3)]
        terms.append(-sum(t * share for t, share in zip(targets, shares, strict=True)))
    assert float(loss_of(None, smoothing)) == pytest.approx(sum(terms) / 2, rel=1e-6)


@pytest.mark.parametrize(
    "path", ["tests.losses:scaled", "tests.losses.scaled", "tests.losses:Scaled"]
)
@pytest.mark.parametrize("factor", [1.0, 2.5])
def test_a_custom_loss_is_called_with_its_options(path: str, factor: float) -> None:
    options = {} if factor == 1 else {"factor": factor}
    assert float(loss_of(path, **options)) == pytest.approx(factor * float(loss_of(None)))


def test_an_object_may_be_a_loss_hashable_or_not() -> None:
    assert float(loss_of("tests.losses:THREEFOLD")) == pytest.approx(3 * float(loss_of(None)))


def test_mse_of_torch_compares_scores_with_1_for_the_class_and_0_for_others() -> None:
    # (1 + 0 + 1 + 0 + 0 + 9) / 6
    for path in ("torch.nn.MSELoss", "torch.nn.functional:mse_loss"):
        assert float(loss_of(path)) == pytest.approx(11 / 6)


def test_hinge_embedding_of_torch_takes_softplus_of_minus_a_score_for_a_distance() -> None:
    near = [math.log1p(math.exp(-score)) for score in (2, 1)]
    apart = [math.log1p(math.exp(-score)) for score in (0, -1, 0, 3)]
    expected = (sum(near) + sum(max(0, 1 - distance) for distance in apart)) / 6
    for path in ("torch.nn:HingeEmbeddingLoss", "torch.nn.functional.hinge_embedding_loss"):
        assert float(loss_of(path)) == pytest.approx(expected, rel=1e-6)
    wider = (sum(near) + sum(max(0, 2 - distance) for distance in apart)) / 6
    assert float(loss_of("torch.nn:HingeEmbeddingLoss", margin=2.0)) == pytest.approx(wider)


def test_a_better_score_lowers_the_hinge_embedding_loss() -> None:
    loss = build_loss(LossConfig(custom="torch.nn.HingeEmbeddingLoss"))
    scores = torch.zeros(2, 3, requires_grad=True)
    loss(scores, CLASSES).backward()
    assert scores.grad is not None
    is_class = torch.eye(3, dtype=torch.bool)[CLASSES]
    assert (scores.grad[is_class] < 0).all() and (scores.grad[~is_class] > 0).all()


@pytest.mark.parametrize(
    ("path", "options", "size"),
    [
        ("tests.losses:scaled", {}, None),
        ("torch.nn.MSELoss", {}, None),
        ("tests.losses:spread", {}, 7),
        ("tests.losses:spread", {"factor": 2.0}, 7),
        ("trainjobs.classifier.triplet:TripletLoss", {}, 64),
        ("trainjobs.classifier.triplet:TripletLoss", {"embedding_size": 8.0}, 8),
    ],
)
def test_a_loss_of_embeddings_says_how_many_outputs_it_compares(
    path: str, options: dict[str, float], size: int | None
) -> None:
    assert embedding_size(build_loss(LossConfig(custom=path, options=options))) == size


TRIPLET = "trainjobs.classifier.triplet:TripletLoss"


@pytest.mark.parametrize(
    ("path", "options", "text"),
    [
        ("cross_entropy", {}, "package.module:callable"),
        ("tests.losses:", {}, "package.module:callable"),
        (":scaled", {}, "package.module:callable"),
        ("no_such_package:loss", {}, "cannot import 'no_such_package'"),
        ("tests.no_such_module:loss", {}, "cannot import 'tests.no_such_module'"),
        (".losses:scaled", {}, "cannot import '.losses'"),
        ("tests.losses:missing", {}, "tests.losses has no 'missing'"),
        ("tests.losses:NOT_CALLABLE", {}, "is a int, nothing to call"),
        ("tests.losses:scaled", {"margin": 1.0}, "loss.options do not fit .*margin"),
        ("tests.losses:Scaled", {"margin": 1.0}, "loss.options do not fit .*margin"),
        ("tests.losses:Broken", {}, "loss.options do not fit .*no such table"),
        ("tests.losses:fails", {}, "failed on 4 images of 3 classes: shapes do not fit"),
        ("tests.losses:one_per_image", {}, "must return a scalar tensor with a gradient"),
        ("tests.losses:a_number", {}, "must return a scalar tensor with a gradient"),
        ("tests.losses:without_gradient", {}, "must return a scalar tensor with a gradient"),
        ("tests.losses:Trained", {}, "has weights of its own"),
        ("tests.losses:WrongSize", {}, "embedding_size must be a whole number >= 1, got 0"),
        (TRIPLET, {"embedding_size": 0.0}, "embedding_size must be a whole number >= 1"),
        (TRIPLET, {"embedding_size": -1.0}, "embedding_size must be a whole number >= 1"),
        (TRIPLET, {"embedding_size": 2.5}, "embedding_size must be a whole number >= 1"),
    ],
)
def test_a_custom_loss_that_cannot_be_used_is_one_error_that_says_why(
    path: str, options: dict[str, float], text: str
) -> None:
    with pytest.raises(ConfigError, match=text):
        build_loss(LossConfig(custom=path, options=options), num_classes=3)


@pytest.mark.parametrize("body", ["def loss(:\n", "1 / 0\n", "import no_such_package\n", "int.x\n"])
def test_a_module_that_does_not_import_is_an_error_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str
) -> None:
    (tmp_path / "users_broken_losses.py").write_text(body)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="cannot import 'users_broken_losses'"):
        build_loss(LossConfig(custom="users_broken_losses:loss"))


def test_settings_of_the_other_kind_of_loss_are_errors() -> None:
    with pytest.raises(ConfigError, match=r"loss\.options"):
        loss_of(None, factor=2.0)
    with pytest.raises(ConfigError, match=r"loss\.label_smoothing"):
        loss_of("tests.losses:scaled", 0.1)
