"""Labels in px of an image as it is stored, turned to how it is shown.

Some tools write the size that an image has before its EXIF orientation is applied, and corners in
px of that. Only a quarter turn shows in the size; else labels are taken for the upright image.
"""

from pathlib import Path

from trainjobs.data.exif import UPRIGHT, read_orientation
from trainjobs.data.formats.files import read_bytes
from trainjobs.data.formats.labels import BadLabelsError, Box, Labels

# EXIF orientation -> whether x and y, once swapped, run from the other side.
# Source: Exif 2.32 (CIPA DC-008), section 4.6.4, tag 0x0112.
_QUARTER_TURNS = {5: (False, False), 6: (True, False), 7: (True, True), 8: (False, True)}


def find_orientation(
    image: Path,
    stated: tuple[float | None, float | None],
    upright: tuple[int, int],
    label_file: Path,
) -> int:
    """Which EXIF orientation leads from the size that labels state to the upright image.

    Args:
        image: That the labels are for.
        stated: Height and width that they give; None or 0: they give none.
        upright: Height and width of the image.
        label_file: That states it, for the error.

    Returns:
        1 where the sizes agree; 5 to 8 where they are swapped and the image's EXIF says why.

    Raises:
        BadLabelsError: The sizes contradict each other: the labels are for another image.
    """
    height, width = stated
    true_height, true_width = upright
    if not height or not width or (height == true_height and width == true_width):
        return UPRIGHT
    if height == true_width and width == true_height:
        orientation = read_orientation(read_bytes(image))
        if orientation in _QUARTER_TURNS:
            return orientation
    reason = f"is for {width:g} x {height:g} px, but {image.name} has {true_width} x {true_height}"
    raise BadLabelsError(str(label_file), reason)


def turn_upright(labels: Labels, orientation: int) -> None:
    """Turn labels of an image as stored, in place, to those of the upright image."""
    if orientation == UPRIGHT:
        return
    labels.boxes_cxcywh_norm = [_turn_box(box, orientation) for box in labels.boxes_cxcywh_norm]
    labels.polygons_norm = [
        [
            place
            for x, y in zip(polygon[0::2], polygon[1::2], strict=True)
            for place in _turn_point(x, y, orientation)
        ]
        for polygon in labels.polygons_norm
    ]


def _turn_point(x: float, y: float, orientation: int) -> tuple[float, float]:
    from_right, from_bottom = _QUARTER_TURNS[orientation]
    return 1 - y if from_right else y, 1 - x if from_bottom else x


def _turn_box(box: Box, orientation: int) -> Box:
    x, y, width, height = box
    return (*_turn_point(x, y, orientation), height, width)
