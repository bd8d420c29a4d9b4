"""Measuring a classifier: the same figures however images are decoded and shared out."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.builders import CPU, assert_same_tensors
from tests.classifiers import SIDE_PX, make_classifier_config, write_thumbnails
from tests.contexts import make_context
from tests.ranks import evaluate_classes, run_on_ranks
from trainjobs.classifier.evaluator import ClassEvaluator
from trainjobs.classifier.inference import Normalization, batch_statistics, class_outputs
from trainjobs.classifier.models import build_classifier
from trainjobs.data.cached_folders import CachedFolders
from trainjobs.data.device.decoded_split import load_decoded
from trainjobs.data.mixture import prepare_datasets
from trainjobs.data.packed.shards import Split
from trainjobs.evaluation.classification import Answers, ClassEvaluation
from trainjobs.optim.batch_norm import record_batch_norm

NUM_VAL, BATCH = 23, 5
PLAIN = Normalization((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), CPU)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "thumbnails"
    return write_thumbnails(folder, num_train=10, num_val=NUM_VAL)


@pytest.fixture(scope="module")
def val(source: Path) -> Split:
    config = make_classifier_config({"data.source": str(source)})
    return prepare_datasets(config.data, source.parent / "cache", seed=0).open("val")


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    network = build_classifier(make_classifier_config(), 10)
    record_batch_norm(network)
    return network.eval()


def evaluate(
    val: Split, cache: Path, model: nn.Module, *, decode: bool = False, embeds: bool = False
) -> ClassEvaluation:
    folders = CachedFolders(cache, 0)
    decoded = load_decoded(val, image_size=SIDE_PX, folders=folders, device=CPU)
    evaluator = ClassEvaluator(
        val,
        image_size=SIDE_PX,
        batch_size=BATCH,
        context=make_context(cache),
        decoded=decoded if decode else None,
    )
    return evaluator.evaluate(lambda images: class_outputs(model, PLAIN, images), embeds=embeds)


@pytest.mark.parametrize("embeds", [False, True])
def test_decoded_before_or_each_time_images_get_the_same_answers(
    val: Split, tmp_path: Path, model: nn.Module, embeds: bool
) -> None:
    found = [evaluate(val, tmp_path, model, decode=d, embeds=embeds) for d in (False, True)]
    assert found[0].metrics == found[1].metrics
    for name in ("images", "labels", "classes", "scores"):
        one, other = (getattr(part.answers, name).tolist() for part in found)
        assert one == other


def test_each_image_is_answered_once_and_in_order(
    val: Split, tmp_path: Path, model: nn.Module
) -> None:
    answers = evaluate(val, tmp_path, model).answers
    assert isinstance(answers, Answers)
    assert answers.images.tolist() == list(range(NUM_VAL))
    assert answers.labels.tolist() == [val.label(index) for index in range(NUM_VAL)]
    assert answers.classes.shape == (NUM_VAL, 5)


@pytest.mark.parametrize("batch_size", [11, 22, 23, 50])
def test_no_batch_has_a_single_image_and_none_is_left_out(
    val: Split, tmp_path: Path, batch_size: int
) -> None:
    sizes: list[int] = []

    def forward(images: Tensor) -> Tensor:
        sizes.append(len(images))
        return torch.zeros(len(images), 10)

    context = make_context(tmp_path)
    evaluator = ClassEvaluator(val, image_size=SIDE_PX, batch_size=batch_size, context=context)
    evaluator.evaluate(forward)
    assert sum(sizes) == NUM_VAL and min(sizes) > 1 and max(sizes) <= batch_size + 1


def test_a_network_that_knows_the_label_is_always_right(val: Split, tmp_path: Path) -> None:
    known = {val.read_image(index).tobytes(): val.label(index) for index in range(NUM_VAL)}

    class Oracle(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            pixels = (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
            classes = [known[image.numpy().tobytes()] for image in pixels.contiguous()]
            return torch.eye(10)[classes]

    for decode in (False, True):
        metrics = evaluate(val, tmp_path, Oracle(), decode=decode).metrics
        assert metrics == {"top1": 1.0, "top5": 1.0}


def test_any_number_of_ranks_finds_the_same_metrics_and_the_first_all_answers(
    source: Path, val: Split, model: nn.Module
) -> None:
    cache = source.parent / "cache"
    alone = [evaluate(val, cache, model, embeds=embeds) for embeds in (False, True)]
    for world_size in (2, 3):
        found = run_on_ranks(world_size, evaluate_classes, source=source, batch_size=BATCH)
        for number, expected in enumerate(alone):
            assert expected.answers is not None
            for rank, parts in enumerate(found):
                metrics, classes = parts[number]
                assert metrics == expected.metrics
                assert classes == (expected.answers.classes.tolist() if rank == 0 else None)


def test_a_flip_takes_the_mean_over_the_image_and_its_mirror_image(model: nn.Module) -> None:
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    one, mirrored, both = (
        class_outputs(model, PLAIN, seen, flip=flip)
        for seen, flip in ((images, False), (images.flip(3), False), (images, True))
    )
    torch.testing.assert_close(both, (one + mirrored) / 2)
    assert torch.equal(class_outputs(model, PLAIN, images.flip(3), flip=True), both)


def test_inputs_are_less_the_mean_over_the_standard_deviation() -> None:
    normalize = Normalization((0.5, 0.25, 0.0), (0.5, 0.25, 2.0), CPU)
    found = normalize(torch.full((2, 3, 4, 4), 255, dtype=torch.uint8))
    expected = torch.tensor([1.0, 3.0, 0.5]).view(1, 3, 1, 1).expand(2, 3, 4, 4)
    torch.testing.assert_close(found, expected)
    assert found.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("trains", [False, True])
def test_batch_statistics_move_no_running_ones_and_leave_the_mode_as_it_was(
    model: nn.Module, trains: bool
) -> None:
    model.train(trains)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    norms[0].eval()
    modes = [
        (module.training, getattr(module, "track_running_stats", None))
        for module in model.modules()
    ]
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    with pytest.raises(KeyError), batch_statistics(model):
        class_outputs(model, PLAIN, images)
        raise KeyError
    assert_same_tensors(before, model.state_dict())
    after = [
        (module.training, getattr(module, "track_running_stats", None))
        for module in model.modules()
    ]
    assert after == modes


def test_batch_statistics_are_what_a_network_in_training_normalizes_by(model: nn.Module) -> None:
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    with batch_statistics(model):
        found = class_outputs(model, PLAIN, images)
    with torch.no_grad():
        expected = model.train()(PLAIN(images))
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(found, class_outputs(model.eval(), PLAIN, images))
