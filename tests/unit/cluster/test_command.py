"""Every command's end: its exit code, and what it says of a failure."""

import signal
import subprocess
import sys

import pytest

from cluster.command import run_command
from cluster.errors import ConfigError, ServiceError, TrainingError

SPEAK = """
import sys
from cluster.command import run_command
def run():
    for _ in range(100):
        print("x" * 10_000, flush={flush})
    raise SystemExit(0)
sys.exit(run_command(run))
"""


@pytest.mark.parametrize(
    ("error", "code"),
    [(ConfigError("no"), 2), (TrainingError("no"), 1), (KeyboardInterrupt(), 130)],
)
def test_an_error_gives_one_message_and_its_exit_code(
    error: BaseException, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    def run() -> int:
        raise error

    assert run_command(run) == code
    told = "error: no\n" if isinstance(error, ServiceError) else ""
    assert capsys.readouterr() == ("", told)


def test_what_a_command_returns_is_its_exit_code() -> None:
    assert run_command(lambda: 7) == 7


@pytest.mark.parametrize("flush", [True, False])
def test_a_reader_that_leaves_ends_a_command_without_a_word(flush: bool) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SPEAK.format(flush=flush)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout and process.stderr
        process.stdout.read(100)
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 128 + signal.SIGPIPE


def test_a_broken_pipe_elsewhere_is_a_failure_as_any_other() -> None:
    code = "from cluster.command import run_command\ndef run(): raise BrokenPipeError\nrun_command(run)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "BrokenPipeError"
