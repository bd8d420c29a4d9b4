from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.config_io import (
    dump_yaml,
    from_dict,
    leaf_paths,
    load_yaml,
    merge,
    parse_yaml,
    replace_at,
    to_dict,
    value_at,
)
from cluster.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class Optim:
    lr: float = 0.01
    name: Literal["sgd", "adam"] = "sgd"
    betas: tuple[float, ...] = (0.9, 0.999)

    def __post_init__(self) -> None:
        if self.lr < 0:
            raise ConfigError(f"optim.lr must be >= 0, got {self.lr}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Train:
    epochs: int = 1
    workers: int | Literal["auto"] = "auto"
    name: str | None = None
    folder: Path | None = None
    nesterov: bool = False
    optim: Optim = field(default_factory=Optim)


@dataclass(frozen=True, kw_only=True, slots=True)
class Needs:
    size: int


TRAINS = st.builds(
    Train,
    epochs=st.integers(),
    workers=st.integers() | st.just("auto"),
    name=st.none() | st.text(st.characters(exclude_categories=("Cs",))),
    nesterov=st.booleans(),
    optim=st.builds(
        Optim,
        lr=st.floats(min_value=0, allow_nan=False),
        betas=st.lists(st.floats(allow_nan=False), max_size=3).map(tuple),
    ),
)


@given(TRAINS)
def test_config_to_yaml_to_config_is_the_identity(config: Train) -> None:
    assert from_dict(Train, parse_yaml(dump_yaml(config), "test")) == config


@pytest.mark.parametrize(
    "text",
    ["1:2", "12:30", "no", "on", "true", "null", "~", "", "1e-3", "010", "1_000", "2026-11-21",
     "<<", "a: b", "# x", ".inf", "-", "'", "\n", "0x1f"],
)  # fmt: skip
def test_text_survives_whatever_yaml_could_take_it_for(text: str) -> None:
    assert parse_yaml(dump_yaml({"key": text}), "test") == {"key": text}


@pytest.mark.parametrize(
    ("scalar", "value"),
    [("1e-3", 0.001), ("1.", 1.0), (".5", 0.5), ("-1E+2", -100.0), (".inf", float("inf")),
     ("7", 7), ("-7", -7), ("true", True), ("null", None), ("", None),
     ("1:2", "1:2"), ("no", "no"), ("2026-11-21", "2026-11-21"), ("010", "010")],
)  # fmt: skip
def test_plain_scalars_follow_yaml_1_2(scalar: str, value: object) -> None:
    read = parse_yaml(f"key: {scalar}", "test")["key"]
    assert read == value
    assert type(read) is type(value)


def test_a_key_that_stands_twice_is_named_with_its_lines() -> None:
    with pytest.raises(ConfigError, match=r"run.yaml, line 4: key 'lr' stands twice.*line 2"):
        parse_yaml("optim:\n  lr: 1\n  name: sgd\n  lr: 2\n", "run.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- 1", "must hold `key: value` lines, got a list"),
        ("a: 1\nb: [", "run.yaml, line 2"),
        ("a: !!python/object/apply:os.getcwd []", "line 1"),
        ("? [1]\n: 2", "line 1"),
        ("a: \x00", "not YAML"),
    ],
)
def test_what_is_no_yaml_mapping_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_yaml(text, "run.yaml")


def test_a_missing_file_is_named_with_the_absolute_path() -> None:
    with pytest.raises(ConfigError, match=rf"nowhere.yaml.*{Path.cwd()}"):
        load_yaml("nowhere.yaml")


def test_an_empty_file_and_an_empty_section_are_all_defaults(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("")
    (tmp_path / "b.yaml").write_text("optim:\n")
    for name in ("a.yaml", "b.yaml"):
        assert from_dict(Train, load_yaml(tmp_path / name)) == Train()


def test_all_wrong_settings_are_named_at_once_each_in_a_line() -> None:
    data = {"optim": {"lr": "high", "nmae": "sgd"}, "epochs": 1.5, "epoch": 2, "nesterov": 1}
    with pytest.raises(ConfigError) as caught:
        from_dict(Train, data, "run.yaml")
    assert str(caught.value).splitlines() == [
        "run.yaml: optim.lr must be a number, got 'high'",
        "run.yaml: unknown setting 'optim.nmae': did you mean optim.name?",
        "run.yaml: epochs must be a whole number, got 1.5",
        "run.yaml: unknown setting 'epoch': did you mean epochs?",
        "run.yaml: nesterov must be true or false, got 1",
    ]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"workers": "many"}, "workers must be a whole number or auto, got 'many'"),
        ({"workers": True}, "workers must be a whole number or auto, got True"),
        ({"optim": {"name": "sdg"}}, "optim.name must be sgd or adam, got 'sdg'"),
        ({"name": 3}, "name must be text or null, got 3"),
        ({"optim": 3}, "optim must be a group of settings, got 3"),
        ({"epochs": "3"}, "epochs must be a whole number, got '3'"),
        ({"epochs": None}, "epochs must be a whole number, got None"),
    ],
)
def test_a_wrong_type_is_told_what_would_be_right(data: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        from_dict(Train, data)
    assert str(caught.value) == message


def test_a_required_setting_is_named() -> None:
    with pytest.raises(ConfigError, match="size is required: a whole number"):
        from_dict(Needs, {})


def test_an_error_of_the_dataclass_comes_through_unwrapped() -> None:
    with pytest.raises(ConfigError) as caught:
        from_dict(Train, {"optim": {"lr": -1.0}})
    assert str(caught.value) == "optim.lr must be >= 0, got -1.0"


def test_a_whole_number_fills_a_float_and_a_list_fills_a_tuple() -> None:
    config = from_dict(Train, {"optim": {"lr": 1, "betas": [0.5, 1]}})
    assert config.optim == Optim(lr=1.0, betas=(0.5, 1.0))
    assert type(config.optim.lr) is float


def test_a_path_becomes_text_and_comes_back() -> None:
    config = Train(folder=Path("/a/b"))
    assert to_dict(config)["folder"] == "/a/b"
    assert from_dict(Train, to_dict(config)) == config


def test_leaf_paths_name_every_setting_in_order() -> None:
    assert list(leaf_paths(Train)) == [
        "epochs", "workers", "name", "folder", "nesterov", "optim.lr", "optim.name", "optim.betas",
    ]  # fmt: skip


def test_what_is_replaced_is_found_again_and_nothing_else_changes() -> None:
    before = Train(epochs=7)
    after = replace_at(before, "optim.lr", 0.5)
    assert value_at(after, "optim.lr") == 0.5
    assert replace_at(after, "optim.lr", 0.01) == before


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("lr", 1.0, "unknown setting 'lr': did you mean optim.lr?"),
        ("optim.rl", 1.0, "did you mean optim.lr?"),
        ("optim", 1.0, "unknown setting 'optim'"),
        ("optim.lr", "x", "optim.lr must be a number"),
        ("optim.lr", -1.0, "optim.lr must be >= 0"),
    ],
)
def test_a_replacement_is_checked_like_a_file(path: str, value: object, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        replace_at(Train(), path, value)
    assert message in str(caught.value)


def test_overrides_are_laid_over_and_the_rest_stays() -> None:
    base = Train(epochs=7, optim=Optim(lr=0.5))
    merged = merge(base, {"optim": {"name": "adam"}, "nesterov": True})
    assert merged == Train(epochs=7, nesterov=True, optim=Optim(lr=0.5, name="adam"))


def test_an_unknown_override_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"sweep: unknown setting 'optim.x'"):
        merge(Train(), {"optim": {"x": 1}}, "sweep")
