"""Classification as a task: the same training on any number of workers, and what it refuses."""

import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from cluster.config_io import replace_at
from cluster.errors import ConfigError, DatasetError
from tests.classified_images import write_folders
from tests.classifiers import (
    SIDE_PX,
    make_classification_task,
    make_classifier_config,
    write_thumbnails,
)
from tests.contexts import make_context
from tests.ranks import run_on_ranks, train_classifier
from trainjobs.classifier.task import ClassificationTask, check_classifier_config
from trainjobs.config import TrainConfig
from trainjobs.data.device.decoded_split import decoded_bytes
from trainjobs.data.generated.shapes import generate_shapes
from trainjobs.data.mixture import prepare_datasets
from trainjobs.data.ordering.sampler import RankSampler
from trainjobs.data.prepare import Addition, Prepared
from trainjobs.jobs import JOBS, prepare_data
from trainjobs.resolve import build_plan
from trainjobs.task import Batch

TOLERANCE = 1e-6
"""Relative: two ranks halve gradients and double them again, which is exact, and on one thread each
micro-batch is computed alike; what is left is the order in which an epoch's losses are summed."""
DROPS_OUT = "mobilenet_v3_small"
TRIPLET = {"loss.custom": "trainjobs.classifier.triplet:TripletLoss"}
GENERAL = {"augment.scale": 0.3}
NOT_DECODED = {"data.decoded_gib": 0.0}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_thumbnails(tmp_path_factory.mktemp("data") / "thumbnails")


def make(source: Path, changes: Mapping[str, object] | None = None) -> ClassificationTask:
    return make_classification_task(source, changes)


def batches_of(task: ClassificationTask) -> list[Batch]:
    plan = build_plan(task.config, num_images=task.orders.num_images, world_size=1)
    sampler = RankSampler(plan=plan, orders=task.orders, rank=0, epochs=task.config.epochs)
    return list(task.training_batches(sampler))


def assert_same_run(one: dict, other: dict, tolerance: float) -> None:
    assert len(one["history"]) == len(other["history"]) == 2
    for row, wanted in zip(one["history"], other["history"], strict=True):
        assert row == pytest.approx(wanted, rel=tolerance)
    assert one["tensors"].keys() == other["tensors"].keys()
    for key, tensor in one["tensors"].items():
        np.testing.assert_allclose(
            tensor, other["tensors"][key], rtol=tolerance, atol=tolerance, err_msg=key
        )


@pytest.mark.parametrize("changes", [{"seed": 0}, {"seed": 1, "model.name": DROPS_OUT}], ids=str)
def test_two_micro_batches_on_one_worker_train_as_one_on_each_of_two(
    source: Path, tmp_path: Path, changes: dict[str, object]
) -> None:
    arguments = {"source": source, "checkpoint": tmp_path, "changes": changes}
    plan = build_plan(make(source).config, num_images=40, world_size=2)
    assert [step.sizes for step in plan.steps(0)] == [(8, 8), (8, 8), (8,)]
    alone = train_classifier(0, 1, **arguments)
    both = run_on_ranks(2, train_classifier, **arguments)
    assert both[0]["history"] == both[1]["history"]
    assert_same_run(alone, both[0], TOLERANCE)


@pytest.mark.parametrize("changes", [{}, {"model.name": DROPS_OUT}], ids=str)
@pytest.mark.parametrize("stop_after", [1, 4])
def test_resume_equals_never_stopped(
    source: Path, tmp_path: Path, stop_after: int, changes: dict[str, object]
) -> None:
    changes = {"augment.alternate_flip": True, "augment.cutout": 0.5, **changes}
    arguments = {"source": source, "checkpoint": tmp_path / "checkpoint", "changes": changes}
    whole = train_classifier(0, 1, **arguments)
    stopped = train_classifier(0, 1, **arguments, stop_after=stop_after)
    assert stopped["outcome"] == "interrupted"
    assert_same_run(train_classifier(0, 1, **arguments, resume=True), whole, 0.0)


@pytest.mark.parametrize("changes", [{}, GENERAL, NOT_DECODED], ids=str)
def test_every_image_comes_once_an_epoch_with_its_class(
    source: Path, changes: dict[str, object]
) -> None:
    task = make(source, changes)
    classes = Counter(int(label) for batch in batches_of(task) for label in batch["targets"][:, 1])
    assert classes == dict.fromkeys(range(10), 2 * 4)


def test_whichever_way_pixels_are_made_a_position_has_its_class(source: Path) -> None:
    decoded, *others = (batches_of(make(source, c)) for c in ({}, GENERAL, NOT_DECODED))
    for other in others:
        for one, two in zip(decoded, other, strict=True):
            assert torch.equal(one["targets"], two["targets"])
            assert one["images"].shape == two["images"].shape


def test_without_augmentation_decoded_images_are_those_decoded_each_time(source: Path) -> None:
    plain = {"augment.translate": 0.0, "augment.flip_horizontal": 0.0}
    found = [batches_of(make(source, {**plain, **changes})) for changes in ({}, NOT_DECODED)]
    for one, two in zip(*found, strict=True):
        assert torch.equal(one["images"], two["images"])


def test_what_decoded_images_are_not_used_for_is_not_decoded(source: Path, tmp_path: Path) -> None:
    config = make_classifier_config({"data.source": str(source), **GENERAL})
    data = prepare_datasets(config.data, source.parent / "cache", seed=0)
    ClassificationTask(config, data, make_context(tmp_path)).training_batches([])
    assert not list(tmp_path.iterdir())


def test_images_that_are_trained_on_beside_have_the_first_datasets_classes(
    source: Path, tmp_path: Path
) -> None:
    other = write_folders(tmp_path / "other", {"train": ["star", "bar"], "val": ["star", "bar"]})
    task = make(source, {"data.also": [f"{other}#2"]})
    classes = Counter(
        task.names[int(label)] for batch in batches_of(task) for label in batch["targets"][:, 1]
    )
    assert classes["star"] == classes["bar"] == 2 * (4 + 2 * 2) and classes["ring"] == 2 * 4


def test_the_validation_split_is_decoded_once_whatever_is_trained_on_beside(
    source: Path, tmp_path: Path
) -> None:
    other = write_folders(tmp_path / "other", {"train": ["star"], "val": ["star"]})
    shutil.copytree(source, tmp_path / "first")
    for also in ([], [str(other)]):
        task = make(tmp_path / "first", {"data.also": also})
        batches_of(task)
        task.evaluate(task.build_model())
    # Of two mixtures and of one validation split.
    assert len(list(tmp_path.glob("cache/prepared/decoded-*px"))) == 3


@pytest.mark.parametrize("changes", [{}, TRIPLET, {"model.name": "resnet18"}], ids=str)
def test_the_dummys_loss_gives_every_weight_a_gradient_of_0(
    source: Path, changes: dict[str, object]
) -> None:
    task = make(source, changes)
    model, dummy = task.build_model().train(), task.dummy_batch()
    loss = task.compute_loss(model, dummy["images"], dummy["targets"])
    loss.total.backward()
    assert len(loss.parts) == len(task.loss_names + task.figure_names) and not loss.parts.any()
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    assert all(weight.grad is not None and not weight.grad.any() for weight in trained)


def test_the_loss_is_a_mean_over_images_of_which_each_step_takes_as_many_as_lr_is_for(
    source: Path,
) -> None:
    task = make(source, {"optim.nominal_batch_size": 4})
    model = task.build_model().train()
    batch = batches_of(task)[0]
    loss = task.compute_loss(model, batch["images"], batch["targets"])
    assert float(loss.total.detach()) == pytest.approx(float(loss.parts[0]) / 4)
    assert task.figure_names == ("top1",) and 0 <= float(loss.parts[1]) <= 1


def test_a_loss_is_computed_in_float32_also_where_the_network_is_not(source: Path) -> None:
    task = make(source, TRIPLET)
    batch = batches_of(task)[0]

    class Fixed(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            angles = torch.linspace(0, 0.1, len(images))[:, None]
            return torch.cat([angles.cos(), angles.sin()], dim=1).requires_grad_()

    expected = task.compute_loss(Fixed(), batch["images"], batch["targets"]).parts
    with torch.autocast("cpu", torch.bfloat16):
        found = task.compute_loss(Fixed(), batch["images"], batch["targets"]).parts
    assert torch.equal(found, expected)


def test_a_losss_constants_lie_where_the_model_is(source: Path, tmp_path: Path) -> None:
    config = make_classifier_config(
        {"data.source": str(source), "loss.custom": "tests.losses:Weighted"}
    )
    data = prepare_datasets(config.data, source.parent / "cache", seed=0)
    task = ClassificationTask(config, data, make_context(tmp_path, device=torch.device("meta")))
    assert isinstance(task._loss, nn.Module)
    assert all(buffer.device.type == "meta" for buffer in task._loss.buffers())


def test_a_new_network_is_the_same_for_every_rank_and_another_for_another_seed(
    source: Path,
) -> None:
    def first(seed: int, rank: int) -> torch.Tensor:
        task = make_classification_task(source, {"seed": seed}, rank=rank, world_size=2)
        return torch.cat([weight.flatten() for weight in task.build_model().parameters()])

    assert torch.equal(first(0, rank=0), first(0, rank=1))
    assert not torch.equal(first(0, rank=0), first(1, rank=0))


def test_batch_statistics_are_measured_besides_and_change_nothing(source: Path) -> None:
    found = []
    for changes in ({}, {"eval.batch_statistics": True}):
        task = make(source, changes)
        found.append(dict(task.evaluate(task.build_model())))
    assert set(found[1]) - set(found[0]) == {"top1_batch_statistics"}
    assert found[0].items() <= found[1].items()


def test_embeddings_are_measured_by_their_neighbors(source: Path, tmp_path: Path) -> None:
    task = make(source, {**TRIPLET, "loss.options": {"embedding_size": 8.0}})
    assert task.figure_names == ()
    model = task.build_model()
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 8)
    metrics = task.evaluate(model)
    assert metrics["recall_at_1"] == metrics["top1"] <= metrics["top5"]
    task.draw_plots(tmp_path)
    assert (tmp_path / "confusion.png").is_file()


@pytest.mark.parametrize("name", ["scale", "degrees", "hsv_h", "flip_vertical"])
def test_alternating_flips_do_not_go_with_what_decoded_images_are_not_for(name: str) -> None:
    config = make_classifier_config({"augment.alternate_flip": True, f"augment.{name}": 0.3})
    with pytest.raises(ConfigError, match=rf"augment\.alternate_flip: .*augment\.{name}"):
        check_classifier_config(config)


def test_alternating_flips_need_images_that_are_decoded(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRAINJOBS_CACHE", str(tmp_path))
    flips = {"data.source": str(source), "augment.alternate_flip": True}
    images = decoded_bytes(40, SIDE_PX) / 2**30
    prepare_data(make_classifier_config({**flips, "data.decoded_gib": images}), JOBS["classify"])
    few = make_classifier_config({**flips, "data.decoded_gib": 0.9 * images})
    with pytest.raises(ConfigError, match=r"augment\.alternate_flip: .*data\.decoded_gib"):
        prepare_data(few, JOBS["classify"])


@pytest.mark.parametrize(
    ("job", "config", "path", "value"),
    [
        ("yolo", TrainConfig(), "model.stem", "small"),
        ("yolo", TrainConfig(), "loss.custom", "tests.losses:scaled"),
        ("classify", make_classifier_config(), "augment.mosaic", 0.5),
        ("classify", make_classifier_config(), "data.rect", True),
        ("classify", make_classifier_config(), "eval.nms_iou", 0.5),
    ],
)
def test_a_job_refuses_what_is_the_other_jobs(
    job: str, config: TrainConfig, path: str, value: object
) -> None:
    JOBS[job].check_config(config)
    with pytest.raises(ConfigError, match=rf"{path} has no meaning for trainjobs\.{job}"):
        JOBS[job].check_config(replace_at(config, path, value))


def test_a_dataset_for_detection_is_refused_also_beside_one_of_classes(
    source: Path, tmp_path: Path
) -> None:
    boxes = tmp_path / "boxes"
    boxes.mkdir()
    generate_shapes(boxes, num_train=6, num_val=4, image_size=64, seed=0)

    def prepare(path: Path) -> Prepared:
        config = make_classifier_config({"data.source": str(path)})
        return prepare_datasets(config.data, tmp_path / "cache", seed=0)

    classes, detection = prepare(source), prepare(boxes)
    JOBS["yolo"].check_data(detection, "main")
    JOBS["classify"].check_data(classes, "main")
    beside = Addition(source="boxes", weight=1.0, data=detection)
    for refused, name in ((detection, "main"), (replace(classes, also=(beside,)), "boxes")):
        with pytest.raises(DatasetError, match=rf"{name}: .*one class per image.*for detection"):
            JOBS["classify"].check_data(refused, "main")
