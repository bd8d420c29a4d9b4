"""Whether a packed dataset is one for classification: each image has one box, and so one class."""

from cluster.errors import DatasetError
from trainjobs.data.prepare import Prepared


def check_one_class_per_image(prepared: Prepared) -> None:
    """Look at the index alone, so that a job can refuse a dataset for detection before it starts.

    Raises:
        DatasetError: A split has images without a box, or with several.
    """
    for data in (prepared, *(other.data for other in prepared.also)):
        _check(data)


def _check(prepared: Prepared) -> None:
    for split, entry in prepared.index.splits.items():
        num_boxes = sum(entry.num_boxes)
        if entry.num_background or num_boxes != entry.num_images:
            reason = (
                f"{split}: a classifier needs one class per image, but {entry.num_images} images have "
                f"{num_boxes} boxes, {entry.num_background} of them none; is this a dataset for detection?"
            )
            raise DatasetError(prepared.location, reason)
