"""Raw outputs to detections in pixels: decode, threshold, non-maximum suppression."""

import logging
from collections.abc import Sequence

import torch
from torch import Tensor

from trainjobs.boxes import cxcywh_to_xyxy

logger = logging.getLogger(__name__)

# Most candidates (box and class) of one image that suppression looks at; YOLOv5's figure.
MAX_CANDIDATES = 30_000
# First share of the candidates to look at; enough for 300 detections in most images.
_FIRST_CANDIDATES = 1024


@torch.no_grad()
def decode(raw: Sequence[Tensor], anchors_grid: Tensor, strides: Sequence[int]) -> Tensor:
    """Boxes in px and probabilities from raw outputs.

    Args:
        raw: Per level (B, num_anchors, ny, nx, 5 + C), any float type.
        anchors_grid: (L, num_anchors, 2) widths and heights in cells of their level.
        strides: Px per cell of each level.

    Returns:
        (B, A, 5 + C) float32: cxcywh in px of the input image, objectness, classes. Predictions
        come in the order level, y, x, anchor.

    Source: YOLOv5 v6: xy = (2s - 0.5 + cell) * stride, wh = (2s)^2 * anchor, s = sigmoid(raw).
    """
    levels = []
    for level, stride, anchors in zip(raw, strides, anchors_grid, strict=True):
        # A view if raw is channels_last, so that sigmoid makes the only copy.
        out = level.permute(0, 2, 3, 1, 4).float().sigmoid()  # (B, ny, nx, num_anchors, 5 + C)
        rows, columns = out.shape[1:3]
        x = torch.arange(columns, device=out.device, dtype=out.dtype)
        y = torch.arange(rows, device=out.device, dtype=out.dtype)
        out[..., 0].mul_(2).add_(x[:, None] - 0.5).mul_(stride)
        out[..., 1].mul_(2).add_(y[:, None, None] - 0.5).mul_(stride)
        out[..., 2:4].mul_(2).square_().mul_(anchors * stride)
        levels.append(out.flatten(1, 3))
    return torch.cat(levels, dim=1)


@torch.no_grad()
def non_max_suppression(
    predictions: Tensor,
    *,
    confidence: float,
    nms_iou: float,
    max_detections: int,
    multi_label: bool = True,
) -> list[Tensor]:
    """Best detections of each image, without overlapping duplicates of one class.

    Args:
        predictions: (B, A, 5 + C) from `decode`.
        confidence: Least score, objectness * class.
        nms_iou: Of two boxes of one class with a larger IoU the lower-scored is dropped.
        max_detections: Detections kept per image, the best ones.
        multi_label: A box may carry several classes; otherwise only its best one.

    Returns:
        Per image (K, 6) float32 rows x1, y1, x2, y2 in px, score, class; best score first. The
        time it takes has no limit; YOLOv5 gives up after a while, which corrupts its mAP.
    """
    detections = []
    for image in predictions:
        boxes_xyxy_px, scores, classes = _candidates(
            image, confidence=confidence, multi_label=multi_label
        )
        kept = _best_of(
            boxes_xyxy_px, scores, classes, nms_iou=nms_iou, max_detections=max_detections
        )
        columns = (boxes_xyxy_px[kept], scores[kept, None], classes[kept, None].float())
        detections.append(torch.cat(columns, dim=1))
    return detections


def _candidates(
    prediction: Tensor, *, confidence: float, multi_label: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes xyxy in px, scores and classes of one image above the confidence, in any order."""
    # A class probability is at most 1, so objectness alone rules most boxes out.
    prediction = prediction[prediction[:, 4] > confidence]
    scores = prediction[:, 5:] * prediction[:, 4:5]  # (A, C)
    if multi_label:
        box, classes = (scores > confidence).nonzero(as_tuple=True)
        scores = scores[box, classes]
    else:
        scores, classes = scores.max(dim=1)
        box = (scores > confidence).nonzero(as_tuple=True)[0]
        scores, classes = scores[box], classes[box]
    return cxcywh_to_xyxy(prediction[box, :4]), scores, classes


def _best_of(
    boxes_xyxy_px: Tensor, scores: Tensor, classes: Tensor, *, nms_iou: float, max_detections: int
) -> Tensor:
    """Indices of the kept candidates, best first.

    Suppression goes from high to low scores only, so among the best n candidates it keeps the same
    ones as among all. It therefore looks at few at first, and at more until it has enough.
    """
    num_candidates = min(len(scores), MAX_CANDIDATES)
    # Stable, so that candidates of one score keep the order of predictions on every device.
    ranked = scores.sort(descending=True, stable=True).indices[:num_candidates]
    num_seen = _FIRST_CANDIDATES
    while True:
        seen = ranked[:num_seen]
        kept = _suppress(boxes_xyxy_px[seen], scores[seen], classes[seen], nms_iou=nms_iou)
        if len(kept) >= max_detections or num_seen >= num_candidates:
            break
        num_seen *= 4
    if len(kept) < max_detections and len(scores) > MAX_CANDIDATES:
        logger.warning(
            "Only the best %d of %d candidates of an image were looked at; they gave %d detections",
            *(MAX_CANDIDATES, len(scores), len(kept)),
        )
    return seen[kept[:max_detections]]


def _suppress(boxes_xyxy_px: Tensor, scores: Tensor, classes: Tensor, *, nms_iou: float) -> Tensor:
    """Class-wise suppression of (N, 4) boxes in order of score; indices of the kept ones."""
    if len(boxes_xyxy_px) == 0:
        return classes  # empty, int64
    # Each class gets a region of its own. In float64 the shift costs no precision.
    boxes = boxes_xyxy_px.double()
    region = boxes.max() - boxes.min() + 1
    # torchvision imports torch._dynamo: seconds that the driver and the start of a rank can save.
    from torchvision.ops import nms  # noqa: PLC0415

    kept: Tensor = nms(boxes + (classes * region)[:, None], scores.double(), nms_iou)
    return kept
