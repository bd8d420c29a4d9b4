"""Environment variables that Ray and gloo read, set where the user has not: Ray's for a session."""

import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ray import _raylet
from ray._private import ray_constants

from cluster.node_facts import interface_of

AUTH_VARIABLE, TOKEN_VARIABLE = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"
TOKEN_PATH_VARIABLE, DEFAULT_TOKEN_PATH = "RAY_AUTH_TOKEN_PATH", "~/.ray/auth_token"
UV_VARIABLE = "RAY_ENABLE_UV_RUN_RUNTIME_ENV"
OPEN_VARIABLE = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
GLOO_VARIABLE = "GLOO_SOCKET_IFNAME"

# Ray Train hands its own variables on to the controller and the ranks.
_SETTINGS = {
    UV_VARIABLE: "0",  # else `uv run` makes every worker build its environment anew
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # the controller takes one report per poll
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "120",  # Ray's 60 s are tight on a slow node
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # prints every line twice
}


@contextmanager
def variables(defaults: Mapping[str, str]) -> Iterator[None]:
    """Set variables that are not set, for this process and those it starts."""
    added = {name: value for name, value in defaults.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


@contextmanager
def ray_settings() -> Iterator[None]:
    """What every session wants of Ray and Ray Train."""
    with variables(_SETTINGS):
        before = ray_constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV  # was read when ray was imported
        ray_constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV = os.environ[UV_VARIABLE] == "1"
        try:
            yield
        finally:
            ray_constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV = before


@contextmanager
def loopback_only() -> Iterator[None]:
    """Have a node that is started meanwhile listen on 127.0.0.1, as Ray does on macOS and Windows."""
    with variables({OPEN_VARIABLE: "0"}):
        before = ray_constants.ENABLE_RAY_CLUSTER  # was read when ray was imported
        ray_constants.ENABLE_RAY_CLUSTER = os.environ[OPEN_VARIABLE] == "1"
        try:
            yield
        finally:
            ray_constants.ENABLE_RAY_CLUSTER = before


@contextmanager
def authentication(*, embedded: bool) -> Iterator[None]:
    """Fix the mode, unless the user has. (Ray's default depends on files that earlier runs left.)"""
    settings = {}
    if embedded and AUTH_VARIABLE not in os.environ:
        settings = {AUTH_VARIABLE: "token", TOKEN_VARIABLE: secrets.token_hex(32)}
    elif not embedded:
        # A cluster that wants no token ignores one.
        paths = (os.environ.get(TOKEN_PATH_VARIABLE), DEFAULT_TOKEN_PATH)
        has_token = TOKEN_VARIABLE in os.environ or any(
            Path(path).expanduser().is_file() for path in paths if path
        )
        settings = {AUTH_VARIABLE: "token" if has_token else "disabled"}
    try:
        with variables(settings):
            _reload_authentication()
            yield
    finally:
        _reload_authentication()


def choose_gloo_interface(node_ip: str) -> None:
    """Have gloo listen on the interface that has the node's address, unless the user has chosen.

    By itself it takes the address of the host's own name, which on Debian is a loopback one. NCCL
    is left alone: it passes loopback over, takes InfiniBand first and uses several cards; a name
    would tie its sockets to one.

    Args:
        node_ip: This node's address in the cluster. Nothing is set if no interface here has it.
    """
    if interface := interface_of(node_ip):
        os.environ.setdefault(GLOO_VARIABLE, interface)


def _reload_authentication() -> None:
    # As ray._private.authentication.authentication_token_setup does after it changes the mode.
    native: Any = _raylet
    native.Config.initialize("")
    native.AuthenticationTokenLoader.instance().reset_cache()
