"""What the pictures share: resolution, colors, axes, and text that can be drawn."""

from matplotlib.axes import Axes

DPI = 120
INK, FAINT = "#24292f", "#d0d7de"
# Hues that stay apart, also for most color-blind readers, on photographs.
COLORS = (
    "#1f77b4",
    "#e8590c",
    "#2b8a3e",
    "#c2255c",
    "#7048e8",
    "#0b7285",
    "#a17000",
    "#5f3dc4",
    "#d6336c",
    "#364fc7",
)


def class_color(index: int) -> str:
    """Color of a class or curve, the same in every picture."""
    return COLORS[index % len(COLORS)]


def plain_axes(axes: Axes) -> Axes:
    """The same look for every plot."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color=FAINT, lw=0.6)
    axes.set_axisbelow(True)
    return axes


def plain_text(text: str, length: int) -> str:
    """At most so many characters, the end being kept; in those that the font has, no formula."""
    text = text.encode("ascii", "backslashreplace").decode()
    clipped = text if len(text) <= length else f"..{text[2 - length :]}"
    return clipped.replace("$", r"\$")
