"""YAML by the 1.2 rules: `1e-3` is a number, `1:2`, `no` and `2026-11-21` are text.

PyYAML's own 1.1 rules would turn the elastic request `1:2` into 62. Whatever a file holds, reading
it runs no code and ends soon.
"""

import re
from typing import Any

import yaml

# YAML 1.2.2, section 10.3.2 "Tag Resolution" of the core schema, less octal numbers.
_SCALARS = (
    ("tag:yaml.org,2002:null", r"~|null|Null|NULL|", "~nN\0"),
    ("tag:yaml.org,2002:bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("tag:yaml.org,2002:int", r"[-+]?(0|[1-9][0-9]*)", "-+0123456789"),
    (
        "tag:yaml.org,2002:float",
        r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*)([eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+"
        r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+0123456789.",
    ),
    ("tag:yaml.org,2002:merge", r"<<", "<"),
)
_RESOLVERS: dict[str, list[tuple[str, re.Pattern[str]]]] = {}
for _tag, _pattern, _first in _SCALARS:
    for _char in _first.replace("\0", ""):
        _RESOLVERS.setdefault(_char, []).append((_tag, re.compile(rf"(?:{_pattern})$")))
_RESOLVERS[""] = [("tag:yaml.org,2002:null", re.compile("$"))]  # PyYAML's key for an empty value

MAX_VALUES = 1_000_000
"""Of one YAML file; a few aliases of aliases would fill any memory."""
_SURROGATES = re.compile("[\\ud800-\\udfff]")  # halves of a character, which UTF-8 does not have
_UNICODE_BREAKS = frozenset("\x85\u2028\u2029")


class Loader(yaml.SafeLoader):
    """Safe; YAML 1.2 scalars; a key that stands twice is an error."""

    yaml_implicit_resolvers = _RESOLVERS

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping without repeated keys."""
        lines: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if isinstance(key, yaml.ScalarNode):
                if key.value in lines:
                    reason = f"key {key.value!r} stands twice, first in line {lines[key.value]}"
                    raise yaml.MarkedYAMLError(problem=reason, problem_mark=key.start_mark)
                lines[key.value] = line
        return super().construct_mapping(node, deep)

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> Any:
        """Text that can be written to a file."""
        text = super().construct_scalar(node)
        if _SURROGATES.search(str(text)):  # out of an escape such as "\\ud800"
            reason = f"text must not hold half a character, got {text!r}"
            raise yaml.MarkedYAMLError(problem=reason, problem_mark=node.start_mark)
        return text

    def get_single_node(self) -> Any:
        """The file's only document, unless it would not fit into memory."""
        node = super().get_single_node()
        if node is not None and _size(node, {}) > MAX_VALUES:
            reason = f"holds more than {MAX_VALUES} values, written out"
            raise yaml.MarkedYAMLError(problem=reason, problem_mark=node.start_mark)
        return node


def _size(node: yaml.Node, known: dict[yaml.Node, int]) -> int:
    """Values in a node if every alias in it were written out; infinite if it holds itself."""
    if not isinstance(node, yaml.CollectionNode):
        return 1
    if node not in known:
        known[node] = MAX_VALUES + 1  # until it is known
        parts = (
            node.value
            if isinstance(node, yaml.SequenceNode)
            else [x for xy in node.value for x in xy]
        )
        known[node] = 1 + sum(_size(part, known) for part in parts)
    return known[node]


class Dumper(yaml.SafeDumper):
    """Quotes exactly the text that `Loader` would read as something else."""

    yaml_implicit_resolvers = _RESOLVERS

    def represent_text(self, text: str) -> yaml.ScalarNode:
        """Text, quoted where it must be."""
        # Outside of double quotes PyYAML folds Unicode's line breaks.
        style = '"' if _UNICODE_BREAKS.intersection(text) else None
        return self.represent_scalar("tag:yaml.org,2002:str", text, style)


Dumper.add_representer(str, Dumper.represent_text)
