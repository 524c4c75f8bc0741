import io
import json

from rich.console import Console

from mathsft.objective import Share
from mathsft.reporting.table import Link, Part, Table, count, percent, seconds, setting, size
from mathsft.statistics.intervals import Interval

SHARE = Share(49, 200, Interval(0.19, 0.31))
TABLE = Table.of(
    ("trial", "rate", "accuracy (95 % interval)", "correct", "time", "state"),
    [
        (
            "trial-0",
            setting(0.00123456),
            SHARE,
            Part(49, 2000),
            seconds(12.34),
            "\x1b[2J![x](http://evil) | <b>bad</b>\nmore",
        ),
        (Link("trial-1", "/trials/1"), setting("adamw"), percent(0.5), None, size(None), "[red]fine"),
    ],
    "Two trials",
)


def shown(table: Table) -> list[str]:
    output = io.StringIO()
    Console(file=output, width=150).print(table.terminal())
    return output.getvalue().splitlines()


def test_markdown_aligns_by_type_and_shows_no_markup_of_a_cell() -> None:
    assert TABLE.markdown().splitlines() == [
        "| trial | rate | accuracy (95 % interval) | correct | time | state |",
        "| --- | ---: | ---: | ---: | ---: | --- |",
        "| trial-0 | 0.00123 | 24.5% (19.0% – 31.0%) | 49 of 2,000 | 12.3 s | "
        "\x1b\\[2J\\!\\[x\\](http://evil) \\| \\<b\\>bad\\</b\\> |",
        "| [trial-1](/trials/1) | adamw | 50.0% |  |  | \\[red\\]fine |",
    ]
    assert Table.of(("a",), []).markdown() == ""


def test_html_shows_no_markup_of_a_cell_either() -> None:
    page = TABLE.html()
    assert page.count("<tr>") == 3 and '<a href="/trials/1">trial-1</a>' in page
    assert "<b>" not in page and "<img" not in page and "&lt;b&gt;bad" in page and "http://evil" in page
    assert TABLE._repr_html_() == page


def test_a_terminal_has_intervals_in_a_column_of_their_own_and_obeys_no_cell() -> None:
    title, _, headers, _, first, *_ = shown(TABLE)
    assert title.strip() == "Two trials"
    assert headers.split() == ["trial", "rate", "accuracy", "95", "%", "interval", "correct", "time", "state"]
    assert "24.5%   19.0% – 31.0%   49 of 2,000   12.3 s" in first and "\x1b" not in "".join(shown(TABLE))
    assert any("50.0%" in line and "[red]fine" in line for line in shown(TABLE)), "no markup of rich's"


def test_json_has_values_not_texts() -> None:
    first, second = json.loads(json.dumps(TABLE.json()))
    assert first["rate"] == 0.00123456 and first["time"] == 12.34 and first["correct"] == {"num": 49, "of": 2000}
    accuracy = {"share": 0.245, "num": 49, "of": 200, "interval": {"low": 0.19, "high": 0.31}}
    assert first["accuracy"] == accuracy
    assert (second["rate"], second["accuracy"], second["time"]) == ("adamw", 0.5, None)


def test_columns_are_left_out_by_name() -> None:
    assert TABLE.without("rate", "state", "time").headers == ("trial", "accuracy (95 % interval)", "correct")
    assert Table.of(("", "n"), [("a", count(1024))]).without("").rows[0][0] == count(1024)
