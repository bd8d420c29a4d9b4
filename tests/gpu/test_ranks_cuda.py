"""Two ranks on one GPU, over gloo, give what one rank gives; so does a run that was stopped.

NCCL refuses two ranks on a GPU; all else is as on two: DDP, its gradients, collectives of what lies on a
device, graphs. Skips without a GPU.
"""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.classifiers import write_thumbnails
from tests.ranks import run_on_ranks, train_classifier

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

CUDA = torch.device("cuda", 0)
TOLERANCE = 0.01
"""Of losses: convolutions add up in another order in each run, and momentum keeps what that changes."""


def arguments(tmp_path: Path, *, cuda_graph: bool, precision: str) -> dict[str, Any]:
    """Steps of three micro-batches, so that one rank has two of them and the other one, then of two."""
    return {
        "source": write_thumbnails(tmp_path / "data"),
        "checkpoint": tmp_path / "checkpoint",
        "device": CUDA,
        "changes": {
            "optim.cuda_graph": cuda_graph,
            "optim.precision": precision,
            "optim.images_per_step": 24,
            "augment.cutout": 0.5,
        },
    }


def assert_same_curve(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert len(found["history"]) == len(wanted["history"]) == 2
    for row, expected in zip(found["history"], wanted["history"], strict=True):
        assert row["train_loss"] == pytest.approx(expected["train_loss"], rel=TOLERANCE)
        assert row["optimizer_steps"] == expected["optimizer_steps"]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("cuda_graph", [False, True], ids=["eager", "graph"])
def test_two_ranks_give_what_one_gives(tmp_path: Path, cuda_graph: bool, precision: str) -> None:
    given = arguments(tmp_path, cuda_graph=cuda_graph, precision=precision)
    (alone,) = run_on_ranks(1, train_classifier, **given)
    both = run_on_ranks(2, train_classifier, **given)
    for rank in both:
        assert_same_curve(rank, alone)
    # What ranks agree on is equal to the last bit.
    for name, values in both[0]["tensors"].items():
        assert (values == both[1]["tensors"][name]).all(), name


@pytest.mark.parametrize("cuda_graph", [False, True], ids=["eager", "graph"])
def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(
    tmp_path: Path, cuda_graph: bool
) -> None:
    given = arguments(tmp_path, cuda_graph=cuda_graph, precision="fp32")
    (whole,) = run_on_ranks(1, train_classifier, **given)
    (stopped,) = run_on_ranks(1, train_classifier, **given, stop_after=1)
    assert stopped["outcome"] == "interrupted"
    (resumed,) = run_on_ranks(1, train_classifier, **given, resume=True)
    assert_same_curve(resumed, whole)
