"""docs/operations.md says what the code says: its tables of arithmetic, and the messages it quotes."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from benchmarks import link_speed, memory

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "operations.md").read_text()
_, _, FAILURES = TEXT.partition("\n## Common failures\n")
OURS = FAILURES.partition("\nRay's, NCCL's")[0]
MESSAGES = re.findall(r"^\| `(.+?)`.*\|$", OURS, flags=re.M)


@cache
def texts() -> list[str]:
    """Every text in our packages; what is filled in is a NUL."""
    found = []
    for package in ("cluster", "trainjobs", "tuning"):
        for file in (ROOT / package).rglob("*.py"):
            nodes = list(ast.walk(ast.parse(file.read_text())))
            docstrings = {node.value for node in nodes if isinstance(node, ast.Expr)}
            found += [
                re.sub(r"%[sd]", "\0", _text(node))
                for node in nodes
                if isinstance(node, ast.JoinedStr | ast.Constant) and node not in docstrings
            ]
    return found


def _text(node: ast.expr) -> str:
    if isinstance(node, ast.JoinedStr):
        return "".join(map(_text, node.values))
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else "\0"


def test_there_are_messages() -> None:
    assert len(MESSAGES) > 20


@pytest.mark.parametrize("message", MESSAGES)
def test_every_message_that_is_quoted_as_ours_is_in_the_code(message: str) -> None:
    parts = [re.escape(part) for part in message.split("...")]
    pattern = re.compile(".*?\0.*?".join(parts), flags=re.S)
    assert any(pattern.search(text) for text in texts())


@pytest.mark.parametrize(
    "table",
    [link_speed.bytes_table, lambda: link_speed.times_table(link_speed.MANY), memory.memory_table],
    ids=["bytes", "times", "memory"],
)
def test_the_tables_of_sizes_are_what_the_benchmarks_print(table) -> None:  # type: ignore[no-untyped-def]  # three functions
    assert table() in TEXT


def test_an_all_reduce_of_two_nodes_moves_the_gradients_once() -> None:
    assert link_speed.moved_bytes(1000, 2) == 4000
    assert link_speed.all_reduce_ms(100_000, 2, 1) == pytest.approx(4.0)  # 3.2 Mbit at 0.8 Gbit/s


def test_every_link_of_the_page_leads_somewhere() -> None:
    anchors = {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ (.*)$", TEXT, flags=re.M)
    }
    for target in re.findall(r"\]\(([^)]+)\)", TEXT):
        if target.startswith("#"):
            assert target[1:] in anchors
        else:
            assert (ROOT / "docs" / target).exists(), target
