"""Training batches drawn on the device, beside the one that is trained on."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from trainjobs.data.device.augment import draw_batch
from trainjobs.data.device.nvjpeg import DeviceJpegs, open_stream
from trainjobs.data.device.samples import PreparedSample, pack_batch, prepare_sample
from trainjobs.data.loader import TrainingSamples
from trainjobs.task import Batch


@dataclass(frozen=True, kw_only=True)
class DeviceSamples:
    """Training samples up to what the device does; threads of a loader share it."""

    samples: TrainingSamples
    jpegs: DeviceJpegs | None
    """Decodes JPEGs on the device. None: they are decoded here."""

    def name(self, ref: Any) -> str:
        """What the image is called."""
        return self.samples.name(ref)

    def __getitem__(self, ref: Any) -> PreparedSample:
        """The planned sample with what it needs."""
        sample = prepare_sample(self.samples.plan(ref), self.samples.source, self.jpegs)
        return replace(sample, labels=self.samples.targets(ref, sample.labels))

    def collate(self, samples: list[PreparedSample]) -> Batch:
        """Samples of one shape -> a packed batch."""
        return pack_batch(samples, jpegs=self.jpegs)


def draws_on_device(execute: str, device: torch.device) -> bool:
    """Whether `augment.execute` asks for it on this rank's device."""
    return execute == "device" or (execute == "auto" and device.type == "cuda")


def build_device_samples(samples: TrainingSamples, device: torch.device) -> DeviceSamples:
    """What a loader makes batches of for `device`; a GPU decodes JPEGs itself."""
    jpegs = DeviceJpegs(samples.split, device) if device.type == "cuda" else None
    return DeviceSamples(samples=samples, jpegs=jpegs)


class DrawnBatches:
    """Packed batches that are on their device -> images.

    On a GPU, a batch is drawn on a stream of its own: the one before was queued to be trained on, and
    need not be done.
    """

    def __init__(self, packed: Iterable[Batch], device: torch.device) -> None:
        self._packed, self._device = packed, device

    def __iter__(self) -> Iterator[Batch]:
        """Yield `images` (B, 3, H, W) uint8 and `targets`."""
        if self._device.type != "cuda":
            yield from map(draw_batch, self._packed)
            return
        stream = open_stream(self._device)
        packed = iter(self._packed)
        while True:
            # Who moves batches makes the stream wait for them that is current when they are asked for.
            with torch.cuda.stream(stream):
                batch = next(packed, None)
                drawn = None if batch is None else draw_batch(batch)
            if drawn is None:
                return
            training = torch.cuda.current_stream(self._device)
            training.wait_stream(stream)
            for tensor in drawn.values():
                # Its memory goes back to the other stream, not before training is done with it.
                tensor.record_stream(training)
            yield drawn
