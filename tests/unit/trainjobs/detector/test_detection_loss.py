"""The detection loss: laws, and the recipe's formulas spelled out in loops."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from trainjobs.boxes import ciou, cxcywh_to_xyxy
from trainjobs.config import LossConfig
from trainjobs.detector.loss import LOSS_NAMES, DetectionLoss
from trainjobs.detector.postprocess import decode
from trainjobs.task import Loss

ANCHORS_GRID = torch.tensor(
    [
        [[1.25, 1.625], [2.0, 3.75], [4.125, 2.875]],
        [[1.875, 3.8125], [3.875, 2.8125], [3.6875, 7.4375]],
        [[3.625, 2.8125], [4.875, 6.1875], [11.65625, 10.1875]],
    ]
)
GRIDS = ((8, 12), (4, 6), (2, 3))  # rows, columns
NUM_CLASSES = 4
NUM_IMAGES = 2
# The loops add in another order than the tensors.
TOLERANCE = 1e-5


def make_raw(
    *, seed: int = 0, num_images: int = NUM_IMAGES, classes: int = NUM_CLASSES
) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(num_images, 3, rows, columns, 5 + classes, generator=generator)
        for rows, columns in GRIDS
    ]


def make_targets(count: int = 40, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(0, NUM_IMAGES, (count, 1), generator=generator).float()
    classes = torch.randint(0, NUM_CLASSES, (count, 1), generator=generator).float()
    centers = torch.rand(count, 2, generator=generator)
    sizes = torch.rand(count, 2, generator=generator) * 0.6 + 0.05
    return torch.cat((image, classes, centers, sizes), dim=1)


def make_loss(
    *, image_size: int = 640, classes: int = NUM_CLASSES, **gains: float
) -> DetectionLoss:
    return DetectionLoss(ANCHORS_GRID, classes, image_size, LossConfig(**gains))


def parts(loss: Loss) -> dict[str, float]:
    return dict(zip(LOSS_NAMES, loss.parts.tolist(), strict=True))


def loss_by_loops(raw: list[Tensor], targets: Tensor, smoothing: float) -> list[float]:
    """Box, objectness and class terms of the recipe, with gains .05, 1, .5 at 640 px."""
    terms = [0.0, 0.0, 0.0]
    for level, (maps, balance) in enumerate(zip(raw, (4.0, 1.0, 0.4), strict=True)):
        rows, columns = GRIDS[level]
        truth = torch.zeros(maps.shape[:4])
        overlaps, class_losses = [], []
        steps = ((0.0, 0.0), (0.5, 0.0), (0.0, 0.5), (-0.5, 0.0), (0.0, -0.5))
        for dx, dy in steps:  # center, left, upper, right, lower
            for anchor, (anchor_w, anchor_h) in enumerate(ANCHORS_GRID[level].tolist()):
                for image, label, cx, cy, norm_w, norm_h in targets.tolist():
                    x, y, w, h = cx * columns, cy * rows, norm_w * columns, norm_h * rows
                    ratios = (w / anchor_w, h / anchor_h)
                    wanted = [
                        max(max(r, 1 / r) for r in ratios) < 4,
                        dx <= 0 or (x % 1 < 0.5 and x > 1),
                        dy <= 0 or (y % 1 < 0.5 and y > 1),
                        dx >= 0 or ((columns - x) % 1 < 0.5 and columns - x > 1),
                        dy >= 0 or ((rows - y) % 1 < 0.5 and rows - y > 1),
                    ]
                    if not all(wanted):
                        continue
                    column, row = math.floor(x - dx), math.floor(y - dy)
                    output = maps[int(image), anchor, row, column]
                    s = output[:4].sigmoid()
                    size = (2 * s[2:]) ** 2 * ANCHORS_GRID[level, anchor]
                    pred = torch.cat((2 * s[:2] - 0.5, size))[None]
                    true = torch.tensor([[x - column, y - row, w, h]])
                    overlap = ciou(cxcywh_to_xyxy(pred), cxcywh_to_xyxy(true))[0]
                    overlaps.append(overlap)
                    truth[int(image), anchor, row, column] = overlap.clamp(min=0)
                    one_hot = torch.full((NUM_CLASSES,), smoothing / 2)
                    one_hot[int(label)] = 1 - smoothing / 2
                    class_losses.append(
                        functional.binary_cross_entropy_with_logits(output[5:], one_hot)
                    )
        if overlaps:
            terms[0] += 0.05 * (1 - torch.stack(overlaps)).mean().item()
            terms[2] += 0.5 * NUM_CLASSES / 80 * torch.stack(class_losses).mean().item()
        objectness = functional.binary_cross_entropy_with_logits(maps[..., 4], truth)
        terms[1] += balance * objectness.item()
    return terms


@pytest.mark.parametrize(("seed", "smoothing"), [(0, 0.0), (1, 0.1)])
def test_terms_are_those_of_the_recipe(seed: int, smoothing: float) -> None:
    raw, targets = make_raw(seed=seed), make_targets(20, seed=seed)
    loss = make_loss(label_smoothing=smoothing)(raw, targets)
    expected = loss_by_loops(raw, targets, smoothing)
    assert loss.parts.tolist() == pytest.approx(expected, abs=TOLERANCE)


def test_total_is_the_sum_of_the_terms() -> None:
    loss = make_loss()(make_raw(), make_targets())
    assert loss.total.item() == pytest.approx(loss.parts.sum().item())
    assert not loss.parts.requires_grad


def test_an_image_twice_in_the_batch_leaves_the_loss() -> None:
    raw, targets = make_raw(num_images=2), make_targets()
    again = targets.clone()
    again[:, 0] += 2
    once = make_loss()(raw, targets)
    twice = make_loss()([torch.cat((m, m)) for m in raw], torch.cat((targets, again)))
    torch.testing.assert_close(once.parts, twice.parts)


def test_the_order_of_boxes_matters_only_where_two_share_a_prediction() -> None:
    raw = make_raw()
    targets = make_targets(2, seed=3)
    targets[:, 0] = torch.tensor([0.0, 1.0])  # one box per image
    loss = make_loss()
    torch.testing.assert_close(loss(raw, targets).parts, loss(raw, targets.flip(0)).parts)


def test_of_two_boxes_with_one_prediction_the_later_is_learned() -> None:
    raw = make_raw()
    small = torch.tensor([[0.0, 0, 0.5, 0.5, 0.2, 0.2]])
    large = torch.tensor([[0.0, 0, 0.5, 0.5, 0.4, 0.4]])
    loss = make_loss()
    last_large = parts(loss(raw, torch.cat((small, large))))["obj"]
    assert parts(loss(raw, torch.cat((small, small, large))))["obj"] == last_large
    assert parts(loss(raw, torch.cat((large, small))))["obj"] != last_large


def test_perfect_boxes_have_no_box_loss() -> None:
    # Raw 0 means the middle of the cell and the size of the anchor; this is such a box for anchor
    # 0 of level 0, whose shape no anchor with another size is close enough to at threshold 1.01.
    rows, columns = GRIDS[0]
    width, height = ANCHORS_GRID[0, 0].tolist()
    targets = torch.tensor([[0, 1, 5.5 / columns, 3.5 / rows, width / columns, height / rows]])
    raw = [torch.zeros_like(level) for level in make_raw()]
    loss = make_loss(anchor_threshold=1.01)(raw, targets)
    assert parts(loss)["box"] == pytest.approx(0, abs=1e-7)
    # One matched pair: the class term is the mean of ln 2 over the classes.
    assert parts(loss)["cls"] == pytest.approx(0.5 * NUM_CLASSES / 80 * math.log(2))


def test_an_empty_batch_learns_only_that_there_are_no_objects() -> None:
    raw = [level.requires_grad_() for level in make_raw()]
    loss = make_loss()(raw, torch.zeros(0, 6))
    loss.total.backward()
    assert parts(loss)["box"] == parts(loss)["cls"] == 0
    assert parts(loss)["obj"] > 0
    for level in raw:
        assert level.grad is not None
        assert (level.grad[..., 4] > 0).all()
        assert not level.grad[..., :4].any() and not level.grad[..., 5:].any()


def test_a_single_class_has_no_class_term() -> None:
    targets = make_targets()
    targets[:, 1] = 0
    loss = make_loss(classes=1)(make_raw(classes=1), targets)
    assert parts(loss)["cls"] == 0 and parts(loss)["box"] > 0


def test_gains_scale_their_own_term() -> None:
    raw, targets = make_raw(), make_targets()
    base = parts(make_loss()(raw, targets))
    scaled = parts(make_loss(box=0.15, obj=2.0, cls=0.25)(raw, targets))
    assert scaled["box"] == pytest.approx(3 * base["box"])
    assert scaled["obj"] == pytest.approx(2 * base["obj"])
    assert scaled["cls"] == pytest.approx(base["cls"] / 2)


def test_objectness_scales_with_the_area_of_the_image() -> None:
    raw, targets = make_raw(), make_targets()
    large, small = (parts(make_loss(image_size=size)(raw, targets)) for size in (640, 320))
    assert small["obj"] == pytest.approx(large["obj"] / 4)
    assert small["box"] == large["box"] and small["cls"] == large["cls"]


def test_a_model_with_four_levels_weighs_each_level_less() -> None:
    # Level 3 has no cell that could match; so box terms are 3 / 4 of those of three levels.
    raw, targets = make_raw(), make_targets()
    anchors = torch.cat((ANCHORS_GRID, torch.full((1, 3, 2), 1e4)))
    four = DetectionLoss(anchors, NUM_CLASSES, 640, LossConfig())
    loss = four([*raw, torch.zeros(NUM_IMAGES, 3, 1, 2, 5 + NUM_CLASSES)], targets)
    assert parts(loss)["box"] == pytest.approx(0.75 * parts(make_loss()(raw, targets))["box"])


def test_memory_format_does_not_change_loss_or_gradient() -> None:
    targets = make_targets()
    results = []
    for order in ((0, 1, 2, 3, 4), (0, 2, 3, 1, 4)):
        back = [order.index(dim) for dim in range(5)]
        raw = [m.permute(order).contiguous().permute(back).requires_grad_() for m in make_raw()]
        loss = make_loss()(raw, targets)
        loss.total.backward()
        results.append((loss.parts, [level.grad for level in raw]))
    torch.testing.assert_close(results[0], results[1])


def test_the_loss_is_computed_in_float32() -> None:
    raw, targets = [m.bfloat16() for m in make_raw()], make_targets()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = make_loss()(raw, targets)
    exact = make_loss()([m.float() for m in raw], targets)
    assert loss.total.dtype == torch.float32
    torch.testing.assert_close(loss.parts, exact.parts)


def test_loss_and_gradient_repeat_to_the_bit() -> None:
    targets = make_targets(400)
    gradients = []
    for _ in range(3):
        raw = [level.requires_grad_() for level in make_raw()]
        make_loss()(raw, targets).total.backward()
        gradients.append(raw)
    for repeated in gradients[1:]:
        for first, second in zip(gradients[0], repeated, strict=True):
            assert first.grad is not None and second.grad is not None
            assert torch.equal(first.grad, second.grad)


def test_one_instance_serves_batches_of_several_shapes() -> None:
    loss, targets = make_loss(), make_targets()
    wide = make_raw()
    tall = [level.transpose(2, 3) for level in wide]
    turned = targets[:, [0, 1, 3, 2, 5, 4]]
    assert parts(loss(wide, targets)) == parts(make_loss()(wide, targets))
    assert parts(loss(tall, turned)) == parts(make_loss()(tall, turned))


def test_outputs_trained_on_the_loss_decode_to_the_true_boxes() -> None:
    # One box per image, 96 x 64 px on the 8, 16, 32 px grids of GRIDS.
    targets = torch.tensor([[0.0, 2, 0.4, 0.5, 0.3, 0.4], [1, 0, 0.7, 0.3, 0.2, 0.5]])
    raw = [level.requires_grad_() for level in make_raw()]
    loss_of = make_loss(box=5.0, cls=50.0)
    optimizer = torch.optim.Adam(raw, lr=0.2)
    for _ in range(80):
        optimizer.zero_grad()
        loss_of(raw, targets).total.backward()
        optimizer.step()
    size_px = torch.tensor([96.0, 64.0, 96.0, 64.0])
    for predictions, target in zip(decode(raw, ANCHORS_GRID, (8, 16, 32)), targets, strict=True):
        best = predictions[predictions[:, 4].argmax()]
        torch.testing.assert_close(best[:4], target[2:] * size_px, atol=1.0, rtol=0)  # 1 px
        assert best[4] > 0.8 and best[5:].argmax() == target[1]
