"""What a network is given, and what a trained classifier answers."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class Normalization:
    """What a network's input is made of: (image / 255 - mean) / std."""

    def __init__(self, mean: Sequence[float], std: Sequence[float], device: torch.device) -> None:
        """Of red, green and blue in [0, 1]; on the device that images are on."""
        mean_rgb, std_rgb = (torch.tensor(values)[:, None, None] for values in (mean, std))
        self._factors = (1 / (255 * std_rgb)).to(device)
        self._offsets = (-mean_rgb / std_rgb).to(device)

    def __call__(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 -> float32, channels last."""
        scaled = images.to(memory_format=torch.channels_last).float()
        return torch.addcmul(self._offsets, scaled, self._factors)


@torch.inference_mode()
def class_outputs(
    model: nn.Module, normalize: Normalization, images: Tensor, *, flip: bool = False
) -> Tensor:
    """(B, 3, S, S) uint8 -> (B, C) float32.

    Args:
        model: In the mode in which it is to answer.
        normalize: That it was trained with.
        images: On its device.
        flip: The mean of the answers to them and to the mirrored images.
    """
    inputs = normalize(images)
    outputs: Tensor = model(inputs)
    if flip:
        outputs = (outputs + model(inputs.flip(3))) / 2
    return outputs.float()


@contextmanager
def batch_statistics(model: nn.Module) -> Iterator[None]:
    """BatchNorm normalizes by each batch's own statistics here, and its running ones do not move.

    That is what a network does that was not set to evaluation.
    """
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    before = [(norm.training, norm.track_running_stats) for norm in norms]
    for norm in norms:
        norm.training, norm.track_running_stats = True, False
    try:
        yield
    finally:
        for norm, modes in zip(norms, before, strict=True):
            norm.training, norm.track_running_stats = modes
