"""YOLOv5 v6 networks: the published layer tables, sizes n s m l x, with P5 or P6 heads.

`state_dict` keys, parameter counts and the order of output channels equal the published models'.
"""

import difflib
import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from cluster.errors import ConfigError
from trainjobs.detector.blocks import C3, SPPF, Concat, Conv

# (depth, width): factors on the repeats and on the channels of the tables below.
_SIZES = {
    "n": (0.33, 0.25),
    "s": (0.33, 0.50),
    "m": (0.67, 0.75),
    "l": (1.0, 1.0),
    "x": (1.33, 1.25),
}
MODEL_NAMES: tuple[str, ...] = tuple(f"yolov5{size}{head}" for head in ("", "6") for size in _SIZES)

# Anchor boxes (width, height) in px, per level from fine to coarse: k-means on COCO, as published.
_ANCHORS_P5_PX = (
    ((10, 13), (16, 30), (33, 23)),
    ((30, 61), (62, 45), (59, 119)),
    ((116, 90), (156, 198), (373, 326)),
)
_ANCHORS_P6_PX = (
    ((19, 27), (44, 40), (38, 94)),
    ((96, 68), (86, 152), (180, 137)),
    ((140, 301), (303, 264), (238, 542)),
    ((436, 615), (739, 380), (925, 792)),
)
_FINEST_STRIDE = 8


class _Layer(NamedTuple):
    """One row of a layer table, before depth and width are applied."""

    kind: Literal["conv", "c3", "sppf", "upsample", "concat"]
    channels: int = 0
    repeats: int = 1
    kernel: int = 1
    stride: int = 1
    shortcut: bool = True
    joined: int = -1
    """Layer whose output a concat appends to that of the layer before."""


def _down(channels: int, *, kernel: int = 3) -> _Layer:
    return _Layer("conv", channels, kernel=kernel, stride=2)


def _narrow(channels: int) -> _Layer:
    return _Layer("conv", channels)


def _c3(channels: int, repeats: int = 3, *, shortcut: bool = False) -> _Layer:
    return _Layer("c3", channels, repeats=repeats, shortcut=shortcut)


def _cat(joined: int) -> _Layer:
    return _Layer("concat", joined=joined)


_UP = _Layer("upsample")

_STEM_TO_P4 = (
    *(_down(64, kernel=6), _down(128), _c3(128, 3, shortcut=True)),
    *(_down(256), _c3(256, 6, shortcut=True), _down(512), _c3(512, 9, shortcut=True)),
)
_LAYERS_P5 = (
    *_STEM_TO_P4,
    *(_down(1024), _c3(1024, shortcut=True), _Layer("sppf", 1024)),
    *(_narrow(512), _UP, _cat(6), _c3(512), _narrow(256), _UP, _cat(4), _c3(256)),
    *(_down(256), _cat(14), _c3(512), _down(512), _cat(10), _c3(1024)),
)
_LAYERS_P6 = (
    *_STEM_TO_P4,
    *(_down(768), _c3(768, shortcut=True), _down(1024), _c3(1024, shortcut=True)),
    _Layer("sppf", 1024),
    *(_narrow(768), _UP, _cat(8), _c3(768), _narrow(512), _UP, _cat(6), _c3(512)),
    *(_narrow(256), _UP, _cat(4), _c3(256), _down(256), _cat(20), _c3(512)),
    *(_down(512), _cat(16), _c3(768), _down(768), _cat(12), _c3(1024)),
)
_DETECT_FROM_P5 = (17, 20, 23)
_DETECT_FROM_P6 = (23, 26, 29, 32)


class Detect(nn.Module):
    """One 1x1 convolution per level: x, y, w, h, objectness and classes of every anchor."""

    anchors: Tensor

    def __init__(
        self,
        in_channels: Sequence[int],
        num_classes: int,
        *,
        anchors_px: Sequence[Sequence[tuple[int, int]]],
        strides: Sequence[int],
    ) -> None:
        super().__init__()
        self.num_outputs = 5 + num_classes
        self.num_anchors = len(anchors_px[0])
        anchors = torch.tensor(anchors_px, dtype=torch.float32)
        stride = torch.tensor(strides, dtype=torch.float32)
        self.register_buffer("anchors", anchors / stride[:, None, None])  # (L, num_anchors, 2)
        width = self.num_anchors * self.num_outputs
        self.m = nn.ModuleList(nn.Conv2d(channels, width, 1) for channels in in_channels)
        self._add_prior(strides)

    @torch.no_grad()
    def _add_prior(self, strides: Sequence[int]) -> None:
        """Start from rare objects: 8 per 640 px image and level, 0.6 of them in some class.

        Source: Lin et al. 2017, "Focal Loss", section 3.3 (arXiv:1708.02002); YOLOv5's figures.
        """
        num_classes = self.num_outputs - 5
        for conv, stride in zip(self.m, strides, strict=True):
            assert isinstance(conv, nn.Conv2d) and conv.bias is not None
            bias = conv.bias.view(self.num_anchors, self.num_outputs)
            bias[:, 4] += math.log(8 / (640 / stride) ** 2)
            bias[:, 5:] += math.log(0.6 / (num_classes - 0.99999))

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Raw maps (B, num_anchors, ny, nx, 5 + C), views of the convolutions' outputs."""
        maps = []
        for conv, level in zip(self.m, features, strict=True):
            out: Tensor = conv(level)
            split = out.view(len(out), self.num_anchors, self.num_outputs, *out.shape[2:])
            maps.append(split.permute(0, 1, 3, 4, 2))
        return maps


class YOLOv5(nn.Module):
    """A YOLOv5 detector. Build it with `build_yolov5`.

    Attributes:
        name: One of MODEL_NAMES.
        num_classes: Classes it tells apart.
        num_anchors: Anchors per level.
        strides: Px per grid cell of each level, from fine to coarse.
    """

    def __init__(self, name: str, num_classes: int) -> None:
        super().__init__()
        is_p6 = name.endswith("6")
        depth, width = _SIZES[name.removeprefix("yolov5").removesuffix("6")]
        table = _LAYERS_P6 if is_p6 else _LAYERS_P5
        anchors_px = _ANCHORS_P6_PX if is_p6 else _ANCHORS_P5_PX
        self.name, self.num_classes = name, num_classes
        self.num_anchors = len(anchors_px[0])
        self.strides = tuple(_FINEST_STRIDE * 2**level for level in range(len(anchors_px)))

        layers: list[nn.Module] = []
        channels: list[int] = []  # of each layer's output
        for row in table:
            before = channels[-1] if channels else 3
            layer, out_channels = _build_layer(row, before, channels, depth=depth, width=width)
            layers.append(layer)
            channels.append(out_channels)
        self._joined = tuple(row.joined for row in table)
        self._detect_from = _DETECT_FROM_P6 if is_p6 else _DETECT_FROM_P5
        self._kept = {*self._joined, *self._detect_from}
        detect_channels = [channels[index] for index in self._detect_from]
        detect = Detect(detect_channels, num_classes, anchors_px=anchors_px, strides=self.strides)
        self.model = nn.ModuleList([*layers, detect])

    @property
    def anchors(self) -> Tensor:
        """(L, num_anchors, 2) anchor widths and heights in grid cells of their level."""
        detect = self.model[-1]
        assert isinstance(detect, Detect)
        return detect.anchors

    def forward(self, images: Tensor) -> list[Tensor]:
        """Predict, the same way in training and evaluation mode.

        Args:
            images: (B, 3, H, W) float, H and W multiples of the largest stride.

        Returns:
            Per level (B, num_anchors, H / stride, W / stride, 5 + C) raw outputs, in the order
            x, y, w, h, objectness, classes; views without a copy, so rarely contiguous.
        """
        kept: dict[int, Tensor] = {}
        features = images
        *layers, detect = self.model
        for index, (layer, joined) in enumerate(zip(layers, self._joined, strict=True)):
            features = layer(features) if joined < 0 else layer((features, kept[joined]))
            if index in self._kept:
                kept[index] = features
        maps: list[Tensor] = detect([kept[index] for index in self._detect_from])
        return maps


def build_yolov5(name: str, num_classes: int) -> YOLOv5:
    """Build a YOLOv5 with random weights, drawn from torch's global generator.

    Args:
        name: One of MODEL_NAMES.
        num_classes: Classes to tell apart, at least 1.

    Raises:
        ConfigError: No model has this name, or there is no class.
    """
    check_model_name(name)
    if num_classes < 1:
        raise ConfigError(f"a model needs at least 1 class, got {num_classes}")
    return YOLOv5(name, num_classes)


def check_model_name(name: str) -> None:
    """Raise ConfigError, with the valid names and the closest one, unless the name is known."""
    if name in MODEL_NAMES:
        return
    close = difflib.get_close_matches(name.lower(), MODEL_NAMES, n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    raise ConfigError(f"model.name must be one of {', '.join(MODEL_NAMES)}, got {name!r}{hint}")


def check_image_size(name: str, image_size: int) -> None:
    """Raise ConfigError for an unknown model, or a size that is no multiple of its largest stride."""
    stride = max_stride(name)
    if image_size % stride:
        nearest = max(stride, round(image_size / stride) * stride)
        raise ConfigError(
            f"data.image_size must be a multiple of {stride} (the largest stride of {name}), "
            f"got {image_size}; the nearest is {nearest}"
        )


def max_stride(name: str) -> int:
    """Largest stride of a model in px: sides of its input images are multiples of it.

    Raises:
        ConfigError: No model has this name.
    """
    check_model_name(name)
    levels = len(_ANCHORS_P6_PX) if name.endswith("6") else len(_ANCHORS_P5_PX)
    return int(_FINEST_STRIDE * 2 ** (levels - 1))


def _build_layer(
    row: _Layer, before: int, channels: Sequence[int], *, depth: float, width: float
) -> tuple[nn.Module, int]:
    """The module of a table row and its number of output channels."""
    # Channels are rounded up to a multiple of 8, as published.
    out_channels = math.ceil(row.channels * width / 8) * 8
    match row.kind:
        case "conv":
            conv = Conv(before, out_channels, kernel=row.kernel, stride=row.stride)
            return conv, out_channels
        case "c3":
            repeats = max(round(row.repeats * depth), 1)
            c3 = C3(before, out_channels, repeats=repeats, shortcut=row.shortcut)
            return c3, out_channels
        case "sppf":
            return SPPF(before, out_channels), out_channels
        case "upsample":
            return nn.Upsample(scale_factor=2, mode="nearest"), before
        case "concat":
            return Concat(), before + channels[row.joined]
