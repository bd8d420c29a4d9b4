"""What nodes lack is named."""

import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import ResourceError
from cluster.packages import NEEDED, NEEDED_BY_RANKS, check_packages, lacking

REPOSITORY = Path(__file__).parents[3]


def test_the_packages_are_those_of_pyproject_toml() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    names = {re.split(r"[=<>~]", requirement)[0] for requirement in project["dependencies"]}
    assert set(NEEDED.values()) == names
    assert NEEDED_BY_RANKS.items() < NEEDED.items()


def test_a_complete_python_lacks_nothing() -> None:
    assert lacking(NEEDED) == ""


def test_a_package_is_named_as_it_is_installed_not_as_it_is_imported() -> None:
    assert lacking({"no_such_cv": "opencv-python-headless", "json": "json"}).endswith(
        "lacks opencv-python-headless"
    )


def test_every_host_that_lacks_something_is_named() -> None:
    def run_everywhere(function: Callable[..., Any], *args: Any) -> dict[str, str]:
        return {"head": "", "node-1": "python lacks mlflow", "node-2": "python lacks rich"}

    with pytest.raises(ResourceError) as raised:
        check_packages(run_everywhere, NEEDED)
    *_, first, second = str(raised.value).splitlines()
    assert (first.strip(), second.strip()) == (
        "node-1: python lacks mlflow", "node-2: python lacks rich",
    )  # fmt: skip
    assert "install" in str(raised.value) and "head" not in str(raised.value)
