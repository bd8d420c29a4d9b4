import os
import sys
from pathlib import Path

import pytest

from cluster.config import ClusterConfig
from cluster.environment import (
    GLOO_VARIABLE,
    authentication,
    choose_gloo_interface,
    ray_settings,
    variables,
)
from cluster.errors import ConfigError
from cluster.session import connect


@pytest.fixture(autouse=True)
def _no_ray_of_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("RAY_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))


def test_what_the_user_has_set_stays_and_the_rest_is_taken_back() -> None:
    with variables({"RAY_A": "user"}), variables({"RAY_A": "ours", "RAY_B": "ours"}):
        assert (os.environ["RAY_A"], os.environ["RAY_B"]) == ("user", "ours")
    assert "RAY_A" not in os.environ
    assert "RAY_B" not in os.environ


def test_an_embedded_cluster_gets_a_token_of_its_own_and_leaves_no_file(tmp_path: Path) -> None:
    tokens = set()
    for _ in range(2):
        with authentication(embedded=True):
            assert os.environ["RAY_AUTH_MODE"] == "token"
            tokens.add(os.environ["RAY_AUTH_TOKEN"])
    assert len(tokens) == 2
    assert list(tmp_path.iterdir()) == []


def test_a_users_authentication_mode_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with authentication(embedded=True):
        assert os.environ["RAY_AUTH_MODE"] == "disabled"
        assert "RAY_AUTH_TOKEN" not in os.environ


def test_attaching_uses_a_token_where_there_is_one(tmp_path: Path) -> None:
    with authentication(embedded=False):
        assert os.environ["RAY_AUTH_MODE"] == "disabled"
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray/auth_token").write_text("a" * 64)
    with authentication(embedded=False):
        assert os.environ["RAY_AUTH_MODE"] == "token"


def test_ray_train_is_told_once_and_only_for_the_session() -> None:
    with ray_settings():
        assert os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] == "0.5"
    assert not [name for name in os.environ if name.startswith("RAY_TRAIN")]


@pytest.mark.parametrize("address", ["ray://head:10001", "http://head:8265", "head", "head:x"])
def test_an_address_that_no_driver_can_use_is_refused_before_ray_is_asked(address: str) -> None:
    with (
        pytest.raises(ConfigError, match="ray job submit"),
        connect(ClusterConfig(address=address)),
    ):
        pass


@pytest.mark.skipif(sys.platform != "linux", reason="the name of the loopback interface")
@pytest.mark.parametrize(
    ("chosen", "node_ip", "used"),
    [
        (None, "127.0.0.1", "lo"),
        (None, "192.0.2.99", None),  # no interface here has it (RFC 5737)
        ("eth7", "127.0.0.1", "eth7"),
    ],
)
def test_gloo_listens_where_the_node_does_unless_the_user_says_otherwise(
    monkeypatch: pytest.MonkeyPatch, chosen: str | None, node_ip: str, used: str | None
) -> None:
    monkeypatch.setenv(GLOO_VARIABLE, chosen or "")  # which puts back what there was
    if chosen is None:
        monkeypatch.delenv(GLOO_VARIABLE)
    choose_gloo_interface(node_ip)
    assert os.environ.get(GLOO_VARIABLE) == used
