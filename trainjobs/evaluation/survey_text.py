"""A dataset's survey as a text by which a person decides."""

from collections.abc import Mapping, Sequence

from trainjobs.data.scanning import QuarantineRow
from trainjobs.data.survey.statistics import QUANTILES, TINY_PX, Survey

MAX_CLASSES = 20
"""In the text; of more, the most and the least frequent ones."""
MAX_REASONS = 5
"""Of what was left out of a split."""
MAX_NAME = 24  # characters


def split_table(survey: Survey) -> str:
    """How much there is."""
    if survey.is_classification:
        lines = [("", "images", "left out")]
        for split, found in survey.splits.items():
            lines.append((split, _count(found.num_images), _count(found.num_skipped)))
        return _table(lines)
    header = ("", "images", "left out", "background", "boxes", "boxes/image")
    rows = []
    for split, found in survey.splits.items():
        density = f"{found.num_boxes / found.num_images:.1f}" if found.num_images else "-"
        counts = (found.num_images, found.num_skipped, found.num_background, found.num_boxes)
        rows.append((split, *map(_count, counts), density))
    return _table([header, *rows])


def class_table(survey: Survey) -> str:
    """How often each class occurs, the most frequent of train first."""
    splits = survey.splits
    header = ["images" if survey.is_classification else "boxes (images)"]
    for split in splits:
        header += [split, "share"]
    totals = {split: max(found.num_boxes, 1) for split, found in splits.items()}
    first = next(iter(splits.values()))
    order = sorted(range(len(survey.names)), key=lambda c: -first.boxes_per_class[c])
    hidden = len(order) - MAX_CLASSES
    rows = []
    for place, index in enumerate(order):
        if hidden > 0 and MAX_CLASSES // 2 <= place < len(order) - MAX_CLASSES // 2:
            continue
        row = [_shortened(survey.names[index])]
        for split, found in splits.items():
            boxes, images = found.boxes_per_class[index], found.images_per_class[index]
            both = _count(boxes) if survey.is_classification else f"{boxes:,} ({images:,})"
            row += [both, f"{boxes / totals[split]:.1%}"]
        rows.append(row)
    if hidden > 0:
        note = [f"... {hidden} more, in report.json", *[""] * (len(header) - 1)]
        rows.insert(MAX_CLASSES // 2, note)
    return _table([header, *rows])


def size_table(survey: Survey) -> str:
    """How large boxes are."""
    quantiles = [f"{quantile:.0%}" for quantile in QUANTILES]
    tiny = f"< {TINY_PX} px at {survey.image_size}"
    rows = [["box sizes", "small", "medium", "large", "longer side, px:", *quantiles, tiny]]
    for split, found in survey.splits.items():
        sizes = found.sizes
        if sizes is not None:
            shares = [f"{share:.1%}" for share in (sizes.small, sizes.medium, sizes.large)]
            sides = [f"{side:.0f}" for side in sizes.longer_side_px]
            rows.append([split, *shares, "", *sides, _count(sizes.num_tiny)])
    return _table(rows)


def left_out_text(left_out: Mapping[str, Sequence[QuarantineRow]]) -> str:
    """The first things that were left out, and why."""
    lines = []
    for split, rows in left_out.items():
        lines.append(f"left out of {split}: {len(rows)} images or label rows")
        for row in rows[:MAX_REASONS]:
            place = row.file if row.row is None else f"{row.file}, row {row.row}"
            lines.append(f"  {place}: {row.reason}")
        if len(rows) > MAX_REASONS:
            lines.append(f"  ... {len(rows) - MAX_REASONS} more, in report.json")
    return "\n".join(lines)


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as needed, the first flush left, the others right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        cells = [text.rjust(width) for text, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *cells]).rstrip())
    return "\n".join(lines)


def _count(number: int) -> str:
    return f"{number:,}"


def _shortened(name: str) -> str:
    return name if len(name) <= MAX_NAME else name[: MAX_NAME - 2] + ".."
