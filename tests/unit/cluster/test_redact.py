"""What hides a secret in a text, and what leaves a text as it is."""

import logging
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cluster.logs import write_log_to
from cluster.redact import redact
from cluster.storage import RunPaths

# Characters that a URI may hold unescaped in a password, and those that people forget to escape.
PASSWORDS = st.text("abcXYZ019-._~!$&()*+,;=:/?#@%", min_size=4).map(lambda text: f"S{text}S")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("at http://user:secret@host:5000/x.", "at http://***@host:5000/x."),
        ("'postgresql+psycopg2://u:s@h/db'", "'postgresql+psycopg2://***@h/db'"),
        ("https://token@host/", "https://***@host/"),
        ("http://u:s@[::1]:5", "http://***@[::1]:5"),
        ("s3://KEY:se/cr+et@bucket/runs", "s3://***@bucket/runs"),
        ("/home/me/http:/u:s@h/x: no such file", "/home/me/http:/***@h/x: no such file"),
        ("file:/data/http://u:s@h", "file:/data/http://***@h"),
        ("abfs://c@a/x?sas_token=s&region=eu", "abfs://c@a/x?sas_token=***&region=eu"),
        ("https://s3/x?X-Amz-Signature=s", "https://s3/x?X-Amz-Signature=***"),
        ('{"a": "http://u:s@h", "b": "c"}', '{"a": "http://***@h", "b": "c"}'),
    ],
)
def test_user_password_and_secret_query_values_are_hidden(text: str, shown: str) -> None:
    assert redact(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "",
        "s3://bucket/runs?endpoint_override=localhost:9000&scheme=http",
        "http://host:5000/models@v2",
        "s3://bucket/a@b",
        "gs://anonymous@bucket/x",
        "mail to me@host: now",
        "sqlite:////data/runs/mlflow.db",
    ],
)
def test_a_text_without_a_secret_stays_as_it_is(text: str) -> None:
    assert redact(text) == text


@given(PASSWORDS, st.sampled_from(["http", "s3", "postgresql"]))
@example("S0:0?S", "http")  # its beginning looks like a port
def test_no_password_is_shown_however_badly_it_is_escaped(password: str, scheme: str) -> None:
    shown = redact(f"cannot open {scheme}://user:{password}@host/path: refused")
    assert password not in shown
    assert shown.endswith("host/path: refused")


@given(st.text())
def test_redacting_twice_is_redacting_once(text: str) -> None:
    assert redact(redact(text)) == redact(text)


def test_a_long_text_takes_no_time() -> None:
    for part in ("a", ":/", "http://", "://a:", "?pass", "&sig=", "@"):
        redact("://h" + part * 20_000)


def test_the_log_of_a_run_holds_no_password(tmp_path: Path) -> None:
    paths = RunPaths(str(tmp_path), "run")
    with write_log_to(paths, "train.log"):
        try:
            raise OSError("http://user:secret@host is down")
        except OSError:
            logging.getLogger("trainjobs.test").exception("at %s", "s3://KEY:secret@bucket")
    text = paths.read_text("train.log")
    assert "Traceback" in text and "http://***@host" in text
    assert "secret" not in text
