"""What made a run: code, versions, data. Goes to the tracker as tags."""

import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

PACKAGES = ("trainjobs", "torch", "torchvision", "ray")


def provenance(dataset_fingerprint: str | None) -> dict[str, str]:
    """Tags that say with which code, on which versions and on which dataset a run was made."""
    tags = {f"version.{name}": version(name) for name in PACKAGES}
    tags["version.python"] = platform.python_version()
    if commit := git_commit(Path(__file__).parent):
        tags["git_commit"] = commit
    if dataset_fingerprint:
        tags["dataset_fingerprint"] = dataset_fingerprint
    return tags


def git_commit(folder: Path) -> str | None:
    """Commit of the checkout that `folder` is in, with `-dirty` if files changed; None without one."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=folder, capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip()
