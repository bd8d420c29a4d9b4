"""What a damaged or hostile file may look like: strategies that the tests of several readers share."""

from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

EXAMPLES = 6
"""Of each kind and reader; the whole file has to take seconds."""
quick = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)

damages = st.lists(
    st.tuples(st.sampled_from(["flip", "cut", "drop", "double", "insert"]), st.floats(0, 1), st.binary(max_size=3)),
    min_size=1, max_size=4,
)  # fmt: skip


def damaged(content: bytes, damage: list[tuple[str, float, bytes]]) -> bytes:
    for kind, place, new in damage:
        at = int(place * len(content))
        if kind == "flip":
            content = (
                content[:at]
                + bytes(b ^ 1 << len(new) for b in content[at : at + 1])
                + content[at + 1 :]
            )
        elif kind == "cut":
            content = content[:at]
        elif kind == "drop":
            content = content[:at] + content[at + 1 + len(new) :]
        elif kind == "double":
            content = content[:at] + content[at:] * 2
        else:
            content = content[:at] + new + content[at:]
    return content


def shapes(keys: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    leaves = st.one_of(
        st.none(), st.booleans(), st.integers(), st.integers(-(10**400), 10**400), st.floats(),
        st.text(max_size=5), st.sampled_from(["~x", "a/../b", "\0", "a" * 300, "1e-3", "1:2"]),
    )  # fmt: skip
    return st.recursive(
        leaves,
        lambda below: st.lists(below, max_size=3) | st.dictionaries(keys, below, max_size=3),
        max_leaves=6,
    )
