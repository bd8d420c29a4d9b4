"""The detection loss of YOLOv5: box, objectness and class terms over all levels at once.

It reads nothing back from the device and gives the same result in every run on any device type.
"""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from trainjobs.boxes import ciou, cxcywh_to_xyxy
from trainjobs.config import LossConfig
from trainjobs.detector.assign import Matches, match_targets
from trainjobs.task import Loss

LOSS_NAMES = ("box", "obj", "cls")

# Weights of the levels' objectness terms, from fine to coarse, by number of levels. As in YOLOv5:
# fine levels have many cells and few objects, so their means are small.
_OBJECTNESS_BALANCE = {3: (4.0, 1.0, 0.4), 4: (4.0, 1.0, 0.25, 0.06)}
# Gains are given for 3 levels, 80 classes and 640 px images.
_NOMINAL_LEVELS, _NOMINAL_CLASSES, _NOMINAL_IMAGE_SIZE = 3, 80, 640


class DetectionLoss:
    """Loss of raw maps against true boxes; built once, called per micro-batch.

    Source: YOLOv5 v6 (normalizers, balance, gains); CIoU as in `boxes.ciou`. Where several boxes
    match one prediction, objectness learns the overlap of the one written last, in the order of
    `Matches.order`: YOLOv5's result on a CPU, where its result on a GPU is left to chance.
    """

    def __init__(
        self, anchors_grid: Tensor, num_classes: int, image_size: int, config: LossConfig
    ) -> None:
        num_levels = len(anchors_grid)
        self._anchors_grid = anchors_grid.detach()
        self._num_classes = num_classes
        self._anchor_threshold = config.anchor_threshold
        self._positive = 1 - config.label_smoothing / 2
        self._negative = config.label_smoothing / 2
        self._balance = _OBJECTNESS_BALANCE[num_levels]
        per_level = _NOMINAL_LEVELS / num_levels
        self._box_gain = config.box * per_level
        self._obj_gain = config.obj * per_level * (image_size / _NOMINAL_IMAGE_SIZE) ** 2
        self._cls_gain = config.cls * per_level * num_classes / _NOMINAL_CLASSES
        self._grid_sizes: dict[object, Tensor] = {}

    def __call__(self, raw: Sequence[Tensor], targets: Tensor) -> Loss:
        """Compute the loss, normalized within the micro-batch.

        Args:
            raw: Per level (B, num_anchors, ny, nx, 5 + C), any float type.
            targets: (N, 6) float32 rows of image in the batch, class, cx, cy, w, h (norm); N may
                be 0. On raw's device.

        Returns:
            float32 total, and its terms in the order of LOSS_NAMES.
        """
        anchors_grid = self._anchors_grid = self._anchors_grid.to(raw[0].device)
        matches = match_targets(
            targets,
            anchors_grid,
            self._grid_sizes_of(raw),
            anchor_threshold=self._anchor_threshold,
        )
        # Rows of outputs in the order image, y, x, anchor: a view if raw is channels_last.
        rows = [level.permute(0, 2, 3, 1, 4).flatten(0, 3) for level in raw]
        # An embedding is a lookup of rows whose gradient adds in a fixed order on every device.
        picked = torch.stack(
            [
                functional.embedding(index, level)
                for index, level in zip(matches.prediction, rows, strict=True)
            ]
        ).float()  # (L, M, 5 + C)

        # A level's term is the mean over its valid pairs.
        weights = matches.is_valid / matches.is_valid.sum(dim=1, keepdim=True).clamp(min=1)
        overlap = _overlap(picked[..., :4], matches)
        box = ((1 - overlap) * weights).sum() * self._box_gain
        obj = self._objectness(rows, overlap.detach(), matches) * self._obj_gain
        cls = self._class_term(picked[..., 5:], matches, weights) * self._cls_gain
        return Loss(total=box + obj + cls, parts=torch.stack((box, obj, cls)).detach())

    def _grid_sizes_of(self, raw: Sequence[Tensor]) -> Tensor:
        """(L, 2) cells in x and y; kept, because a copy to a GPU would wait for it."""
        shapes = tuple((level.shape[3], level.shape[2]) for level in raw)
        key = (raw[0].device, shapes)
        if key not in self._grid_sizes:
            self._grid_sizes[key] = torch.tensor(shapes, dtype=torch.float32, device=raw[0].device)
        return self._grid_sizes[key]

    def _objectness(self, rows: Sequence[Tensor], overlap: Tensor, matches: Matches) -> Tensor:
        """Sum over levels of the balanced mean over all cells; the target is the overlap."""
        # All levels in one row: few large operations are faster than many small ones.
        logits = torch.cat([level[:, 4] for level in rows]).float()
        sizes = [len(level) for level in rows]
        starts = itertools.accumulate(sizes[:-1], initial=0)
        prediction = torch.cat(
            [index + start for index, start in zip(matches.prediction, starts, strict=True)]
        )
        order = torch.where(matches.is_valid, matches.order, -1).flatten()
        # Integers and single writers: the result does not depend on the order of execution.
        last = torch.full_like(logits, -1, dtype=torch.int64)
        last.scatter_reduce_(0, prediction, order, "amax")
        is_last = (last[prediction] == order) & matches.is_valid.flatten()
        target = torch.zeros_like(logits)
        target.scatter_add_(0, prediction, overlap.clamp(min=0).flatten() * is_last)
        loss = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
        balanced = zip(torch.split(loss, sizes), self._balance, strict=True)
        return torch.stack([level.mean() * balance for level, balance in balanced]).sum()

    def _class_term(self, logits: Tensor, matches: Matches, weights: Tensor) -> Tensor:
        """Sum over levels of the mean over valid pairs and classes; 0 with a single class."""
        if self._num_classes == 1:
            return logits.new_zeros(())
        target = torch.full_like(logits, self._negative)
        target.scatter_(2, matches.classes[..., None], self._positive)
        loss = functional.binary_cross_entropy_with_logits(
            logits, target, weight=weights[..., None], reduction="sum"
        )
        return loss / self._num_classes


def _overlap(box_logits: Tensor, matches: Matches) -> Tensor:
    """CIoU (L, M) of the boxes that (L, M, 4) raw outputs stand for with the true ones."""
    scaled = box_logits.sigmoid() * 2
    center = scaled[..., :2] - 0.5
    size = scaled[..., 2:].square() * matches.anchors_grid
    pred_xyxy = cxcywh_to_xyxy(torch.cat((center, size), dim=-1))
    true_xyxy = cxcywh_to_xyxy(matches.boxes_cxcywh_grid)
    return ciou(pred_xyxy.flatten(0, 1), true_xyxy.flatten(0, 1)).view(matches.is_valid.shape)
