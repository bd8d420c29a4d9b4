"""Between YAML, plain dicts and the frozen config dataclasses. Whatever is unknown is an error.

A setting is named by its dotted path.
"""

import dataclasses
import difflib
import json
from collections.abc import Iterable, Mapping
from functools import cache, reduce
from pathlib import Path, PurePath
from types import NoneType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import yaml
from pydantic import TypeAdapter, ValidationError

from cluster.errors import ConfigError
from cluster.yaml_rules import Dumper, Loader

Config = TypeVar("Config")
Tree = dict[str, Any]

_WORDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    NoneType: "null",
}


def load_yaml(path: str | Path) -> Tree:
    """Read one YAML mapping from a local file; an empty file is an empty mapping.

    Raises:
        ConfigError: Not readable, not YAML, not a mapping, or a key stands twice; names the line.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ConfigError(f"{path}: no such file (looked for {Path(path).absolute()})") from error
    except (OSError, ValueError) as error:  # ValueError: no UTF-8, or no possible path
        raise ConfigError(f"{path}: cannot be read as text: {error}") from error
    return parse_yaml(text, str(path))


def parse_yaml(text: str, source: str) -> Tree:
    """A YAML mapping in a text that came from `source`; as `load_yaml`."""
    try:
        data = yaml.load(text, Loader)  # a SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{source}, line {mark.line + 1}" if mark else source
        raise ConfigError(f"{place}: {error.problem or 'not YAML'}") from error
    except RecursionError as error:
        raise ConfigError(f"{source}: nested too deeply") from error
    # PyYAML's constructors raise the last three for `!!bool x`, `!!timestamp x` and their like.
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError) as error:
        raise ConfigError(f"{source}: not YAML: {error}") from error
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError(f"{source}: must hold `key: value` lines, got a {type(data).__name__}")
    return data


def from_dict(cls: type[Config], data: Mapping[str, Any], source: str = "") -> Config:
    """Build a config dataclass, whose sections are dataclasses, from nested plain values.

    Raises:
        ConfigError: Unknown settings and values of a wrong type, one line each, or what the
            dataclasses themselves find wrong; led by `source`.
    """
    problems: list[str] = []
    checked = _check_tree(cls, data, "", problems)
    if problems:
        raise ConfigError("\n".join(f"{source}: {line}" if source else line for line in problems))
    try:
        config: Config = _build(cls, checked)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}" if source else str(error)) from error
    return config


def to_dict(config: object) -> Tree:
    """Nested plain values of a config: dicts, lists, numbers, text, None."""
    plain = _plain(config)
    assert isinstance(plain, dict)
    return plain


def dump_yaml(config: object) -> str:
    """A config (or a tree of plain values) as YAML that `load_yaml` and `from_dict` turn back into it."""
    return yaml.dump(_plain(config), Dumper=Dumper, sort_keys=False, allow_unicode=True, width=100)


def leaf_paths(cls: Any) -> dict[str, Any]:
    """Dotted path -> type of every setting below a config dataclass, in order of declaration."""
    leaves: dict[str, Any] = {}
    for name, hint in _fields(cls).items():
        if dataclasses.is_dataclass(hint):
            below = leaf_paths(hint)
            leaves |= {f"{name}.{path}": leaf for path, leaf in below.items()}
        else:
            leaves[name] = hint
    return leaves


def value_at(config: object, path: str) -> Any:
    """Value of one setting.

    Raises:
        ConfigError: There is no such setting.
    """
    _check_path(type(config), path)
    return reduce(getattr, path.split("."), config)


def replace_at(config: Config, path: str, value: object) -> Config:
    """A copy with one setting changed, checked as if it had been read.

    Raises:
        ConfigError: There is no such setting, or its value is of a wrong type or not allowed.
    """
    _check_path(type(config), path)
    head, *rest = reversed(path.split("."))
    overrides: Tree = reduce(lambda below, name: {name: below}, rest, {head: value})
    return merge(config, overrides)


def merge(base: Config, overrides: Mapping[str, Any], source: str = "") -> Config:
    """A copy of a config with the settings of a partial tree laid over it.

    Raises:
        ConfigError: As `from_dict`.
    """
    return from_dict(type(base), _merged(to_dict(base), overrides, type(base)), source)


def unknown_name(name: str, known: Iterable[str], prefix: str = "") -> str:
    """The end of an "unknown" message: the closest of the known names, or all if few."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if close:
        return f"did you mean {prefix}{close[0]}?"
    return f"known: {', '.join(known)}" if len(known) <= 30 else "see --help"


@cache
def _fields(cls: Any) -> dict[str, Any]:
    hints = get_type_hints(cls)
    return {f.name: hints[f.name] for f in dataclasses.fields(cls) if f.init}


@cache
def _adapter(hint: Any) -> TypeAdapter[Any]:
    return TypeAdapter(hint)


def _check_path(cls: type, path: str) -> None:
    leaves = leaf_paths(cls)
    if path in leaves:
        return
    # The same name in another section (`lr` -> `optim.lr`) is closer than a similar spelling.
    same = [leaf for leaf in leaves if leaf.rpartition(".")[2] == path.rpartition(".")[2]]
    hint = f"did you mean {' or '.join(same)}?" if same else unknown_name(path, leaves)
    raise ConfigError(f"unknown setting {path!r}: {hint}")


def _check_tree(cls: Any, data: object, prefix: str, problems: list[str]) -> Tree:
    """Checked keyword arguments of `cls`, nested as `cls` is; what is wrong goes to `problems`."""
    data = {} if data is None else data
    if not isinstance(data, Mapping):
        what = prefix.rstrip(".") or "a config"
        problems.append(f"{what} must be a group of settings, got {data!r}")
        return {}
    fields, checked = _fields(cls), Tree()
    for name, value in data.items():
        path = f"{prefix}{name}"
        if name not in fields:
            close = unknown_name(str(name), fields, prefix)
            problems.append(f"unknown setting {path!r}: {close}")
        elif dataclasses.is_dataclass(fields[name]):
            checked[name] = _check_tree(fields[name], value, f"{path}.", problems)
        else:
            try:
                checked[name] = _check_leaf(fields[name], value)
            except (ValidationError, TypeError, ValueError):
                problems.append(f"{path} must be {_describe(fields[name])}, got {value!r}")
    problems += [
        f"{prefix}{field.name} is required: {_describe(fields[field.name])}"
        for field in dataclasses.fields(cls)
        if field.init
        and field.name not in data
        and field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    ]
    return checked


def _check_leaf(hint: Any, value: object) -> Any:
    """Strict: no number out of text, no number out of a bool. By JSON rules a list fills a tuple."""
    return _adapter(hint).validate_json(json.dumps(_plain(value)), strict=True)


def _build(cls: Any, checked: Tree) -> Any:
    fields = _fields(cls)
    values = {
        name: _build(fields[name], value) if dataclasses.is_dataclass(fields[name]) else value
        for name, value in checked.items()
    }
    return cls(**values)


def _merged(base: Tree, overrides: Mapping[str, Any], cls: Any) -> Tree:
    """Sections are laid over each other; a setting that is itself a mapping is replaced."""
    fields, merged = _fields(cls), dict(base)
    for name, value in overrides.items():
        section = fields.get(name)
        if dataclasses.is_dataclass(section) and isinstance(value, Mapping):
            merged[name] = _merged(base[name], value, section)
        elif not (dataclasses.is_dataclass(section) and value is None):
            merged[name] = value
    return merged


def _plain(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value) if f.init}
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, PurePath) else value


def _describe(hint: Any) -> str:
    """A type in words: `int | Literal["auto"]` is "a whole number or auto"."""
    origin, args = get_origin(hint), get_args(hint)
    if hint in _WORDS:
        words = _WORDS[hint]
    elif origin is Literal:
        words = " or ".join(str(arg) for arg in args)
    elif origin in (list, tuple, set, frozenset):
        words = "a list"
    elif origin is dict:
        words = "a group of `key: value`"
    else:
        words = " or ".join(_describe(arg) for arg in args) or str(hint)
    return words
