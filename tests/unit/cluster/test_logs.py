import logging
import re
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.errors import ConfigError, StorageError
from cluster.logs import (
    ConsoleHandler,
    configure_logging,
    configure_rank_logging,
    write_log_to,
)
from cluster.storage import RunPaths
from tests.logging_state import logging_as_it_was

LINE = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d INFO \S+ driver \| epoch 1\n"
own = logging.getLogger("trainjobs.test")


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    with logging_as_it_was():
        yield


def test_a_line_names_time_level_host_and_process(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging()
    own.info("epoch %d", 1)
    assert re.fullmatch(LINE, capsys.readouterr().err)


def test_configuring_twice_does_not_double_the_lines(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging()
    configure_logging("warning")
    own.info("unheard")
    own.warning("heard")
    assert capsys.readouterr().err.count("heard") == 1


def test_an_unknown_level_is_told_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="DEBUG, INFO, WARNING, ERROR, got 'loud'"):
        configure_logging("loud")


def test_libraries_are_heard_from_warnings_on(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("DEBUG")
    logging.getLogger("library").info("unheard")
    logging.getLogger("library").warning("heard")
    assert re.findall(r"\| (\w+)", capsys.readouterr().err) == ["heard"]


def test_noise_goes_to_the_file_but_not_to_the_console(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging()
    paths = RunPaths(str(tmp_path), "run")
    with write_log_to(paths, "train.log"), warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        warnings.warn("old call", stacklevel=1)
        chatter = logging.LogRecord("ray.x", logging.WARNING, "", 0, "chatter", None, None)
        logging.getLogger().handle(chatter)
    assert capsys.readouterr().err == ""
    text = paths.read_text("train.log")
    assert "old call" in text
    assert "chatter" in text
    assert "\n\n" not in text


def test_a_second_launch_appends_to_the_log(tmp_path: Path) -> None:
    configure_logging()
    for storage in (str(tmp_path), f"mock://{tmp_path.name}/runs"):
        paths = RunPaths(storage, "run")
        for message in ("first", "second"):
            with write_log_to(paths, "train.log"):
                own.info(message)
        own.info("after the end")
        assert re.findall(r"\| (.*)", paths.read_text("train.log")) == ["first", "second"]


def test_a_log_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "run/train.log").mkdir(parents=True)
    with pytest.raises(StorageError), write_log_to(RunPaths(str(tmp_path), "run"), "train.log"):
        pass


def test_a_log_that_can_no_longer_be_written_is_one_warning_and_stops_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging()
    paths = RunPaths(str(tmp_path), "run")
    paths.local("train.log").symlink_to("/dev/full")
    with write_log_to(paths, "train.log"):
        own.info("one")
        own.info("two")
    said = [line.partition("| ")[2] for line in capsys.readouterr().err.splitlines()]
    full = f"{paths.local('train.log')} cannot be written: [Errno 28] No space left on device"
    assert said == ["one", full, "two"]


def test_lines_go_through_what_draws_a_bar(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging()
    drawn: list[str] = []
    ConsoleHandler.draw_with(drawn.append)
    own.info("one")
    ConsoleHandler.draw_with(None)
    own.info("two")
    assert [line.rpartition("| ")[2] for line in drawn] == ["one"]
    assert capsys.readouterr().err.endswith("| two\n")


def test_a_rank_marks_its_records_and_keeps_the_handlers_level(
    capsys: pytest.CaptureFixture[str],
) -> None:
    handler = ConsoleHandler(logging.WARNING)
    handler.setFormatter(logging.Formatter("%(origin)s: %(message)s"))
    configure_rank_logging(handler, rank=1, world_size=4)
    own.info("unheard")
    own.warning("heard")
    assert re.fullmatch(r"\S+ rank 1/4: heard\n", capsys.readouterr().err)


def test_an_error_of_ours_that_a_library_logs_has_no_traceback(
    capsys: pytest.CaptureFixture[str],
) -> None:
    handler = ConsoleHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    configure_rank_logging(handler, rank=0, world_size=1)
    try:
        raise StorageError("the checkpoint cannot be stored")
    except StorageError:
        logging.getLogger("library").exception("upload failed in the background thread")
    assert capsys.readouterr().err == "the checkpoint cannot be stored\n"
