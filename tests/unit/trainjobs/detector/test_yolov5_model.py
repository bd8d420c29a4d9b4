"""The networks against the published figures of YOLOv5 v6 (recipe: layer table)."""

import math

import pytest
import torch

from cluster.errors import ConfigError
from trainjobs.detector.model import MODEL_NAMES, YOLOv5, build_yolov5, max_stride

# name: (parameters with 80 classes, entries of the state_dict)
PUBLISHED_SIZES = {
    "yolov5n": (1_872_157, 349),
    "yolov5s": (7_235_389, 349),
    "yolov5m": (21_190_557, 481),
    "yolov5l": (46_563_709, 613),
    "yolov5x": (86_749_405, 745),
    "yolov5n6": (3_246_940, 459),
    "yolov5s6": (12_626_620, 459),
    "yolov5m6": (35_731_932, 627),
    "yolov5l6": (76_770_172, 795),
    "yolov5x6": (140_794_780, 963),
}
YOLOV5S_LAYERS = (
    *(3520, 18560, 18816, 73984, 115712, 295424, 625152, 1180672, 1182720, 656896, 131584, 0, 0),
    *(361984, 33024, 0, 0, 90880, 147712, 0, 296448, 590336, 0, 1182720, 229245),
)


def build_without_memory(name: str, num_classes: int = 80) -> YOLOv5:
    with torch.device("meta"):
        return build_yolov5(name, num_classes)


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_every_published_model_can_be_named() -> None:
    assert set(MODEL_NAMES) == set(PUBLISHED_SIZES)


@pytest.mark.parametrize("name", PUBLISHED_SIZES)
def test_sizes_equal_the_published_models(name: str) -> None:
    model = build_without_memory(name)
    assert (count(model), len(model.state_dict())) == PUBLISHED_SIZES[name]


@pytest.mark.parametrize(("num_classes", "parameters"), [(1, 7_022_326), (20, 7_073_569)])
def test_only_the_head_depends_on_the_number_of_classes(num_classes: int, parameters: int) -> None:
    assert count(build_without_memory("yolov5s", num_classes)) == parameters


def test_every_layer_of_yolov5s_has_its_published_size() -> None:
    model = build_without_memory("yolov5s")
    assert tuple(count(layer) for layer in model.model) == YOLOV5S_LAYERS


def test_state_dict_keys_and_shapes_follow_the_published_checkpoints() -> None:
    state = build_without_memory("yolov5s").state_dict()
    shapes = {
        "model.0.conv.weight": (32, 3, 6, 6),
        "model.0.bn.num_batches_tracked": (),
        "model.6.m.2.cv2.conv.weight": (128, 128, 3, 3),
        "model.9.cv2.conv.weight": (512, 1024, 1, 1),
        "model.23.cv3.bn.running_var": (512,),
        "model.24.m.2.weight": (255, 512, 1, 1),
        "model.24.m.0.bias": (255,),
        "model.24.anchors": (3, 3, 2),
    }
    assert {key: tuple(state[key].shape) for key in shapes} == shapes


def test_anchors_are_kept_in_grid_cells() -> None:
    model = build_yolov5("yolov5n", 2)
    assert model.strides == (8, 16, 32)
    assert model.anchors[0].tolist() == [[1.25, 1.625], [2.0, 3.75], [4.125, 2.875]]
    assert model.anchors[2, 2].tolist() == [373 / 32, 326 / 32]


@pytest.mark.parametrize(
    ("name", "strides"), [("yolov5n", (8, 16, 32)), ("yolov5n6", (8, 16, 32, 64))]
)
def test_every_level_is_predicted_at_its_stride(name: str, strides: tuple[int, ...]) -> None:
    model = build_yolov5(name, 2).eval()
    with torch.inference_mode():
        raw = model(torch.rand(1, 3, 128, 64))
    assert model.strides == strides
    assert max_stride(name) == strides[-1]
    assert [tuple(level.shape) for level in raw] == [
        (1, 3, 128 // stride, 64 // stride, 7) for stride in strides
    ]


def test_evaluation_mode_leaves_the_shapes_of_the_outputs() -> None:
    model = build_yolov5("yolov5n", 1)
    images = torch.rand(2, 3, 32, 32)
    trained = [level.shape for level in model.train()(images)]
    assert [level.shape for level in model.eval()(images)] == trained


def test_outputs_of_channels_last_images_are_views_in_the_order_of_the_grid() -> None:
    model = build_yolov5("yolov5n", 2).to(memory_format=torch.channels_last)
    images = torch.rand(2, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    raw = model(images)
    assert all(level.permute(0, 2, 3, 1, 4).is_contiguous() for level in raw)


def test_memory_format_does_not_change_the_prediction() -> None:
    torch.manual_seed(0)
    model = build_yolov5("yolov5n", 2).eval()
    images = torch.rand(1, 3, 32, 32)
    with torch.inference_mode():
        plain = model(images)
        model.to(memory_format=torch.channels_last)
        last = model(images.contiguous(memory_format=torch.channels_last))
    for first, second in zip(plain, last, strict=True):
        torch.testing.assert_close(first, second, atol=1e-4, rtol=1e-4)  # other kernels


def test_training_and_inference_compute_the_same_function() -> None:
    # Activations work in place only where no gradient is wanted.
    torch.manual_seed(0)
    model = build_yolov5("yolov5n", 2).eval()
    images = torch.rand(1, 3, 32, 32)
    with torch.inference_mode():
        inferred = model(images)
    for first, second in zip(model(images), inferred, strict=True):
        torch.testing.assert_close(first.detach(), second, atol=1e-5, rtol=1e-5)


def test_every_parameter_gets_a_gradient() -> None:
    model = build_yolov5("yolov5n", 2)
    raw = model(torch.rand(2, 3, 32, 32))
    torch.stack([level.square().mean() for level in raw]).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_biases_start_at_the_prior_of_rare_objects() -> None:
    model = build_yolov5("yolov5n", 10)
    bias = model.model[-1].m[1].bias.detach().view(3, 15)
    # A 1x1 convolution of C channels draws its bias from +-1/sqrt(C); level 1 has 128 channels.
    spread = 1 / math.sqrt(128)
    assert (bias[:, :4].abs() <= spread).all()
    assert ((bias[:, 4] - math.log(8 / 40**2)).abs() <= spread + 1e-6).all()
    assert ((bias[:, 5:] - math.log(0.6 / 9.00001)).abs() <= spread + 1e-6).all()


def test_the_seed_fixes_the_initial_weights() -> None:
    states = []
    for _ in range(2):
        torch.manual_seed(7)
        states.append(build_yolov5("yolov5n", 3).state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_an_unknown_name_is_answered_with_the_valid_and_the_closest_ones() -> None:
    with pytest.raises(
        ConfigError, match=r"yolov5n, .*yolov5x6, got 'yolo5s'; did you mean yolov5s\?"
    ):
        build_yolov5("yolo5s", 80)
    with pytest.raises(ConfigError, match=r"model\.name"):
        max_stride("resnet50")


def test_a_model_without_classes_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least 1 class, got 0"):
        build_yolov5("yolov5n", 0)
