"""One HTML page in one file, readable on a phone and in the dark: no part of it is fetched.

All text that comes in is escaped here, so callers give plain text.
"""

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

STYLE = """
:root { color-scheme: light dark; --ink: #1f2328; --soft: #59636e; --line: #d0d7de;
  --back: #ffffff; --card: #f6f8fa; --accent: #c2410c; --bad: #c92a2a; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --soft: #9198a1; --line: #3d444d;
  --back: #0d1117; --card: #161b22; --accent: #ff9b5e; --bad: #ff8787; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 76rem; color: var(--ink); background: var(--back);
  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; margin: .5rem 0 0; } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
p { margin: .5rem 0; max-width: 48rem; } .soft { color: var(--soft); }
.lead { font-size: 1.1rem; border-left: 4px solid var(--accent); padding-left: .8rem; }
.cards { display: flex; flex-wrap: wrap; gap: .6rem; margin: 1rem 0; }
.card { flex: 1 1 9rem; background: var(--card); border: 1px solid var(--line);
  border-radius: 8px; padding: .6rem .8rem; }
.card b { display: block; font-size: 1.3rem; } .card span { color: var(--soft); font-size: .85rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .85rem; }
th, td { padding: .3rem .6rem; border-bottom: 1px solid var(--line); text-align: left;
  vertical-align: top; white-space: nowrap; } td { font-variant-numeric: tabular-nums; }
td.number, th.number { text-align: right; } td.long { white-space: normal; min-width: 16rem; }
tr.marked td { font-weight: 600; color: var(--accent); }
table.sortable th { cursor: pointer; } th[data-order]::after { content: " \\2193"; }
th[data-order="1"]::after { content: " \\2191"; }
figure { margin: 1rem 0; } figcaption { color: var(--soft); font-size: .9rem; max-width: 48rem; }
img { max-width: 100%; height: auto; background: #fff; border-radius: 6px; padding: 4px; }
@media (max-width: 40rem) { figure img { max-width: none; width: 40rem; } }
pre { background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  padding: .6rem .8rem; overflow-x: auto; font-size: .85rem; }
"""
SCRIPT = """
for (const table of document.querySelectorAll("table.sortable"))
  table.querySelectorAll("th").forEach((head, place) => head.addEventListener("click", () => {
    const order = head.dataset.order === "1" ? -1 : 1, body = table.tBodies[0];
    table.querySelectorAll("th").forEach(other => delete other.dataset.order);
    head.dataset.order = order;
    const key = row => row.cells[place].dataset.value ?? row.cells[place].textContent;
    const compare = (a, b) => {
      const [x, y] = [key(a), key(b)];
      if (x === "" || y === "") return (x === "") - (y === "");  // what is missing stays last
      const [m, n] = [Number(x), Number(y)];
      return order * (isNaN(m) || isNaN(n) ? x.localeCompare(y) : m - n);
    };
    [...body.rows].sort(compare).forEach(row => body.append(row));
  }));
"""


class Cell(NamedTuple):
    """A cell of a table."""

    text: str
    value: float | str | None = None
    """What the table is sorted by, if not the text."""
    is_long: bool = False


def page(title: str, sections: Sequence[str]) -> str:
    """A whole document of sections that the other functions made."""
    body = "\n".join(sections)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n"
        f"<body>\n{body}\n<script>{SCRIPT}</script></body></html>\n"
    )


def heading(text: str, level: int = 2) -> str:
    """A heading."""
    return f"<h{level}>{escape(text)}</h{level}>"


def paragraph(text: str, kind: str = "") -> str:
    """A paragraph; kind `lead` is the conclusion, `soft` a remark."""
    return f'<p class="{kind}">{escape(text)}</p>'


def cards(facts: Sequence[tuple[str, str]]) -> str:
    """Key figures as (what it is, figure)."""
    boxes = (
        f'<div class="card"><span>{escape(name)}</span><b>{escape(figure)}</b></div>'
        for name, figure in facts
    )
    return f'<div class="cards">{"".join(boxes)}</div>'


def table(
    header: Sequence[str], rows: Sequence[Sequence[Cell]], *, marked: Sequence[int] = ()
) -> str:
    """A table that is sorted by a click on a column's head.

    Args:
        header: names of the columns.
        rows: as many cells each; a column whose cells have numbers as values is right-aligned.
        marked: indices of rows that stand out.
    """
    sides = [
        ' class="number"' if any(isinstance(row[place].value, float | int) for row in rows) else ""
        for place in range(len(header))
    ]
    heads = "".join(
        f"<th{side}>{escape(name)}</th>" for name, side in zip(header, sides, strict=True)
    )
    lines = []
    for place, row in enumerate(rows):
        cells = "".join(_cell(cell, side) for cell, side in zip(row, sides, strict=True))
        lines.append(f"<tr{' class=marked' * (place in marked)}>{cells}</tr>")
    body = "\n".join(lines)
    return (
        f'<div class="wide"><table class="sortable"><thead><tr>{heads}</tr></thead>\n'
        f"<tbody>{body}</tbody></table></div>"
    )


def figure(path: Path, caption: str) -> str:
    """A PNG file, as part of the page."""
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    return (
        f'<figure><div class="wide"><img alt="{escape(caption)}" '
        f'src="data:image/png;base64,{data}"></div>'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def commands(lines: Sequence[str]) -> str:
    """Commands to copy."""
    text = "\n".join(lines)
    return f"<pre>{escape(text)}</pre>"


def _cell(cell: Cell, side: str) -> str:
    value = "" if cell.value is None else f' data-value="{escape(str(cell.value))}"'
    kind = ' class="long"' if cell.is_long else side
    text = escape(cell.text).replace("\n", "<br>")
    return f"<td{kind}{value}>{text}</td>"
