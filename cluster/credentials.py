"""Credentials live in the environment, and nowhere else.

Those in the URIs of a config are moved there before anything is logged or saved, so a config has
none: neither the saved ones nor those that cross processes. Workers get them from the driver in a
message, not in a runtime environment, which Ray's dashboard shows.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar
from urllib.parse import unquote

from cluster.config_io import from_dict, to_dict
from cluster.errors import ConfigError
from cluster.redact import redact
from cluster.storage import STORAGE_VARIABLE

Config = TypeVar("Config")

TRACKING_VARIABLE = "MLFLOW_TRACKING_URI"
_MLFLOW = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")
_POSTGRES = ("PGUSER", "PGPASSWORD")
_VARIABLES = {
    "http": _MLFLOW,
    "https": _MLFLOW,
    "s3": ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
    "postgresql": _POSTGRES,
    "postgres": _POSTGRES,
}
"""Scheme -> where the libraries that open such a URI look for user and password."""
HANDED_ON = (
    *_MLFLOW,
    "MLFLOW_TRACKING_TOKEN",
    "MLFLOW_S3_ENDPOINT_URL",
    *_POSTGRES,
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AWS_ENDPOINT_URL",
    "AZURE_CLIENT_ID",
    "AZURE_CLIENT_SECRET",
    "AZURE_TENANT_ID",
)
"""Variables that the driver gives to the processes of a run on all nodes."""


class Credentials:
    """Variables on their way to another process: where they arrive, they are in its environment.

    Arriving is enough, because Ray Train and Tune open the storage before any code of ours runs.
    """

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = dict(values)

    @classmethod
    def of_this_process(cls) -> "Credentials":
        """What this process has of `HANDED_ON`."""
        return cls({name: os.environ[name] for name in HANDED_ON if name in os.environ})

    def __repr__(self) -> str:
        return f"Credentials({', '.join(self._values)})"

    def __reduce__(self) -> tuple[Any, tuple[dict[str, str]]]:
        return _arrived, (self._values,)


def _arrived(values: dict[str, str]) -> Credentials:
    os.environ.update(values)
    return Credentials(values)


def call_with(
    credentials: Credentials, function: Callable[..., Any], args: tuple[object, ...]
) -> Any:
    """Call a function in the process in which the credentials have arrived."""
    return function(*args)


@contextmanager
def credentials_apart(config: Config) -> Iterator[Config]:
    """The config without the credentials in its URIs, which are in the environment meanwhile.

    Those in the environment's own URIs (`MLFLOW_TRACKING_URI`, `TRAINJOBS_STORAGE`) too.

    Raises:
        ConfigError: A URI has a secret that has no place in the environment.
    """
    found: dict[str, str] = {}
    tree = to_dict(config)
    without = _without(tree, found)
    bare = config if without == tree else from_dict(type(config), without)
    for name in (TRACKING_VARIABLE, STORAGE_VARIABLE):
        if name in os.environ:
            uri, variables = split_uri(os.environ[name])
            # The password of one tracking server is not for another that the config names.
            is_used = name == STORAGE_VARIABLE or not any(map(_is_tracking, _texts(tree)))
            found = {**(variables if is_used else {}), **found, name: uri}
    before = {name: os.environ.get(name) for name in found}
    os.environ.update(found)
    try:
        yield bare
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def split_uri(uri: str) -> tuple[str, dict[str, str]]:
    """A URI without user and password, and the variables that stand for them.

    Raises:
        ConfigError: It has a secret that cannot be told in a variable.
    """
    scheme, separator, rest = uri.partition("://")
    authority = rest.partition("/")[0].partition("?")[0]
    user, at, _ = authority.rpartition("@")
    name, colon, password = user.partition(":")
    names = _service(uri)
    bare, found = uri, dict[str, str]()
    if at and names and (colon or names is _MLFLOW):
        bare = f"{scheme}{separator}{rest[len(user) + 1 :]}"
        if colon:
            found = dict(zip(names, (unquote(name), unquote(password)), strict=True))
    if redact(bare) != bare:
        others = "the environment" if names is None else " and ".join(names)
        raise ConfigError(
            f"{redact(uri)}: a secret in this place of a URI cannot be kept out of files and logs; "
            f"leave it out and give it in {others} (a `/` or `@` in a password is %2F or %40)"
        )
    return bare, found


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts(item)


def _is_tracking(text: str) -> bool:
    return _service(text) in (_MLFLOW, _POSTGRES)


def _service(uri: str) -> tuple[str, str] | None:
    scheme, separator, _ = uri.partition("://")
    return _VARIABLES.get(scheme.partition("+")[0].lower()) if separator else None


def _without(value: Any, found: dict[str, str]) -> Any:
    """`value` without the credentials in its texts; these go to `found`."""
    if isinstance(value, dict):
        return {key: _without(item, found) for key, item in value.items()}
    if isinstance(value, list):
        return [_without(item, found) for item in value]
    if not isinstance(value, str) or "://" not in value:
        return value
    bare, variables = split_uri(value)
    for name, text in variables.items():
        if found.setdefault(name, text) != text:
            raise ConfigError(f"{bare}: another URI has a different {name}; a run has one")
    return bare
