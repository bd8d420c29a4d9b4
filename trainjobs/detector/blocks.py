"""Layers of YOLOv5. Names of submodules follow the published checkpoints, so that keys match.

Every layer keeps the memory format of its input, channels_last included.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

# YOLOv5's BatchNorm; PyTorch's defaults are 1e-5 and 0.1.
BATCH_NORM_EPS = 1e-3
BATCH_NORM_MOMENTUM = 0.03


class Conv(nn.Module):
    """Convolution without bias, BatchNorm, SiLU. An odd kernel with stride 1 keeps H and W."""

    def __init__(
        self, in_channels: int, out_channels: int, *, kernel: int = 1, stride: int = 1
    ) -> None:
        super().__init__()
        # kernel // 2 for odd kernels, and 2 for the stem's kernel of 6.
        padding = (kernel - 1) // 2
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(out_channels, eps=BATCH_NORM_EPS, momentum=BATCH_NORM_MOMENTUM)

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, in_channels, H, W) to (B, out_channels, H / stride, W / stride)."""
        out: Tensor = self.bn(self.conv(features))
        # SiLU's gradient needs its input: in place, autograd would copy it first.
        return functional.silu(out, inplace=not out.requires_grad)


class Bottleneck(nn.Module):
    """1x1 then 3x3 convolution of equal width, with a residual if `shortcut`."""

    def __init__(self, channels: int, *, shortcut: bool) -> None:
        super().__init__()
        self.cv1 = Conv(channels, channels)
        self.cv2 = Conv(channels, channels, kernel=3)
        self.shortcut = shortcut

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, channels, H, W) to the same shape."""
        out: Tensor = self.cv2(self.cv1(features))
        # In place: SiLU's output is not needed again.
        return out.add_(features) if self.shortcut else out


class C3(nn.Module):
    """Cross-stage partial block: half the channels pass the bottlenecks, half go around.

    Source: Wang et al. 2019, "CSPNet" (arXiv:1911.11929), with three convolutions as in YOLOv5.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, repeats: int, shortcut: bool
    ) -> None:
        super().__init__()
        hidden = out_channels // 2
        self.cv1 = Conv(in_channels, hidden)
        self.cv2 = Conv(in_channels, hidden)
        self.cv3 = Conv(2 * hidden, out_channels)
        self.m = nn.Sequential(*(Bottleneck(hidden, shortcut=shortcut) for _ in range(repeats)))

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, in_channels, H, W) to (B, out_channels, H, W)."""
        deep, flat = self.m(self.cv1(features)), self.cv2(features)
        out: Tensor = self.cv3(torch.cat((deep, flat), dim=1))
        return out


class SPPF(nn.Module):
    """Spatial pyramid pooling: chained 5x5 max-pools see windows of 5, 9 and 13 cells.

    Source: He et al. 2014, "Spatial Pyramid Pooling" (arXiv:1406.4729); the chain is YOLOv5's.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        hidden = in_channels // 2
        self.cv1 = Conv(in_channels, hidden)
        self.cv2 = Conv(4 * hidden, out_channels)
        self.m = nn.MaxPool2d(kernel_size=5, stride=1, padding=2)

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, in_channels, H, W) to (B, out_channels, H, W)."""
        pooled = [self.cv1(features)]
        for _ in range(3):
            pooled.append(self.m(pooled[-1]))
        out: Tensor = self.cv2(torch.cat(pooled, dim=1))
        return out


class Concat(nn.Module):
    """Joins feature maps of one size along the channels."""

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Map maps (B, *, H, W) to one (B, sum of channels, H, W)."""
        return torch.cat(tuple(features), dim=1)
