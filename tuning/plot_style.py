"""What a sweep's pictures share: colors, axes, text that can be drawn, and where a value stands."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from matplotlib.axes import Axes

from tuning.config import Mode
from tuning.importance import is_number
from tuning.table import short_value

DPI = 120
INK, FAINT, MUTED = "#24292f", "#d0d7de", "#8c959f"
ACCENT, FAILED, BAR = "#e8590c", "#c92a2a", "#1f77b4"
MAX_TEXT = 18
WIDE_RATIO = 100
"""Between the worst and the best loss, from which on a logarithmic axis shows more."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scale:
    """Where the values of one setting stand on its axis."""

    kind: Literal["linear", "log", "category"]
    categories: tuple[str, ...] = ()

    def number(self, value: Any) -> float:
        """Place of a value on a linear or logarithmic axis; of a category its index."""
        if self.kind == "category":
            return float(self.categories.index(short_value(value)))
        return float(value)


def scale_of(values: Sequence[Any], *, is_log: bool) -> Scale:
    """Text, flags and mixtures become categories; a logarithm needs positive numbers."""
    if values and all(is_number(value) for value in values):
        kind: Literal["linear", "log"] = "log" if is_log and min(values) > 0 else "linear"
        return Scale(kind=kind)
    numbers = sorted({value for value in values if is_number(value)})
    words = sorted({short_value(value) for value in values if not is_number(value)})
    names = dict.fromkeys([*(short_value(value) for value in numbers), *words])
    return Scale(kind="category", categories=tuple(names))


def is_wide(scores: Sequence[float], mode: Mode) -> bool:
    """Whether a diverged trial would press a loss's other values into a line."""
    return mode == "min" and min(scores) > 0 and max(scores) / min(scores) > WIDE_RATIO


def plain_axes(axes: Axes) -> Axes:
    """The same look for every plot."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color=FAINT, lw=0.6)
    axes.set_axisbelow(True)
    return axes


def plain_text(text: str) -> str:
    """Short, in characters that the font has, and nothing in it read as a formula."""
    text = text.encode("ascii", "backslashreplace").decode()
    clipped = text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 2] + ".."
    return clipped.replace("$", r"\$")
