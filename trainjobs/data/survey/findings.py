"""What is wrong with a dataset, from its survey: what a run refuses, and what should be looked at."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from trainjobs.data.prepare import PREPARED_SPLITS, is_too_bad
from trainjobs.data.survey.statistics import Repeat, SplitSurvey, Survey

NOT_IN_RUNS = "no run looks at it, but it cannot be packed"
MAX_LISTED = 10


def find_refusals(survey: Survey, max_bad_fraction: float) -> list[str]:
    """Why a run on this dataset would not start.

    Args:
        survey: of the dataset.
        max_bad_fraction: `data.max_bad_fraction` of the run.
    """
    reasons = []
    for split in PREPARED_SPLITS:
        found = survey.splits.get(split)
        if found is None:
            reasons.append(f"has no split {split}")
            continue
        total = found.num_images + found.num_skipped
        if is_too_bad(found.num_skipped, total, max_bad_fraction):
            limit = f"more than data.max_bad_fraction ({max_bad_fraction:g}) allows"
            reasons.append(
                f"{split}: {found.num_skipped} of {total} images cannot be used, {limit}"
            )
        reasons += _missing(split, found)
    return reasons


def find_warnings(survey: Survey) -> list[str]:
    """What no run stops for, and should be looked at."""
    others = [split for split in survey.splits if split not in PREPARED_SPLITS]
    lines = [
        f"{fault}; {NOT_IN_RUNS}"
        for split in others
        for fault in _missing(split, survey.splits[split])
    ]
    lines += _class_warnings(survey)
    lines += _repeat_warnings("duplicates: {} has {} images more than once", survey.duplicates)
    lines += _repeat_warnings("leaks: {} share {} images", survey.leaks)
    return lines


def _missing(split: str, found: SplitSurvey) -> list[str]:
    if not found.num_images:
        return [f"{split}: has no usable image"]
    if not found.num_boxes:
        return [f"{split}: none of {found.num_images} images has a labeled object"]
    return []


def _class_warnings(survey: Survey) -> list[str]:
    counts = [survey.splits[s].boxes_per_class for s in PREPARED_SPLITS if s in survey.splits]
    if len(counts) < len(PREPARED_SPLITS) or not all(map(sum, counts)):
        return []  # a run refuses it
    train, val = (np.array(count) for count in counts)
    cases = (
        ("never labeled in train", train == 0),
        ("labeled in train, but never in val, so not measured", (train > 0) & (val == 0)),
    )
    return [f"classes {text}: {_listed(survey, mask)}" for text, mask in cases if mask.any()]


def _listed(survey: Survey, mask: NDArray[np.bool_]) -> str:
    found = [survey.names[index] for index in np.flatnonzero(mask)]
    rest = len(found) - MAX_LISTED
    return ", ".join(found[:MAX_LISTED]) + (f" and {rest} more" if rest > 0 else "")


def _repeat_warnings(text: str, repeats: Sequence[Repeat]) -> list[str]:
    """A line for each split, or set of splits, with an example."""
    kinds: dict[str, list[Repeat]] = {}
    for repeat in repeats:
        splits = dict.fromkeys(ref.split for ref in repeat.images)
        kinds.setdefault(" and ".join(splits), []).append(repeat)
    lines = []
    for kind, found in kinds.items():
        other = sum(not repeat.same_labels for repeat in found)
        labels = f", {other} with different labels" if other else ""
        images = min(found, key=lambda repeat: repeat.same_labels).images
        example = f"{images[0].id} = {images[-1].id}"
        lines.append(f"{text.format(kind, len(found))}{labels}, such as {example}")
    return lines
