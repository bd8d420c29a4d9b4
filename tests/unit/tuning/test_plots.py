import math
import threading
from pathlib import Path
from typing import Any

import cv2
import pytest

from tuning.parallel_plot import plot_parallel
from tuning.plot_style import is_wide, plain_text, scale_of
from tuning.plots import draw_plots
from tuning.records import TrialRecord

LR, COUNT, FLAG, TEXT, SOMETIMES = "optim.lr", "optim.accumulate", "a.flip", "model.name", "b.only"
PATHS = (LR, COUNT, FLAG, TEXT, SOMETIMES)
ALL = {"curves", "importance", "parameters", "parallel_coordinates", "early_stopping"}


def make_trial(number: int, **changes: Any) -> TrialRecord:
    values = {LR: 10.0**-number, COUNT: number + 1, FLAG: number % 2 == 0, TEXT: f"m{number % 3}"}
    if number % 2:
        values[SOMETIMES] = 0.1 * number
    settings: dict[str, Any] = {
        "origin": "random" if number else "default",
        "values": values,
        "state": "finished",
        "epochs": 3,
        "curve": {epoch: epoch / 10 + number / 100 for epoch in (1, 2, 3)},
    }
    return TrialRecord(number=number, seed=number, **{**settings, **changes})


def make_stopped(number: int, **changes: Any) -> TrialRecord:
    return make_trial(
        number, **{"state": "stopped", "epochs": 1, "curve": {1: number / 50}, **changes}
    )


def draw(records: list[TrialRecord], folder: Path, **changes: Any) -> set[str]:
    settings: dict[str, Any] = {
        "paths": PATHS,
        "log_paths": {LR},
        "metric": "map50_95",
        "mode": "max",
        "epochs": 3,
    }
    written = draw_plots(records, folder, **{**settings, **changes})
    assert written == [path for path in written if path.parent == folder]
    for path in written:
        picture = cv2.imread(str(path))
        assert picture is not None
        assert picture.min() < 100 < picture.max()  # something is drawn
    assert {path.name for path in folder.iterdir()} == {path.name for path in written}
    return {path.stem for path in written}


def test_a_sweep_with_enough_trials_gets_all_plots(tmp_path: Path) -> None:
    records = [make_trial(0), make_trial(1), *(make_stopped(number) for number in range(2, 6))]

    assert draw(records, tmp_path, rungs=(1,)) == ALL


def test_more_trials_than_a_legend_holds_are_drawn(tmp_path: Path) -> None:
    assert draw([make_stopped(number) for number in range(50)], tmp_path, paths=[COUNT]) == ALL


def test_no_trial_gives_no_plot_but_the_folder(tmp_path: Path) -> None:
    assert draw([], tmp_path / "plots") == set()


def test_one_trial_gives_curves_alone(tmp_path: Path) -> None:
    assert draw([make_trial(0)], tmp_path) == {"curves"}


def test_two_trials_give_no_importance(tmp_path: Path) -> None:
    expected = {"curves", "parameters", "parallel_coordinates"}

    assert draw([make_trial(0), make_trial(1)], tmp_path) == expected


def test_trials_without_a_measurement_give_no_plot(tmp_path: Path) -> None:
    records = [
        make_trial(0, state="failed", curve={}),
        make_trial(1, state="pending", curve={}, epochs=0),
        make_trial(2, curve={1: math.nan}),
    ]

    assert draw(records, tmp_path) == set()


def test_a_failed_trial_and_values_that_are_no_numbers_do_not_matter(tmp_path: Path) -> None:
    records = [make_stopped(number) for number in range(5)]
    records.append(make_trial(5, state="failed", curve={1: math.nan, 2: 0.1}))
    records.append(make_trial(6, curve={1: 0.1, 2: math.inf}))

    assert draw(records, tmp_path, paths=[SOMETIMES, FLAG]) == ALL


def test_repeats_are_not_drawn(tmp_path: Path) -> None:
    records = [make_trial(number, origin="confirm") for number in range(6)]

    assert draw(records, tmp_path) == set()


def test_a_search_without_settings_gives_curves_alone(tmp_path: Path) -> None:
    records = [make_trial(number, values={}) for number in range(6)]

    assert draw(records, tmp_path) == {"curves"}


def test_equal_values_and_equal_scores_are_drawn(tmp_path: Path) -> None:
    records = [make_trial(number, values={LR: 0.1}, curve={3: 0.5}) for number in range(5)]

    assert draw(records, tmp_path, paths=[LR]) == {"curves", "parameters", "parallel_coordinates"}


def test_a_diverged_loss_is_drawn_on_a_logarithmic_axis(tmp_path: Path) -> None:
    records = [make_trial(number, curve={3: 10.0**number}) for number in range(5)]

    assert draw(records, tmp_path, mode="min", paths=[LR]) == ALL - {"early_stopping"}


def test_text_that_looks_like_a_formula_or_that_no_font_has_is_drawn(tmp_path: Path) -> None:
    odd = ["$x_$", "\u4e2d\u6587", "a long name with\nseveral lines", "$", None, 3, True]
    records = [make_trial(i, values={TEXT: value, LR: i}) for i, value in enumerate(odd)]

    assert draw(records, tmp_path, metric="$odd_$", paths=[TEXT]) == ALL - {"early_stopping"}


def test_many_categories_are_drawn(tmp_path: Path) -> None:
    records = [make_trial(i, values={TEXT: f"category number {i}"}) for i in range(40)]

    assert "parameters" in draw(records, tmp_path, paths=[TEXT])


def test_plots_are_drawn_off_the_main_thread(tmp_path: Path) -> None:
    found: list[set[str]] = []
    thread = threading.Thread(target=lambda: found.append(draw([make_trial(0)], tmp_path)))

    thread.start()
    thread.join()

    assert found == [{"curves"}]


def test_a_trial_that_lacks_a_setting_is_drawn_too(tmp_path: Path) -> None:
    ranking = [make_trial(1), make_trial(0)]

    plot_parallel(
        ranking, tmp_path / "p.png", paths=[SOMETIMES], log_paths=(), metric="m", mode="max"
    )

    assert (tmp_path / "p.png").stat().st_size > 0


@pytest.mark.parametrize(
    ("values", "is_log", "kind"),
    [
        ([0.1, 1], True, "log"),
        ([0.0, 1], True, "linear"),
        ([1, 2.5], False, "linear"),
        ([True, False], False, "category"),
        ([1, "auto"], True, "category"),
        ([None, 0.5], False, "category"),
    ],
)
def test_the_axis_follows_the_values(values: list[Any], is_log: bool, kind: str) -> None:
    assert scale_of(values, is_log=is_log).kind == kind


def test_categories_are_in_order_numbers_first() -> None:
    scale = scale_of(["auto", 10, 9, "auto", True], is_log=False)

    assert scale.categories == ("9", "10", "auto", "true")
    assert [scale.number(value) for value in (9, "auto")] == [0, 2]


@pytest.mark.parametrize(
    ("scores", "mode", "wide"),
    [
        ([1, 1000], "min", True),
        ([1, 50], "min", False),
        ([0, 1000], "min", False),
        ([0.001, 0.9], "max", False),
    ],
)
def test_only_a_loss_that_spans_decades_is_wide(scores: list[float], mode: Any, wide: bool) -> None:
    assert is_wide(scores, mode) is wide


def test_text_is_short_ascii_and_no_formula() -> None:
    assert plain_text("a$b") == r"a\$b"
    assert plain_text("\u00e9") == r"\xe9"
    assert len(plain_text("x" * 100)) == 18
