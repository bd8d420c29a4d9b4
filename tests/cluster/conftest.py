"""Tests on several hosts skip themselves where this machine cannot have them."""

import pytest

from tests.cluster.hosts import why_not


@pytest.fixture(scope="session", autouse=True)
def _needs_hosts() -> None:
    if reason := why_not():
        pytest.skip(f"several hosts on one machine: {reason}")
