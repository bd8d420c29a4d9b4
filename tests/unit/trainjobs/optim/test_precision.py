"""Which arithmetic runs where. The gradient scaler itself works on GPUs alone."""

import pytest
import torch
from torch import nn

from cluster.errors import ConfigError
from tests.builders import CPU
from tests.ranks import run_on_ranks, settle_where_one_has_no_bf16
from trainjobs.config import OptimConfig
from trainjobs.optim.optimizer import build_optimizer
from trainjobs.optim.precision import Precision, settle_precision


def test_auto_is_fp32_on_a_cpu() -> None:
    assert settle_precision("auto", CPU) == "fp32"


@pytest.mark.parametrize("asked", ["fp32", "bf16"])
def test_an_arithmetic_that_is_asked_for_is_kept_whatever_a_run_was_in_before(asked: str) -> None:
    assert settle_precision(asked, CPU, "bf16") == asked


def test_fp16_on_a_cpu_is_an_error_that_names_what_to_use() -> None:
    with pytest.raises(ConfigError, match="use bf16 or fp32"):
        settle_precision("fp16", CPU)


@pytest.mark.parametrize(
    ("before", "settled", "said"),
    [
        (None, "fp32", ""),
        ("fp32", "fp32", ""),
        ("bf16", "bf16", "goes on in bf16 as it began"),
        ("fp16", "fp32", "computed in fp16, which not every rank's device has: it goes on in fp32"),
    ],
)
def test_a_run_goes_on_in_what_it_began_if_its_device_has_that(
    before: str | None, settled: str, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    assert settle_precision("auto", CPU, before) == settled
    assert said in caplog.text
    assert bool(said) == bool(caplog.text)


def test_ranks_settle_on_what_all_of_them_have() -> None:
    assert run_on_ranks(2, settle_where_one_has_no_bf16) == ["fp32", "fp32"]


@pytest.mark.parametrize(("name", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_forwards_compute_in_the_named_arithmetic(name: str, dtype: torch.dtype) -> None:
    with Precision(name, CPU).autocast():
        assert nn.Linear(2, 2)(torch.ones(1, 2)).dtype == dtype


@pytest.mark.parametrize("finite", [True, False])
def test_weights_move_only_if_gradients_are_finite(finite: bool) -> None:
    model = nn.Linear(1, 1, bias=False)
    before = model.weight.item()
    precision, optimizer = Precision("fp32", CPU), build_optimizer(model, OptimConfig(), 64)
    precision.backward(model(torch.ones(1, 1)).sum())
    precision.unscale(optimizer)
    assert model.weight.grad.item() == 1
    precision.step(optimizer, torch.tensor(finite))
    assert (model.weight.item() != before) == finite
