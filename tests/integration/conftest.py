"""One embedded Ray cluster per module that asks for it; `launch` finds and uses it."""

import gc
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.config import ClusterConfig
from cluster.session import Session, connect


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset cache of the tests' own."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def ray_session(cache: Path) -> Iterator[Session]:
    """A local cluster started by us, never one that happens to run here."""
    with (
        pytest.MonkeyPatch.context() as patch,
        connect(ClusterConfig(address="local")) as session,
    ):
        patch.setenv("TRAINJOBS_CACHE", str(cache))
        yield session
    with warnings.catch_warnings():
        # Ray drops its node's processes without waiting for them; else a later module is blamed.
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
