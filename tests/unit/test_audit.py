"""How .ci/audit.py reads pip-audit's report. (What pip-audit asks is on the network.)"""

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / ".ci" / "audit.py"
JINJA: dict[str, Any] = {
    "name": "jinja2",
    "version": "2.10",
    "vulns": [
        {"id": "PYSEC-2019-217", "aliases": ["CVE-2019-10906"], "fix_versions": ["2.10.1"]},
        {"id": "PYSEC-2021-66", "aliases": ["CVE-2020-28493"], "fix_versions": []},
    ],
}
UNKNOWN = {"name": "ours", "skip_reason": "Dependency not found on PyPI"}


@pytest.fixture(scope="module")
def audit() -> ModuleType:
    spec = importlib.util.spec_from_file_location("audit", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("accepted", "left"),
    [
        (set(), ["PYSEC-2019-217", "PYSEC-2021-66"]),
        ({"CVE-2019-10906"}, ["PYSEC-2021-66"]),
        ({"PYSEC-2019-217", "PYSEC-2021-66"}, []),
    ],
)
def test_a_finding_is_accepted_under_any_of_its_names(
    audit: ModuleType, accepted: set[str], left: list[str]
) -> None:
    lines = audit.findings([UNKNOWN, JINJA], accepted)
    assert [line.split(": ")[1].split()[0] for line in lines] == left


def test_an_accepted_finding_needs_a_reason(audit: ModuleType) -> None:
    assert audit.accepted_ids("# why\n\nCVE-1 only on Windows\n") == {"CVE-1"}
    with pytest.raises(SystemExit, match="CVE-2"):
        audit.accepted_ids("CVE-1 only on Windows\nCVE-2\n")


def test_the_accepted_findings_have_reasons(audit: ModuleType) -> None:
    audit.accepted_ids(audit.ACCEPTED.read_text())


def test_a_service_that_knows_no_package_has_not_answered(
    audit: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = {"pypi": "knows none of the packages", "osv": "no such host"}
    monkeypatch.setattr(audit, "ask", answers.get)
    assert audit.main() == 0
    assert capsys.readouterr().out.startswith("SKIPPED, dependencies were not audited: pypi: knows")
    monkeypatch.setitem(answers, "osv", [UNKNOWN, JINJA])
    assert audit.main() == 1
