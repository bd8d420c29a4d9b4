"""How often to show an image, by how rare its classes are."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from trainjobs.data.ordering.copies import Share, weights_of_images
from trainjobs.data.packed.joined import TrainingSplit


def class_weights(split: TrainingSplit, shares: Sequence[Share] = ()) -> NDArray[np.float64]:
    """(N,) how often each image is to be drawn, by how rare its classes are in an epoch."""
    classes = [split.labels(index)[0] for index in range(len(split))]
    copies = weights_of_images(split.shard_sizes, shares) if shares else None
    counts = np.array([len(found) for found in classes])
    return rare_class_weights(np.concatenate(classes), counts, copies)


def rare_class_weights(
    classes: NDArray[np.int64],
    boxes_per_image: NDArray[np.int64],
    copies: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """Weights of images: as if one drew a class, then one of its boxes, and took its image.

    So each class has the same share of the draws. An image without a box has the mean of the others'
    weights: such images keep their share. An image of two copies counts as two.

    Args:
        classes: (M,) class of each box, image after image.
        boxes_per_image: (N,).
        copies: (N,) of each image; fractions too. Default: 1.

    Returns:
        (N,), all above 0.
    """
    copies = np.ones(len(boxes_per_image)) if copies is None else copies
    owners = np.repeat(np.arange(len(boxes_per_image)), boxes_per_image)
    rarity = 1 / np.bincount(classes, copies[owners])[classes] if len(classes) else np.zeros(0)
    sums = np.bincount(owners, rarity, minlength=len(boxes_per_image))
    weights = sums.astype(np.float64)
    has_boxes = boxes_per_image > 0
    if has_boxes.any():
        weights[~has_boxes] = np.average(weights[has_boxes], weights=copies[has_boxes])
    else:
        weights[:] = 1.0
    return weights * copies
