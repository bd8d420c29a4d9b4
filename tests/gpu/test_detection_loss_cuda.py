"""The loss on a GPU: the CPU's value and gradient, and no wait for the device. Skips without one."""

import pytest
import torch

from tests.gpu.waiting import no_waiting
from trainjobs.config import LossConfig
from trainjobs.detector.loss import DetectionLoss
from trainjobs.detector.model import build_yolov5

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

TOLERANCE = 1e-4
"""float32 sums in another order; TF32 is off."""


def loss_and_gradients(device: str) -> tuple[torch.Tensor, list[torch.Tensor]]:
    torch.manual_seed(0)
    model = build_yolov5("yolov5n", 4).to(device)
    raw = [
        torch.randn(2, 3, s, s, 9, generator=torch.Generator().manual_seed(s)) for s in (8, 4, 2)
    ]
    leaves = [level.to(device).requires_grad_() for level in raw]
    targets = torch.tensor([[0, 1, 0.5, 0.5, 0.3, 0.4], [1, 3, 0.2, 0.7, 0.1, 0.2]], device=device)
    loss_of = DetectionLoss(model.anchors, 4, 64, LossConfig())
    loss_of(leaves, targets)  # caches what has to be copied to the device once
    with no_waiting(device):
        loss = loss_of(leaves, targets)
        loss.total.backward()
    return loss.total.detach().cpu(), [leaf.grad.cpu() for leaf in leaves if leaf.grad is not None]


def test_the_gpu_gives_the_cpus_loss_and_gradient_without_waiting() -> None:
    total, gradients = loss_and_gradients("cpu")
    cuda_total, cuda_gradients = loss_and_gradients("cuda")
    torch.testing.assert_close(cuda_total, total, rtol=TOLERANCE, atol=TOLERANCE)
    for mine, theirs in zip(cuda_gradients, gradients, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=TOLERANCE, atol=TOLERANCE)
