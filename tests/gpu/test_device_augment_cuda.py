"""Training batches drawn on a GPU: what the CPU draws, without a wait for the device. Skips without one."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from tests.builders import make_orders, make_split
from tests.contexts import MovedBatches
from tests.gpu.waiting import no_waiting
from trainjobs.config import AugmentConfig
from trainjobs.data.augmentation.augment import execute
from trainjobs.data.device.augment import draw_batch
from trainjobs.data.device.batches import DrawnBatches, build_device_samples
from trainjobs.data.device.nvjpeg import DeviceJpegs
from trainjobs.data.device.samples import pack_batch, prepare_sample
from trainjobs.data.loader import TrainingSamples, build_loader, collate
from trainjobs.data.ordering.sampler import SampleRef
from trainjobs.data.packed.schema import ImageRecord
from trainjobs.data.packed.shards import Split
from trainjobs.task import Batch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

SAME_PASS_LEVELS = 2
"""The same float32 arithmetic in another order: one rounding for the pixels, one for their colors."""
DECODER_LEVELS = 4.0
"""Largest mean difference on smooth color JPEGs: nvJPEG's chroma upsampling and cosine transform are not
libjpeg's. A picture that is moved by a px differs by 3 on average, one that is elsewhere by 60."""


SLEEP_CYCLES = 20_000_000
"""About 10 ms."""


def make_source(folder: Path, count: int = 8) -> Split:
    """Smooth JPEGs of several sizes, one of them gray."""
    records, files = [], []
    for number in range(count):
        height, width = 240 + 40 * number, 500 - 30 * number
        y, x = np.mgrid[:height, :width]
        channels = [127 + 55 * np.sin(x / (20 + 5 * c)) + 55 * np.cos(y / 25) for c in range(3)]
        pixels = np.stack(channels, axis=2).astype(np.uint8)
        stored = pixels[..., 0] if number == 0 else pixels
        files.append(cv2.imencode(".jpg", stored, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes())
        record = ImageRecord(
            id=str(number),
            height=height,
            width=width,
            classes=[0],
            boxes_cxcywh_norm=[(0.5, 0.5, 0.5, 0.5)],
        )
        records.append(record)
    return make_split(folder, records, files)


def make_samples(split: Split) -> TrainingSamples:
    augment = AugmentConfig(degrees=10, mixup=0.5, cutout=0.5, blur=0.2)
    orders = make_orders(len(split))
    return TrainingSamples(
        split=split, orders=orders, augment=augment, image_size=128, seed=0, epochs=100
    )


def largest_difference(one: Batch, other: Batch) -> int:
    assert torch.equal(one["targets"].cpu(), other["targets"].cpu())
    return int((one["images"].cpu().int() - other["images"].cpu().int()).abs().max())


def test_the_gpu_draws_what_the_cpu_draws_without_waiting(tmp_path: Path) -> None:
    split = make_source(tmp_path)
    samples = make_samples(split)
    plans = [samples.plan(SampleRef(0, p, p)) for p in range(8)]
    packed = pack_batch([prepare_sample(plan, split) for plan in plans])
    moved = {name: tensor.cuda() for name, tensor in packed.items()}
    with no_waiting():
        drawn = draw_batch(moved)
    assert largest_difference(draw_batch(packed), drawn) <= SAME_PASS_LEVELS


def test_nvjpeg_decodes_what_the_cpu_decodes(tmp_path: Path) -> None:
    split = make_source(tmp_path)
    samples = make_samples(split)
    plans = [samples.plan(SampleRef(0, p, p)) for p in range(8)]
    jpegs = DeviceJpegs(split, torch.device("cuda", 0))
    assert all(jpegs.find(tile) for plan in plans for tile in plan.tiles)
    packed = pack_batch([prepare_sample(plan, split, jpegs) for plan in plans], jpegs=jpegs)
    assert packed["decoded"].is_cuda
    drawn = draw_batch({name: tensor.cuda() for name, tensor in packed.items()})
    expected = collate([execute(plan, split) for plan in plans])
    assert torch.equal(drawn["targets"].cpu(), expected["targets"])
    difference = drawn["images"].cpu().float() - expected["images"].float()
    assert difference.abs().mean(dim=(1, 2, 3)).max() < DECODER_LEVELS


@pytest.mark.parametrize("late", ["training", "drawing"])
def test_batches_come_in_order_and_whole_whichever_stream_is_late(
    tmp_path: Path, late: str
) -> None:
    device = torch.device("cuda", 0)
    torch.cuda.set_device(device)
    split = make_source(tmp_path)
    prepared = build_device_samples(make_samples(split), device)
    references = [[SampleRef(0, p % 8, p % 8) for p in range(at, at + 4)] for at in range(0, 80, 4)]

    def batches(*, late: bool) -> DrawnBatches:
        loader = build_loader(
            prepared, references, workers=3, pin_memory=True, collate=prepared.collate
        )
        moved: Iterable[Batch] = MovedBatches(loader, device)
        return DrawnBatches(_after_a_sleep(moved) if late else moved, device)

    calm = []
    for batch in batches(late=False):
        torch.cuda.synchronize()
        calm.append({name: tensor.clone() for name, tensor in batch.items()})
        torch.cuda.synchronize()
    busy = []
    for batch in batches(late=late == "drawing"):
        if late == "training":
            torch.cuda._sleep(SLEEP_CYCLES)
        busy.append({name: tensor.clone() for name, tensor in batch.items()})
    assert len(calm) == len(busy) == 20
    for one, other in zip(calm, busy, strict=True):
        assert largest_difference(one, other) == 0


def _after_a_sleep(batches: Iterable[Batch]) -> Iterator[Batch]:
    """The batches; the stream that asks for them is busy for a while with each."""
    for batch in batches:
        torch.cuda._sleep(SLEEP_CYCLES)
        yield batch
