"""Look the installed packages up among known vulnerabilities; fail on one that nobody has accepted.

pip-audit answers "no known vulnerabilities" where a service knows none of the packages, so its
report is read here. Where no service answers, that is said, and the check is skipped.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

PIP_AUDIT = "pip-audit==2.10.1"
SERVICES = ("pypi", "osv")
ACCEPTED = Path(__file__).with_name("accepted-findings")
TIMEOUT_S = 600
Report = list[dict[str, Any]]


def ask(service: str) -> Report | str:
    """What a service says of each package that is installed, or why it says nothing."""
    uv = os.environ.get("UV", "uv")  # as `uv run` hands itself on
    site_packages = next(path for path in sys.path if path.endswith("site-packages"))
    command = [
        *(uv, "tool", "run", "--quiet", PIP_AUDIT, "--vulnerability-service", service),
        *("--path", site_packages, "--skip-editable", "--progress-spinner", "off"),
        *("--format", "json"),
    ]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
        report: Report = json.loads(done.stdout)["dependencies"]
    except subprocess.TimeoutExpired:
        return f"no answer after {TIMEOUT_S} s"
    except ValueError:
        *_, last = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        return last
    return report if any(is_known(package) for package in report) else "knows none of the packages"


def is_known(package: dict[str, Any]) -> bool:
    """Whether the service has looked a package up."""
    return "skip_reason" not in package


def accepted_ids(text: str) -> set[str]:
    """The identifiers that a file of accepted findings names, each with a reason behind it."""
    lines = [line.split(maxsplit=1) for line in text.splitlines()]
    entries = [words for words in lines if words and not words[0].startswith("#")]
    if bare := [words[0] for words in entries if len(words) == 1]:
        raise SystemExit(f"{ACCEPTED.name}: no reason behind {', '.join(bare)}")
    return {words[0] for words in entries}


def findings(report: Report, accepted: set[str]) -> list[str]:
    """Vulnerabilities that are not accepted under any of their names, one line each."""
    return [
        f"{package['name']} {package['version']}: {found['id']} ({', '.join(found['aliases'])}), "
        f"fixed in {', '.join(found['fix_versions']) or 'no release'}"
        for package in report if is_known(package)
        for found in package["vulns"] if not accepted & {found["id"], *found["aliases"]}
    ]  # fmt: skip


def main() -> int:
    """Ask one service after the other, until one has answered."""
    accepted = accepted_ids(ACCEPTED.read_text())
    silent = []
    for service in SERVICES:
        report = ask(service)
        if isinstance(report, str):
            silent.append(f"{service}: {report}")
            continue
        unknown = [package["name"] for package in report if not is_known(package)]
        found = findings(report, accepted)
        print("\n".join([*found, f"{len(found)} findings that are not accepted, of {service}"]))
        print(f"{len(report)} packages; not looked up: {', '.join(unknown) or 'none'}")
        return bool(found)
    print(f"SKIPPED, dependencies were not audited: {'; '.join(silent)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
