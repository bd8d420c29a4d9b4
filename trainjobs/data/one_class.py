"""Whether a packed dataset is one for classification: each image has one box, and so one class."""

from cluster.errors import DatasetError
from trainjobs.data.prepare import Prepared


def check_one_class_per_image(prepared: Prepared, source: str) -> None:
    """Look at the index alone, so that a job can refuse a dataset for detection before it starts.

    Args:
        prepared: The dataset, and those beside it.
        source: What the user calls it.

    Raises:
        DatasetError: A split has images without a box, or with several.
    """
    _check(prepared, source)
    for other in prepared.also:
        _check(other.data, other.source)


def _check(prepared: Prepared, source: str) -> None:
    for split, entry in prepared.index.splits.items():
        num_boxes = sum(entry.num_boxes)
        if entry.num_background or num_boxes != entry.num_images:
            reason = (
                f"{split}: a classifier needs one class per image, but {entry.num_images} images have "
                f"{num_boxes} boxes, {entry.num_background} of them none; is this a dataset for detection?"
            )
            raise DatasetError(source, reason)
