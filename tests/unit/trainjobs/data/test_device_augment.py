"""The batched execution gives what the CPU's gives: boxes exactly, pixels but for their rounding."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.builders import make_orders, make_split
from tests.labeled_images import with_exif
from trainjobs.config import AugmentConfig
from trainjobs.data.augmentation.augment import execute
from trainjobs.data.augmentation.sample_plan import SamplePlan, plan_letterbox
from trainjobs.data.device import augment as device_augment
from trainjobs.data.device import nvjpeg
from trainjobs.data.device.augment import draw_batch
from trainjobs.data.device.batches import DrawnBatches, build_device_samples, draws_on_device
from trainjobs.data.device.nvjpeg import DeviceJpegs
from trainjobs.data.device.samples import pack_batch, prepare_sample
from trainjobs.data.loader import TrainingSamples, build_loader, collate
from trainjobs.data.ordering.sampler import SampleRef
from trainjobs.data.packed.schema import ImageRecord
from trainjobs.data.packed.shards import Split
from trainjobs.task import Batch

CPU = torch.device("cpu")
IMAGE_SIZE = 96
SIZES = [(60, 80), (400, 500), (150, 100), (96, 96), (37, 211), (900, 700)]
UNCOLORED = {"hsv_h": 0.0, "hsv_s": 0.0, "hsv_v": 0.0}

GEOMETRY_LEVELS = 1
"""Both interpolate in float32 and round once: a sum near a half may go either way."""
COLOR_LEVELS = 6
"""That level, times at most 1.4 (value) x 1.7 (saturation) about a maximum that may be one off too,
and a rounding each for the hue, the maximum and the distance to it."""
EDGE_FRACTION = 1e-4
"""Pixels whose center is on a tile's edge but for float32's rounding: only one of the two fills them."""
DECODER_LEVELS = 3
"""Decoded pixels averaged for libjpeg's shorter cosine transform, on smooth images of quality 95."""


def make_noise(height: int, width: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def make_waves(height: int, width: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    period = max(height, width) / rng.uniform(8, 16, (2, 3, 1, 1))
    waves = 127 + 55 * np.sin(x / period[0]) + 55 * np.cos(y / period[1])
    return waves.transpose(1, 2, 0).astype(np.uint8)


def encode(pixels: np.ndarray, kind: str) -> bytes:
    if kind == "gray":
        return cv2.imencode(".png", pixels[..., 0])[1].tobytes()
    if kind == "png":
        return cv2.imencode(".png", pixels)[1].tobytes()
    jpeg = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
    return with_exif(jpeg, 6) if kind == "turned" else jpeg


@functools.cache
def make_source(folder: Path, make: str = "noise", kinds: str = "png jpeg gray turned") -> Split:
    """A split of images of SIZES, in files of the kinds in turn, with three boxes each."""
    records, files = [], []
    for number, (height, width) in enumerate(SIZES):
        kind = kinds.split()[number % len(kinds.split())]
        stored = (width, height) if kind == "turned" else (height, width)
        pixels = {"noise": make_noise, "waves": make_waves}[make](*stored, number)
        files.append(encode(pixels, kind))
        boxes = np.random.default_rng(number).uniform(0.2, 0.5, (3, 4)).tolist()
        record = ImageRecord(
            id=str(number),
            height=height,
            width=width,
            classes=[0, 1, 2],
            boxes_cxcywh_norm=[tuple(box) for box in boxes],
        )
        records.append(record)
    place = folder / f"{make} {kinds}"
    place.mkdir()
    return make_split(place, records, files, names="abc")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("splits")


def make_samples(split: Split, augment: AugmentConfig, seed: int = 0) -> TrainingSamples:
    return TrainingSamples(
        split=split,
        orders=make_orders(len(split)),
        augment=augment,
        image_size=IMAGE_SIZE,
        seed=seed,
        epochs=100,
    )


def make_plans(split: Split, augment: AugmentConfig, seed: int = 0) -> list[SamplePlan]:
    samples = make_samples(split, augment, seed)
    return [samples.plan(SampleRef(0, position, position)) for position in range(len(split))]


def by_cpu(plans: Sequence[SamplePlan], split: Split) -> Batch:
    return collate([execute(plan, split) for plan in plans])


def by_device(plans: Sequence[SamplePlan], split: Split, jpegs: DeviceJpegs | None = None) -> Batch:
    return draw_batch(pack_batch([prepare_sample(p, split, jpegs) for p in plans], jpegs=jpegs))


def largest_difference(one: Batch, other: Batch) -> int:
    assert one["images"].shape == other["images"].shape and one["images"].dtype == torch.uint8
    assert torch.equal(one["targets"], other["targets"])
    return int((one["images"].int() - other["images"].int()).abs().max())


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"mosaic": 0.0},
        {"degrees": 30.0, "shear": 10.0},
        {"degrees": 10.0, "perspective": 0.002},
        {"scale": 0.9},
        {"scale": 0.9, "degrees": 45.0},
        {"mosaic_nine": 1.0, "mixup": 1.0},
        {"cutout": 1.0, "flip_vertical": 1.0},
    ],
    ids=str,
)
def test_noise_is_moved_alike_to_the_last_level(changes: dict[str, float], folder: Path) -> None:
    split, augment = make_source(folder), AugmentConfig(**UNCOLORED | changes)
    for seed in range(4):
        plans = make_plans(split, augment, seed)
        difference = largest_difference(by_cpu(plans, split), by_device(plans, split))
        # An average of two that are off by a level may be rounded up to two.
        assert difference <= GEOMETRY_LEVELS * (2 if augment.mixup else 1)


AUGMENTS = st.builds(
    AugmentConfig,
    mosaic=st.floats(0, 1),
    mosaic_nine=st.floats(0, 1),
    mixup=st.floats(0, 1),
    degrees=st.floats(0, 180),
    translate=st.floats(0, 0.9),
    scale=st.floats(0, 0.99),
    shear=st.sampled_from([0.0, 20.0]),
    perspective=st.sampled_from([0.0, 0.001]),
    hsv_h=st.floats(0, 0.1),
    flip_vertical=st.floats(0, 1),
    blur=st.floats(0, 0.3),
    gray=st.floats(0, 1),
    clahe=st.floats(0, 0.3),
    cutout=st.floats(0, 1),
)


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(augment=AUGMENTS, seed=st.integers(0, 2**32 - 1))
@example(  # one pixel is on an edge
    augment=AugmentConfig(
        **{"mosaic_nine": 1.0, "mixup": 1.0, "degrees": 88.1130880946663, "translate": 0.9},
        **{"scale": 0.06976233791455194, "shear": 20.0, "perspective": 0.001},
        **{"hsv_h": 0.0, "cutout": 1.0},
    ),
    seed=0,
)
@example(augment=AugmentConfig(mosaic=0.0, translate=0.75), seed=0)  # nothing shows of one sample
def test_any_sample_is_drawn_alike(augment: AugmentConfig, seed: int, folder: Path) -> None:
    split = make_source(folder)
    plans = make_plans(split, augment, seed)
    expected, found = by_cpu(plans, split), by_device(plans, split)
    assert torch.equal(expected["targets"], found["targets"])
    # Alone, a sample has no others' pixels round its own.
    alone = torch.cat([by_device([plan], split)["images"] for plan in plans])
    assert torch.equal(alone, found["images"])
    difference = (expected["images"].int() - found["images"].int()).abs().amax(dim=1)  # (B, H, W)
    assert (difference > COLOR_LEVELS).float().mean() <= EDGE_FRACTION
    # Most pixels are equal: what differs are roundings, not places.
    assert (expected["images"].float() - found["images"].float()).abs().mean() < 0.6


def test_a_batch_may_be_a_rectangle_and_no_training_sample(folder: Path) -> None:
    split = make_source(folder)
    plans = [
        plan_letterbox(n, *SIZES[n], image_size=64, out_height=64, out_width=96)
        for n in range(len(split))
    ]
    found = by_device(plans, split)
    assert found["images"].shape == (6, 3, 64, 96)
    assert largest_difference(by_cpu(plans, split), found) <= GEOMETRY_LEVELS


def test_a_large_batch_is_drawn_in_pieces(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    split = make_source(folder)
    plans = make_plans(split, AugmentConfig(mixup=0.5, cutout=1.0))
    at_once = by_device(plans, split)
    monkeypatch.setattr(device_augment, "PIECE_PX", 4 * IMAGE_SIZE**2)
    assert largest_difference(at_once, by_device(plans, split)) == 0


def test_an_image_goes_once_and_only_what_shows_of_it(folder: Path) -> None:
    split = make_source(folder)
    (plan, *_) = make_plans(split, AugmentConfig(mosaic=0.0, scale=0.0, translate=0.0))
    # 60 x 80 px, all of which shows, and what is read beyond the last pixel.
    assert len(pack_batch([prepare_sample(plan, split)] * 3)["pixels"]) == 60 * 80 + 80 + 1
    (tile,) = plan.tiles
    assert tile.crop is not None
    half = dataclasses.replace(tile, crop=(0, 0, 40, 60), window=(0, 12, 48, 84))
    halved = dataclasses.replace(plan, tiles=(half,))
    assert len(pack_batch([prepare_sample(halved, split)])["pixels"]) == 60 * 40 + 40 + 1


@pytest.mark.parametrize("changes", [{}, {"degrees": 20.0}, {"scale": 0.9, "mosaic_nine": 1.0}])
def test_jpegs_decoded_whole_and_averaged_look_like_those_decoded_reduced(
    changes: dict[str, float], folder: Path
) -> None:
    split = make_source(folder, "waves", "jpeg")
    jpegs = DeviceJpegs(split, CPU)
    plans = make_plans(split, AugmentConfig(**UNCOLORED | changes))
    assert {tile.reduce for plan in plans for tile in plan.tiles} >= {1, 4}
    found = by_device(plans, split, jpegs)
    assert largest_difference(by_cpu(plans, split), found) <= DECODER_LEVELS


def test_large_images_are_decoded_a_few_at_a_time(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = make_source(folder, "waves", "jpeg")
    plans, jpegs = make_plans(split, AugmentConfig()), DeviceJpegs(split, CPU)
    at_once = by_device(plans, split, jpegs)
    monkeypatch.setattr(nvjpeg, "MAX_WHOLE_PX", 100_000)
    assert largest_difference(at_once, by_device(plans, split, jpegs)) == 0


def test_what_the_device_does_not_decode_is_decoded_by_the_cpu(folder: Path) -> None:
    split = make_source(folder)
    plans = make_plans(split, AugmentConfig(mosaic=0.0))
    jpegs = DeviceJpegs(split, CPU)
    decoded_by = [jpegs.find(plan.tiles[0]) is not None for plan in plans]
    assert decoded_by == [False, True, False, False, False, True]  # PNG, JPEG, gray, turned, ...
    # Noise tells the two reductions of a JPEG apart; a picture that is misplaced differs by 80.
    found, expected = by_device(plans, split, jpegs), by_cpu(plans, split)
    assert torch.equal(found["targets"], expected["targets"])
    difference = (found["images"].float() - expected["images"].float()).abs().mean(dim=(1, 2, 3))
    assert difference.max() < 12


def failing_decoder(message: str) -> Callable[[list[torch.Tensor]], list[torch.Tensor]]:
    def call(files: list[torch.Tensor]) -> list[torch.Tensor]:
        raise RuntimeError(message)

    return call


def test_an_image_that_the_device_refuses_is_decoded_by_the_cpu_from_then_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    split = make_source(folder, "waves", "jpeg")
    plans, jpegs = make_plans(split, AugmentConfig(mosaic=0.0)), DeviceJpegs(split, CPU)
    expected = by_device(plans, split, jpegs)
    monkeypatch.setattr(jpegs, "_call", failing_decoder("unsupported"))
    assert largest_difference(expected, by_device(plans, split, jpegs)) == 0
    assert "image 0 is decoded on the CPU: unsupported" in caplog.text
    assert not any(jpegs.find(tile) for plan in plans for tile in plan.tiles)


def test_a_device_without_room_refuses_no_image(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = make_source(folder, "waves", "jpeg")
    plans, jpegs = make_plans(split, AugmentConfig(mosaic=0.0)), DeviceJpegs(split, CPU)
    with monkeypatch.context() as patched:
        message = "Error while decoding JPEG images: CUDA out of memory. Tried to allocate 2 GiB"
        patched.setattr(jpegs, "_call", failing_decoder(message))
        with pytest.raises(RuntimeError, match="out of memory"):
            by_device(plans, split, jpegs)
    assert all(jpegs.find(tile) for plan in plans for tile in plan.tiles)


def batches_of(split: Split, workers: int) -> list[Batch]:
    augment = AugmentConfig(mixup=0.5, degrees=5.0, blur=0.3)
    prepared = build_device_samples(make_samples(split, augment), CPU)
    references = [[SampleRef(0, p, p % 6) for p in range(at, at + 3)] for at in range(0, 12, 3)]
    loader = build_loader(
        prepared, references, workers=workers, pin_memory=False, collate=prepared.collate
    )
    return list(DrawnBatches(loader, CPU))


def test_batches_do_not_depend_on_the_number_of_threads(folder: Path) -> None:
    split = make_source(folder)
    first, second, third = (batches_of(split, workers) for workers in (0, 1, 3))
    assert len(first) == 4
    for one, *others in zip(first, second, third, strict=True):
        assert all(largest_difference(one, other) == 0 for other in others)


@pytest.mark.parametrize(
    ("execute_where", "device", "is_drawn_there"),
    [
        ("auto", "cpu", False),
        ("auto", "cuda", True),
        ("device", "cpu", True),
        ("cpu", "cuda", False),
    ],
)
def test_auto_draws_on_gpus(execute_where: str, device: str, is_drawn_there: bool) -> None:
    assert draws_on_device(execute_where, torch.device(device)) == is_drawn_there


def test_where_no_tile_shows_nothing_outside_the_pixels_is_read() -> None:
    pixels, nowhere = torch.zeros(4, 3, dtype=torch.uint8), torch.zeros(1, 1, 21)
    places, side = torch.tensor([[[-100, 2]]]), torch.arange(3.0)
    assert (device_augment._draw(pixels, nowhere, places, side, side) == device_augment.FILL).all()
