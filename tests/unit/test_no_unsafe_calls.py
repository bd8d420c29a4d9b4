"""No call in our packages can run what a file says, apart from the places named here."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import yaml

from cluster.yaml_rules import Loader

ROOT = Path(__file__).parents[2]
PACKAGES = ("cluster", "trainjobs", "tuning")
UNSAFE = {
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "subprocess.getoutput",
    "subprocess.getstatusoutput", "marshal.loads", "marshal.load", "shelve.open",
    "pickle.load", "pickle.loads", "pickle.Unpickler", "cloudpickle.load", "cloudpickle.loads",
    "joblib.load", "pandas.read_pickle", "yaml.load", "yaml.load_all", "yaml.full_load",
    "yaml.unsafe_load", "yaml.unsafe_load_all",
}  # fmt: skip
ALLOWED = {
    # Events of a run's own ranks, which came through Ray, whose every message is a pickle.
    ("cluster/channel.py", "pickle.loads"),
    # With `Loader`, a SafeLoader.
    ("cluster/config_io.py", "yaml.load"),
}


@cache
def calls() -> list[tuple[str, ast.Call, str]]:
    """File, call and the name that is called, of every call in the packages."""
    return list(_calls())


def _calls() -> Iterator[tuple[str, ast.Call, str]]:
    for package in PACKAGES:
        for file in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call):
                    yield str(file.relative_to(ROOT)), node, ast.unparse(node.func)


def keywords(call: ast.Call) -> dict[str | None, str]:
    return {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}


def test_nothing_unsafe_is_called() -> None:
    assert {(file, name) for file, _, name in calls() if name in UNSAFE} == ALLOWED


def test_torch_reads_weights_only() -> None:
    found = [keywords(call) for _, call, name in calls() if name == "torch.load"]
    assert found and all(given.get("weights_only") == "True" for given in found)


def test_numpy_reads_no_pickles() -> None:
    loads = [keywords(call) for _, call, name in calls() if name in ("np.load", "numpy.load")]
    assert not any("allow_pickle" in given for given in loads)


def test_no_command_goes_through_a_shell() -> None:
    assert not [(file, call.lineno) for file, call, _ in calls() if "shell" in keywords(call)]


def test_yaml_is_read_by_a_safe_loader() -> None:
    given = [call.args[1] for file, call, name in calls() if name == "yaml.load"]
    assert [ast.unparse(loader) for loader in given] == ["Loader"]
    assert issubclass(Loader, yaml.SafeLoader)
