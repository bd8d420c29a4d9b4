"""A compact network for small images that trains fast: its first layer whitens, the others are wide.

Source: Jordan 2024, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU" (arXiv:2404.00498), sections 3.1
(whitening), 3.2 (identity initialization) and appendix A (layers). Where we differ: BatchNorm has its
scale trained and torch's momentum, and the last pooling adapts, so that any image size will do.
"""

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional

PATCH_SIDE_PX = 2
NUM_FILTERS = 3 * PATCH_SIDE_PX**2
WIDTHS = {"fastnet": (64, 256, 256), "fastnet_s": (32, 128, 128)}
"""Model name -> channels of its three blocks; the paper's, and half of them for CPUs."""

HEAD_SCALE = 1 / 9
"""Source: the paper's appendix A; keeps the first logits small."""
WHITENING_EPSILON = 5e-4
"""Added to each variance before its root is divided by, so that flat directions are not blown up."""


class Block(nn.Module):
    """Convolution, pooling, convolution; each convolution with BatchNorm and GELU."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = _conv(in_channels, out_channels)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.conv2 = _conv(out_channels, out_channels)
        self.norm2 = nn.BatchNorm2d(out_channels)

    def forward(self, images: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, H // 2, W // 2)."""
        pooled = functional.max_pool2d(self.conv1(images), 2)
        features = functional.gelu(self.norm1(pooled))
        return functional.gelu(self.norm2(self.conv2(features)))


class FastNet(nn.Module):
    """Whitening, three blocks, global pooling and a scaled linear head; for images from 16 px."""

    def __init__(self, num_outputs: int, widths: tuple[int, int, int]) -> None:
        super().__init__()
        self.whitening = nn.Conv2d(3, 2 * NUM_FILTERS, PATCH_SIDE_PX)
        # Set from data by `whiten`, or read from a weights file; only its bias is trained.
        self.whitening.weight.requires_grad_(False)
        channels = (2 * NUM_FILTERS, *widths)
        pairs = itertools.pairwise(channels)
        self.blocks = nn.Sequential(*(Block(*pair) for pair in pairs))
        self.head = nn.Linear(widths[-1], num_outputs, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W), normalized -> (B, num_outputs)."""
        features = self.blocks(functional.gelu(self.whitening(images)))
        outputs: Tensor = self.head(features.amax(dim=(2, 3))) * HEAD_SCALE
        return outputs

    @torch.no_grad()
    def whiten(self, images: Tensor) -> None:
        """Set the first layer so that its responses to these images are uncorrelated, of variance 1.

        Each filter stands twice, with either sign, as GELU passes one side of it.

        Args:
            images: (B, 3, H, W), normalized as in training; the same on every rank.
        """
        filters, offsets = whitening_filters(images)
        self.whitening.weight.copy_(torch.cat([filters, -filters]))
        assert self.whitening.bias is not None
        self.whitening.bias.copy_(torch.cat([offsets, -offsets]))


def whitening_filters(images: Tensor) -> tuple[Tensor, Tensor]:
    """Filters (12, 3, 2, 2) and offsets (12,) that whiten all 2 x 2 patches of (B, 3, H, W).

    They are the eigenvectors of the patches' covariance over the roots of its eigenvalues.
    """
    patches = functional.unfold(images.double(), PATCH_SIDE_PX)  # (B, 12, patches of an image)
    patches = patches.transpose(0, 1).flatten(1)
    mean = patches.mean(dim=1)
    centered = patches - mean[:, None]
    variances, directions = torch.linalg.eigh(centered @ centered.T / patches.shape[1])
    rows = directions.T / (variances[:, None] + WHITENING_EPSILON).sqrt()
    # An eigenvector's sign is arbitrary, and libraries differ in it.
    rows *= rows.gather(1, rows.abs().argmax(dim=1, keepdim=True)).sign()
    filters = rows.reshape(-1, 3, PATCH_SIDE_PX, PATCH_SIDE_PX)
    return filters.float(), -(rows @ mean).float()


def _conv(in_channels: int, out_channels: int) -> nn.Conv2d:
    conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
    nn.init.dirac_(conv.weight[:in_channels])  # the first channels begin as copies of the input
    return conv
