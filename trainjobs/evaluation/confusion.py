"""Which class is taken for which, and what is missed or invented."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from trainjobs.evaluation.detections import Detections, Truth, match_by_iou, pairwise_iou

CONFIDENCE = 0.25  # recipe.md, section 2, "Confusion matrix"
MINIMUM_IOU = 0.45


def confusion_matrix(
    truths: Sequence[Truth], detections: Sequence[Detections], num_classes: int
) -> NDArray[np.int64]:
    """Count pairs of predicted and true class, paired by IoU whatever their classes.

    Args:
        truths: every image of the split; image ids are unique.
        detections: at most one entry an image, in any order. Scores below 0.25 do not count.
        num_classes: C.

    Returns:
        (C + 1, C + 1): rows predicted, columns true, the last of each is background. The last row
        holds missed objects, the last column inventions.
    """
    matrix = np.zeros((num_classes + 1, num_classes + 1), dtype=np.int64)
    found_in = {found.image_id: found for found in detections}
    for truth in truths:
        missed = np.ones(len(truth.classes), dtype=bool)
        if truth.image_id in found_in:
            found = found_in[truth.image_id]
            order = np.argsort(-found.scores, kind="stable")
            kept = order[found.scores[order] >= CONFIDENCE]
            iou = pairwise_iou(truth.boxes_xyxy_px, found.boxes_xyxy_px[kept])
            truth_of, _ = match_by_iou(iou, MINIMUM_IOU)
            labels = np.append(truth.classes, num_classes)[truth_of]  # -1 is background
            np.add.at(matrix, (found.classes[kept], labels), 1)
            missed[truth_of[truth_of >= 0]] = False
        np.add.at(matrix[num_classes], truth.classes[missed], 1)
    return matrix
