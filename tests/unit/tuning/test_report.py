import base64
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from tuning.confidence import METHOD, Standing
from tuning.page import Cell, figure, table
from tuning.records import Note, TrialRecord
from tuning.report import report_html
from tuning.verdict import BIAS, SweepSummary, verdict

VOID = {"meta", "img", "br"}
LR, TEXT = "optim.lr", "model.name"


class Outline(HTMLParser):
    """Checks that every tag is closed in order; keeps the text, and what refers to elsewhere."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: list[str] = []
        self.links: list[str] = []
        self.feed(document)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        self.links += [value or "" for name, value in attrs if name in {"src", "href"}]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def make_trial(number: int, score: float, **changes: Any) -> TrialRecord:
    settings: dict[str, Any] = {
        "origin": "random" if number else "default",
        "values": {LR: 0.01 * (number + 1), TEXT: "yolov5n"},
        "state": "finished",
        "epochs": 9,
        "curve": {9: score},
        "startup_s": 10.0 + number,
    }
    return TrialRecord(number=number, seed=0, **{**settings, **changes})


def make_summary(records: list[TrialRecord], **changes: Any) -> SweepSummary:
    settings: dict[str, Any] = {
        "name": "first",
        "job": "yolo",
        "metric": "map50_95",
        "mode": "max",
        "epochs": 9,
        "status": "finished",
        "records": records,
        "paths": [LR, TEXT],
        "best": records[-1] if records else None,
        "default": records[0] if records else None,
        "standings": (),
        "utilization": 0.437,
        "wall_s": 3725.0,
        "folder": "/runs/first",
        "plots": (),
    }
    return SweepSummary(**{**settings, **changes})


def text_of(summary: SweepSummary) -> str:
    return " ".join(Outline(report_html(summary)).texts)


def test_the_page_opens_with_the_verdict_and_its_figures() -> None:
    summary = make_summary([make_trial(0, 0.4), make_trial(1, 0.412)])

    text = text_of(summary)

    assert verdict(summary) in text
    assert "+0.012" in text
    assert "0.412 at epoch 9" in text


def test_without_confirmation_the_page_says_that_its_best_is_biased() -> None:
    text = text_of(make_summary([make_trial(0, 0.4)]))

    assert BIAS in text
    assert "--confirm 3x3" in text


def test_a_confirmation_shows_its_standings_and_method_and_no_warning() -> None:
    standing = Standing(name="trial 1", mean=0.41, spread=0.02, n=3, p_best=0.8)

    text = text_of(make_summary([make_trial(0, 0.4), make_trial(1, 0.5)], standings=[standing]))

    assert METHOD in text
    assert "80%" in text
    assert BIAS not in text
    assert "--confirm 3x3" not in text


def test_all_values_notes_and_errors_are_in_the_table() -> None:
    record = make_trial(1, 0.5, notes=[Note(epoch=3, text="copied trial 2")], error="out of memory")

    text = text_of(make_summary([make_trial(0, 0.4), record]))

    for expected in ("0.02", "yolov5n", "epoch 3: copied trial 2", "out of memory", "11.0"):
        assert expected in text


def test_time_shows_utilization_and_start_up() -> None:
    text = text_of(make_summary([make_trial(0, 0.4), make_trial(1, 0.5), make_trial(2, 0.6)]))

    for expected in ("44%", "1:02:05 h", "11.0 s", "12.0 s"):
        assert expected in text


def test_what_a_user_wrote_is_never_markup() -> None:
    evil = '<script>alert("x")</script>&'
    record = make_trial(0, 0.4, values={LR: evil}, error=evil, run_names=[evil])
    summary = make_summary([record], name=evil, metric=evil, status=evil, paths=[LR, evil])

    document = report_html(summary)

    assert "<script>alert" not in document
    assert document.count("<script>") == 1
    assert evil in "".join(Outline(document).texts)


def test_the_page_needs_no_other_file(tmp_path: Path) -> None:
    plot = tmp_path / "curves.png"
    plot.write_bytes(b"picture")

    document = report_html(make_summary([make_trial(0, 0.4)], plots=[plot]))

    (link,) = Outline(document).links
    assert link == "data:image/png;base64," + base64.b64encode(b"picture").decode()
    assert not re.search(r"https?://|@import|url\(", document)
    assert "prefers-color-scheme: dark" in document
    assert "width=device-width" in document


def test_a_sweep_without_trials_has_a_page() -> None:
    text = text_of(make_summary([], utilization=0.0, status="interrupted"))

    assert "No trial has measured map50_95" in text
    assert "best.yaml" not in text


def test_the_commands_can_be_pasted_whatever_the_folder_is_called() -> None:
    text = text_of(make_summary([make_trial(0, 0.4)], folder="/my runs/first/", name="a b"))

    assert "python -m trainjobs.yolo --config '/my runs/first/best.yaml'" in text
    assert "--extend 'a b' --num-trials +10" in text


def test_a_setting_of_null_or_false_is_not_a_missing_one() -> None:
    records = [make_trial(i, 0.4, values=values) for i, values in enumerate([{LR: None}, {}])]
    records.append(make_trial(2, 0.5, values={LR: False}))

    cells = re.findall(r"<td[^>]*>([^<]*)</td>", report_html(make_summary(records)))

    assert cells.count("null") == 1
    assert "false" in cells


def test_a_table_sorts_by_value_and_missing_ones_have_none() -> None:
    document = table(["a", "b"], [[Cell("x"), Cell("0.1235", 0.12345)], [Cell("y"), Cell("-", "")]])

    Outline(document)
    assert '<td class="number" data-value="0.12345">0.1235</td>' in document
    assert 'data-value="">-</td>' in document
    assert '<th class="number">b</th>' in document


def test_quotes_in_a_caption_stay_in_it(tmp_path: Path) -> None:
    path = tmp_path / "p.png"
    path.write_bytes(b"")

    assert 'alt="a &quot;b&quot;"' in figure(path, 'a "b"')
