"""`trainjobs.validate`: the figures that training reported, from a weights file; and its mistakes."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from cluster.errors import CheckpointError, ServiceError
from tests.builders import make_config
from tests.classifiers import make_classification_task, write_thumbnails
from tests.contexts import make_context
from tests.logging_state import logging_as_it_was
from trainjobs.checkpoint import save_weights
from trainjobs.data.generated.shapes import generate_shapes
from trainjobs.data.prepare import prepare_dataset
from trainjobs.detector.task import DetectionTask
from trainjobs.task import Task
from trainjobs.validate import main
from trainjobs.weights_file import read_weights


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The command's cache, and the folder that it is started in."""
    monkeypatch.setenv("TRAINJOBS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache"


def detection_task(folder: Path, cache: Path) -> DetectionTask:
    """Of YOLOv5n on a few images of generated shapes."""
    folder.mkdir()
    generate_shapes(folder, num_train=2, num_val=5, image_size=64, seed=0)
    config = make_config(
        {
            "data.source": str(folder),
            "data.image_size": 64,
            "model.name": "yolov5n",
            "batch_size_per_worker": 2,
            "eval.confidence": 0.01,
        }
    )
    data = prepare_dataset(str(folder), cache, config.data, seed=0)
    return DetectionTask(config, data, make_context(cache))


def write_weights(task: Task, path: Path) -> Mapping[str, float]:
    """A weights file of a new model of the task, whose figures are returned."""
    model = task.build_model()
    save_weights(path, model.state_dict(), task.weights_header())
    return task.evaluate(model)


def measured(*argv: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """result.json of the command, whose last line says where it is."""
    with logging_as_it_was():
        assert main(argv) == 0
    file = Path(capsys.readouterr().out.splitlines()[-1])
    result: dict[str, Any] = json.loads(file.read_text())
    return result


def test_a_detector_gets_the_figures_that_its_task_gives_it(
    tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = detection_task(tmp_path / "data", cache)
    figures = write_weights(task, tmp_path / "w.safetensors")
    result = measured(
        "--weights", "w.safetensors", "--data", "data", "--output", "out", capsys=capsys
    )
    assert result["metrics"] == figures
    assert result["metrics_yolov5"] == task.summary()["metrics_yolov5"]
    assert result["num_images"] == 5 and result["ms_per_image"] > 0
    assert list(result["per_class"]) == list(task.names)
    boxes = sum(entry["num_boxes"] for entry in result["per_class"].values())
    assert boxes == sum(len(task.val.labels(index)[0]) for index in range(5))
    found = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert all({"image_id", "category_id", "bbox", "score"} <= row.keys() for row in found)
    assert (tmp_path / "out" / "confusion.png").stat().st_size > 0


def test_a_classifier_gets_the_figures_that_its_task_gives_it(
    tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_thumbnails(tmp_path / "data")
    task = make_classification_task(folder, {"eval.flip": True, "eval.batch_statistics": True})
    figures = write_weights(task, tmp_path / "w.safetensors")
    result = measured("--weights=w.safetensors", f"--data={folder}", capsys=capsys)
    assert result["metrics"] == figures
    assert "top1_batch_statistics" in figures  # as training measured, without a flag
    accuracy = {name: entry["accuracy"] for name, entry in result["per_class"].items()}
    assert sum(accuracy.values()) / 10 == pytest.approx(figures["top1"])  # 2 images of each class


def test_classes_are_matched_by_name(
    tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_thumbnails(tmp_path / "data")
    figures = write_weights(make_classification_task(folder), tmp_path / "w.safetensors")
    names = sorted((path.name for path in (folder / "train").iterdir()), reverse=True)
    content = {"format": "folder", "train": "train", "val": "val", "names": names}
    (folder / "data.yaml").write_text(json.dumps(content))
    result = measured("--weights", "w.safetensors", "--data", str(folder), capsys=capsys)
    assert list(result["per_class"]) == names
    assert result["metrics"] == figures


def test_flags_win_over_what_training_did(
    tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_thumbnails(tmp_path / "data")
    write_weights(make_classification_task(folder, {"eval.flip": True}), tmp_path / "w.safetensors")
    argv = ("--weights", "w.safetensors", "--data", str(folder))
    result = measured(
        *argv, "--eval.no-flip", "--image-size", "48", "--split", "train", capsys=capsys
    )
    assert result["eval"]["flip"] is False
    assert (result["image_size"], result["num_images"]) == (48, 40)


def test_as_many_images_may_be_bad_as_training_was_told(
    tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_thumbnails(tmp_path / "data")
    figures = write_weights(make_classification_task(folder), tmp_path / "w.safetensors")
    for number in range(11):
        (next((folder / "val").iterdir()) / f"bad{number}.jpg").write_bytes(b"no image")
    argv = ["--weights", "w.safetensors", "--data", str(folder)]
    with logging_as_it_was():
        assert main(argv) == 2
    assert "max_bad_fraction" in capsys.readouterr().err
    result = measured(*argv, "--max-bad-fraction", "0.5", capsys=capsys)
    assert (result["metrics"], result["num_images"]) == (figures, 20)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--weights", "none.safetensors"], "none.safetensors"),
        (["--weights", "w.safetensors", "--data", "data", "--split", "test"], "test"),
        (["--weights", "w.safetensors", "--data", "missing"], "missing"),
        (["--weights", "w.safetensors", "--data", "data", "--output", "data"], "new or an empty"),
        (["--weights", "w.safetensors", "--data", "others"], "same classes"),
        (["--weights", "w.safetensors", "--data", "data", "--image-size", "0"], "image_size"),
    ],
)
def test_a_mistake_is_one_message_and_exit_code_2(
    tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str], argv: list[str], said: str
) -> None:
    folder = write_thumbnails(tmp_path / "data")
    others = write_thumbnails(tmp_path / "others")
    for split in ("train", "val"):
        (others / split / "star").rename(others / split / "comet")
    write_weights(make_classification_task(folder), tmp_path / "w.safetensors")
    with logging_as_it_was():
        assert main(argv) == 2
    captured = capsys.readouterr()
    assert captured.err.count("error: ") == 1 and said in captured.err
    assert "Traceback" not in captured.err


@pytest.mark.parametrize(
    "change",
    [
        {"classes": "[1, 2]"},
        {"classes": '["cat", "cat"]'},
        {"classes": "{"},
        {"image_size": "0"},
        {"image_size": "wide"},
        {"batch_size": "-1"},
        {"eval": '{"nonsense": 1}'},
        {"eval": "[]"},
        {"eval": '{"nms_iou": 7}'},
    ],
)
def test_a_damaged_header_is_named(tmp_path: Path, change: dict[str, str]) -> None:
    header = {"model": "m", "classes": '["cat", "owl"]', "image_size": "64"}
    path = tmp_path / "w.safetensors"
    save_weights(path, torch.nn.Linear(1, 1).state_dict(), header)
    assert read_weights(str(path)).classes == ("cat", "owl")
    save_weights(path, torch.nn.Linear(1, 1).state_dict(), header | change)
    with pytest.raises(CheckpointError, match=r"w\.safetensors") as raised:
        read_weights(str(path))
    assert "damaged" in str(raised.value)


def test_tensors_of_another_network_are_refused(tmp_path: Path, cache: Path) -> None:
    folder = write_thumbnails(tmp_path / "data")
    task = make_classification_task(folder)
    path = tmp_path / "w.safetensors"
    save_weights(path, torch.nn.Linear(1, 1).state_dict(), task.weights_header())
    weights = read_weights(str(path))
    with pytest.raises(ServiceError, match="its tensors are not those of fastnet_s"):
        weights.load_into(task.build_model())
