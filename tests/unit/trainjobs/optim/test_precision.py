"""Which arithmetic runs where. The gradient scaler itself works on GPUs alone."""

import pytest
import torch
from torch import nn

from cluster.errors import ConfigError
from tests.builders import CPU
from trainjobs.config import OptimConfig
from trainjobs.optim.optimizer import build_optimizer
from trainjobs.optim.precision import Precision, resolve_precision


def test_auto_is_fp32_on_a_cpu() -> None:
    assert resolve_precision("auto", CPU) == "fp32"


@pytest.mark.parametrize("asked", ["fp32", "bf16"])
def test_an_arithmetic_that_a_cpu_has_is_kept(asked: str) -> None:
    assert resolve_precision(asked, CPU) == asked


def test_fp16_on_a_cpu_is_an_error_that_names_what_to_use() -> None:
    with pytest.raises(ConfigError, match="use bf16 or fp32"):
        resolve_precision("fp16", CPU)


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
