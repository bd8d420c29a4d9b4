"""Constraints of a search space: comparisons such as `epochs * optim.accumulate <= 100`.

Text from a file is never run as code: it is parsed, and a small walker computes the numbers.
"""

import ast
import math
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from itertools import pairwise
from typing import Any

from cluster.config_io import replace_at, value_at
from cluster.errors import ConfigError
from trainjobs.config import TrainConfig
from trainjobs.resolve import resolve_launch
from tuning.dimension import Dimension, check_no_section

_ARITHMETIC: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_COMPARISONS: dict[type[ast.cmpop], Callable[[float, float], bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
}
_ALIASES = {"images_per_step": "optim.images_per_step"}
_GRAMMAR = "a comparison (< <= > >= ==) of numbers and settings joined by + - * / ( )"


def names_in(text: str) -> tuple[str, ...]:
    """The settings that a constraint reads, in order of appearance, each once.

    Raises:
        ConfigError: The text is no constraint.
    """
    return tuple(dict.fromkeys(_names(_parsed(text))))


def holds(text: str, config: TrainConfig, world_size: int) -> bool:
    """Whether a config satisfies a constraint. One that divides by zero or overflows does not.

    Raises:
        ConfigError: The text is no constraint, or names something that is no setting.
    """
    numbers = {name: value_in_force(config, name, world_size) for name in names_in(text)}
    comparison = _parsed(text)
    try:
        terms = [_number(node, numbers) for node in (comparison.left, *comparison.comparators)]
    except (ZeroDivisionError, OverflowError):
        return False
    return all(
        _COMPARISONS[type(compare)](left, right)
        for compare, (left, right) in zip(comparison.ops, pairwise(terms), strict=True)
    )


def value_in_force(config: TrainConfig, path: str, world_size: int) -> Any:
    """A setting as a launch resolves it: images per step and accumulation as numbers.

    Args:
        path: of a setting, or `images_per_step`.

    Raises:
        ConfigError: There is no such setting.
    """
    resolved = resolve_launch(config, world_size=world_size)
    value = value_at(resolved, _ALIASES.get(path, path))
    if path == "optim.accumulate" and value == "auto":
        assert resolved.optim.images_per_step is not None  # set by resolve_launch
        return math.ceil(
            resolved.optim.images_per_step / (config.batch_size_per_worker * world_size)
        )
    return value


def check_constraint(
    text: str, dimensions: Sequence[Dimension], base: TrainConfig, world_size: int
) -> None:
    """Check that a constraint reads numbers, in the base config and in every trial.

    Raises:
        ConfigError: The text is no constraint, or names something that is no number.
    """
    for name in names_in(text):
        path = _ALIASES.get(name, name)
        varied = [dimension for dimension in dimensions if dimension.path == path]
        configs = [replace_at(base, path, value) for d in varied for value in d.extremes]
        if not varied or varied[0].when:
            configs.append(base)
        try:
            check_no_section(path)
            values = [value_in_force(config, path, world_size) for config in configs]
        except ConfigError as error:
            raise ConfigError(f"constraint {text!r}: {error}") from error
        for value in values:
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise ConfigError(f"constraint {text!r}: {name} must be a number, got {value!r}")


@cache
def _parsed(text: str) -> ast.Compare:
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    # ValueError: a null character; the others: thousands of brackets.
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ConfigError(f"constraint {text!r} must be {_GRAMMAR}") from error
    if not isinstance(tree, ast.Compare) or any(type(op) not in _COMPARISONS for op in tree.ops):
        raise ConfigError(f"constraint {text!r} must be {_GRAMMAR}")
    for term in (tree.left, *tree.comparators):
        _check_term(term, text)
    return tree


def _check_term(node: ast.expr, text: str) -> None:
    match node:
        case ast.Constant(value=int() | float()) if not isinstance(node.value, bool):
            pass
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            _check_term(operand, text)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
            _check_term(left, text)
            _check_term(right, text)
        case _ if _dotted(node) is None:
            raise ConfigError(
                f"constraint {text!r} must be {_GRAMMAR}, and has {ast.unparse(node)!r}"
            )


def _number(node: ast.expr, numbers: Mapping[str, float]) -> float:
    match node:
        case ast.Constant(value=int() | float() as number):
            return number
        case ast.UnaryOp(operand=operand):
            return -_number(operand, numbers)
        case ast.BinOp(left=left, op=op, right=right):
            return _ARITHMETIC[type(op)](_number(left, numbers), _number(right, numbers))
    name = _dotted(node)
    assert name is not None  # by _check_term
    return numbers[name]


def _names(node: ast.AST) -> Iterator[str]:
    name = _dotted(node)
    if name is not None:
        yield name
        return
    for child in ast.iter_child_nodes(node):
        yield from _names(child)


def _dotted(node: ast.AST) -> str | None:
    """`optim.lr` of the tree of attributes that Python reads it as."""
    match node:
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=value, attr=name):
            prefix = _dotted(value)
            return None if prefix is None else f"{prefix}.{name}"
    return None
