"""Credentials leave a config for the environment, and reach other processes without it."""

import dataclasses
import os
import pickle
import subprocess
import sys

import pytest

from cluster.config_io import to_dict
from cluster.credentials import HANDED_ON, Credentials, credentials_apart, split_uri
from cluster.errors import ConfigError
from tests.builders import make_config
from trainjobs.resolve import resolve_resume
from tuning.settings import SweepSettings

NOTHING = dict.fromkeys((*HANDED_ON, "MLFLOW_TRACKING_URI", "TRAINJOBS_STORAGE"))


@pytest.fixture(autouse=True)
def _no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NOTHING:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("uri", "bare", "names"),
    [
        ("http://me:p%40ss@host:5000/m", "http://host:5000/m", "MLFLOW_TRACKING_"),
        ("s3://KEY:p%40ss@bucket/x?region=eu", "s3://bucket/x?region=eu", "AWS_"),
        ("postgresql+psycopg2://me:p%40ss@host/db", "postgresql+psycopg2://host/db", "PG"),
    ],
)
def test_user_and_password_become_the_variables_of_the_service(
    uri: str, bare: str, names: str
) -> None:
    found, variables = split_uri(uri)
    assert found == bare
    assert set(variables.values()) <= {"me", "KEY", "p@ss"}
    assert len(variables) == 2 and all(name.startswith(names) for name in variables)


@pytest.mark.parametrize(
    "uri",
    ["http://host:5000", "s3://bucket/a@b", "gs://anonymous@bucket", "sqlite:////x/mlflow.db"],
)
def test_a_uri_without_a_password_stays(uri: str) -> None:
    assert split_uri(uri) == (uri, {})


@pytest.mark.parametrize(
    "uri",
    [
        "mysql://me:hunter2@host/db",
        "abfs://c@a/x?client_secret=hunter2",
        "s3://KEY:/hunter2@bucket",
        "postgresql://host/db?password=hunter2",
    ],
)
def test_a_secret_that_no_variable_can_hold_is_an_error_that_hides_it(uri: str) -> None:
    with pytest.raises(ConfigError, match=r"\*\*\*") as raised:
        split_uri(uri)
    assert "hunter2" not in str(raised.value)


def test_a_config_is_bare_and_the_environment_has_the_rest_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "earlier")
    monkeypatch.setenv("TRAINJOBS_STORAGE", "s3://KEY:two@bucket")
    config = make_config(
        {
            "tracking.uri": "http://me:one@host/",
            "resources.storage": "s3://KEY:two@bucket/runs",
            "checkpoint.start_from": "s3://KEY:two@bucket/runs/donor",
        }
    )
    with credentials_apart(config) as bare:
        assert bare.tracking.uri == "http://host/"
        assert bare.checkpoint.start_from == "s3://bucket/runs/donor"
        assert not {"one", "two"} & set(str(to_dict(bare)).replace("'", " ").split())
        assert os.environ["MLFLOW_TRACKING_PASSWORD"] == "one"
        assert os.environ["AWS_SECRET_ACCESS_KEY"] == "two"
        assert os.environ["TRAINJOBS_STORAGE"] == "s3://bucket"
    assert os.environ["MLFLOW_TRACKING_PASSWORD"] == "earlier"
    assert os.environ["TRAINJOBS_STORAGE"] == "s3://KEY:two@bucket"
    assert "AWS_SECRET_ACCESS_KEY" not in os.environ


def test_a_config_without_credentials_is_unchanged() -> None:
    config = make_config({"tracking.uri": "http://host", "resources.num_workers": "1:2"})
    with credentials_apart(config) as bare:
        assert bare == config


def test_the_settings_of_a_sweep_are_bare_too() -> None:
    train = make_config({"tracking.uri": "http://me:secret@host"})
    settings = SweepSettings(name="s", train=train, warm_start="s3://KEY:secret@bucket/old")
    with credentials_apart(settings) as bare:
        assert "secret" not in str(to_dict(bare))
        assert bare.warm_start == "s3://bucket/old"


def test_two_passwords_for_one_service_are_an_error() -> None:
    config = make_config(
        {"resources.storage": "s3://KEY:one@a", "checkpoint.start_from": "s3://KEY:two@b/run"}
    )
    with (
        pytest.raises(ConfigError, match="different AWS_SECRET_ACCESS_KEY"),
        credentials_apart(config),
    ):
        pass


@pytest.mark.parametrize(("uri", "password"), [(None, "one"), ("http://other", None)])
def test_the_password_in_the_environments_uri_goes_to_that_server_alone(
    monkeypatch: pytest.MonkeyPatch, uri: str | None, password: str | None
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:one@host")
    with credentials_apart(make_config({"tracking.uri": uri})):
        assert os.environ["MLFLOW_TRACKING_URI"] == "http://host"
        assert os.environ.get("MLFLOW_TRACKING_PASSWORD") == password


def test_a_run_resumes_whether_its_password_comes_in_the_uri_or_in_the_environment() -> None:
    asked = make_config({"tracking.uri": "http://me:secret@host", "epochs": 7})
    with credentials_apart(asked) as bare:
        saved = dataclasses.replace(bare, run_name="run")
        assert resolve_resume(bare, saved) == saved


def test_credentials_are_in_the_environment_of_the_process_that_they_arrive_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    message = pickle.dumps(Credentials.of_this_process())
    code = (
        "import os, pickle, sys; sent = pickle.load(sys.stdin.buffer);"
        "print(os.environ['AWS_SECRET_ACCESS_KEY'], sent)"
    )
    environment = {k: v for k, v in os.environ.items() if k != "AWS_SECRET_ACCESS_KEY"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=message,
        env=environment,
        capture_output=True,
        check=True,
    )
    assert done.stdout.decode() == "secret Credentials(AWS_SECRET_ACCESS_KEY)\n"
