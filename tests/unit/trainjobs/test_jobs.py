"""What is held against a run's settings before it has ranks: its classes, its network, its weights."""

import shutil
from pathlib import Path

import pytest
import torch

from cluster.errors import CheckpointError, ConfigError, DatasetError
from tests.builders import CPU, make_config
from tests.classified_images import write_folders
from tests.classifiers import make_classification_task, make_classifier_config, write_thumbnails
from trainjobs.checkpoint import save_weights
from trainjobs.classifier.measure import build_from
from trainjobs.classifier.models import build_classifier
from trainjobs.classifier.task import check_classifier_config
from trainjobs.config import TrainConfig
from trainjobs.detector.model import build_yolov5
from trainjobs.jobs import JOBS, check_network, check_weights, prepare_data
from trainjobs.preview import activation_bytes
from trainjobs.weights_file import read_weights

CLASSES = 3


def make_run(job: str, model: str, **changes: object) -> TrainConfig:
    make = {"yolo": make_config, "classify": make_classifier_config}[job]
    return make({"model.name": model, **changes})


@pytest.mark.parametrize(
    ("job", "model"),
    [
        ("yolo", "yolov5n"),
        ("yolo", "yolov5n6"),
        ("classify", "fastnet"),
        ("classify", "resnet18"),
        ("classify", "regnet_x_400mf"),  # computes its widths with tensors, which must have values
        ("classify", "vit_b_32"),
        ("classify", "efficientnet_b0"),
    ],
)
def test_a_network_is_checked_and_measured_without_its_values(job: str, model: str) -> None:
    config = make_run(job, model, **{"data.image_size": 64, "batch_size_per_worker": 2})
    network = check_network(config, JOBS[job], CLASSES)
    assert {parameter.device.type for parameter in network.parameters()} == {"meta"}
    assert activation_bytes(config, JOBS[job], CLASSES) > 0


def test_a_part_that_the_network_lacks_is_named() -> None:
    config = make_run("classify", "resnet18", **{"model.freeze": ("layer9",)})
    with pytest.raises(ConfigError, match=r"model\.freeze: the model has no 'layer9'"):
        check_network(config, JOBS["classify"], CLASSES)


def test_a_loss_is_tried_out_on_as_many_classes_as_there_are() -> None:
    for num_classes in (2, 3, 10):
        options = {"num_classes": float(num_classes)}
        settings = {"loss.custom": "tests.losses:ClassWeighted", "loss.options": options}
        config = make_run("classify", "fastnet_s", **settings)
        check_classifier_config(config)
        check_network(config, JOBS["classify"], num_classes)
        with pytest.raises(ConfigError, match=r"failed on 4 images of 4 classes"):
            check_network(config, JOBS["classify"], 4)


def check(config: TrainConfig, job: str) -> None:
    check_weights(config, JOBS[job], check_network(config, JOBS[job], CLASSES), CLASSES)


@pytest.mark.parametrize("num_classes", [CLASSES, 5])
def test_weights_fit_whatever_classes_they_were_trained_for(
    tmp_path: Path, num_classes: int
) -> None:
    file = tmp_path / "w.safetensors"
    for job, network in (
        ("yolo", build_yolov5("yolov5n", num_classes)),
        ("classify", build_classifier(make_run("classify", "fastnet_s"), num_classes)),
    ):
        save_weights(file, network.state_dict(), {})
        model = "yolov5n" if job == "yolo" else "fastnet_s"
        for location in (str(file), f"file://{file}"):
            check(make_run(job, model, **{"model.weights": location}), job)


def test_weights_that_cannot_be_started_from_are_named(tmp_path: Path) -> None:
    foreign, text = tmp_path / "foreign.safetensors", tmp_path / "text"
    save_weights(foreign, torch.nn.Linear(1, 1).state_dict(), {"model": "vgg11"})
    text.write_text("not weights")
    for file, message in (
        (foreign, r"foreign\.safetensors: is of vgg11, not of fastnet_s"),
        (text, "text: not a readable safetensors file"),
        (tmp_path / "absent", "absent: not a readable safetensors file"),
    ):
        config = make_run("classify", "fastnet_s", **{"model.weights": str(file)})
        with pytest.raises(CheckpointError, match=message):
            check(config, "classify")


def test_weights_of_the_other_stem_are_said_to_be(tmp_path: Path) -> None:
    data, file = write_thumbnails(tmp_path / "data"), tmp_path / "w.safetensors"
    task = make_classification_task(data, {"model.name": "resnet18", "model.stem": "standard"})
    save_weights(file, task.build_model().state_dict(), task.weights_header())
    config = make_run("classify", "resnet18", **{"model.weights": str(file), "data.image_size": 32})
    with pytest.raises(CheckpointError, match=r"model\.stem standard: conv1\.weight differ"):
        check(config, "classify")


@pytest.mark.parametrize(("stem", "side_px"), [("standard", 32), ("auto", 96)])
def test_weights_are_measured_with_the_stem_they_were_trained_with(
    tmp_path: Path, stem: str, side_px: int
) -> None:
    data, file = write_thumbnails(tmp_path / "data"), tmp_path / "w.safetensors"
    settings = {"model.name": "resnet18", "model.stem": stem, "data.image_size": side_px}
    task = make_classification_task(data, settings)
    model = task.build_model()
    save_weights(file, model.state_dict(), task.weights_header())
    for size in (32, side_px):
        found, _, _ = build_from(read_weights(str(file)), size, CPU)
        assert torch.equal(found.state_dict()["conv1.weight"], model.state_dict()["conv1.weight"])


@pytest.mark.parametrize(("name", "good_px", "bad_px"), [("alexnet", 64, 32), ("vit_b_32", 64, 40)])
def test_an_image_size_that_weights_cannot_be_measured_at_is_refused(
    tmp_path: Path, name: str, good_px: int, bad_px: int
) -> None:
    data, file = write_thumbnails(tmp_path / "data"), tmp_path / "w.safetensors"
    task = make_classification_task(data, {"model.name": name, "data.image_size": good_px})
    save_weights(file, task.build_model().state_dict(), task.weights_header())
    with pytest.raises(ConfigError, match=f"{name} cannot take {bad_px} px"):
        build_from(read_weights(str(file)), bad_px, CPU)


def test_a_run_that_continues_no_longer_needs_the_weights_it_started_from(tmp_path: Path) -> None:
    data, file = write_thumbnails(tmp_path / "data"), tmp_path / "w.safetensors"
    network = make_classification_task(data).build_model()
    save_weights(file, network.state_dict(), {})
    task = make_classification_task(data, {"model.weights": str(file), "seed": 1})
    assert torch.equal(task.build_model().head.weight, network.head.weight)
    file.unlink()
    assert task.build_model(continues=True).state_dict().keys() == network.state_dict().keys()
    with pytest.raises(CheckpointError, match=r"w\.safetensors"):
        task.build_model()


def test_a_classifier_needs_two_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAINJOBS_CACHE", str(tmp_path / "cache"))
    source = write_folders(tmp_path / "data", {"train": ["cat"], "val": ["cat"]})
    config = make_run("classify", "fastnet_s", **{"data.source": str(source)})
    with pytest.raises(DatasetError, match=r"data: has 1 class \('cat'\)"):
        prepare_data(config, JOBS["classify"])
    shutil.rmtree(source)
    write_folders(source, {"train": ["cat", "owl"], "val": ["cat"]})
    assert prepare_data(config, JOBS["classify"]).names == ("cat", "owl")
