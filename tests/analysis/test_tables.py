"""A table is values until it is rendered: the same rows in every form, escaped where a form needs it."""

import csv
import io
import math

import pytest

from analysis.page.table import Spread, Table, column, markdown_text, shown
from analysis.stats.estimates import Estimate, Interval

HOSTILE = "<b>bold</b> | a_b `code` *x* 50% & \\n"
ROWS = [
    {
        "name": HOSTILE,
        "gap": Estimate(mean=0.1, low=-0.05, high=0.25, seeds=3, items=10),
        "sd": Spread(1.0, 0.5, 3),
    },
    {"name": "plain", "gap": None, "sd": Spread(2.0, math.nan, 1)},
]


@pytest.fixture
def table():
    columns = [
        column("name", lambda row: row["name"], terminal=True, wide=True),
        column("gap [95%]", lambda row: row["gap"]),
        column("sd", lambda row: row["sd"], ".2f", terminal=True),
    ]
    return Table(name="t", columns=columns, rows=ROWS)


def test_values_as_people_read_them():
    assert shown(None) == shown(math.nan) == "-"
    assert shown(0.12345, ".1%") == "12.3%"
    assert shown(12345, ",d") == "12,345"
    assert shown(Estimate(mean=0.1, low=-0.05, high=0.25, seeds=3, items=9)) == "+0.100 [-0.050, +0.250]"
    assert shown(Interval(mean=1.1, low=1.0, high=1.2)) == "1.100 [1.000, 1.200]"
    assert shown(Spread(0.5, 0.02, 3), "+.2f") == "+0.50 ± 0.02"


def test_numbers_stay_numbers_in_csv(table):
    header, first, second = csv.reader(io.StringIO(table.csv()))
    assert header == ["name", "gap [95%]", "gap [95%] low", "gap [95%] high", "sd", "sd sd"]
    assert first == [HOSTILE, "0.1", "-0.05", "0.25", "1.0", "0.5"]
    assert second == ["plain", "", "", "", "2.0", "nan"]


def test_nothing_raw_reaches_html_or_markdown(table):
    for text in (table.html(), table.markdown(), markdown_text(HOSTILE)):
        assert "<b>" not in text
        assert "&lt;b&gt;" in text
    row = table.markdown().splitlines()[2]
    assert row.count("|") - row.count("\\|") == 4
    assert "\n" not in markdown_text("a\nb\u2028c")


def test_latex_is_escaped(table):
    latex = table.latex()
    assert r"50\%" in latex
    assert r"a\_b" in latex
    assert r"\&" in latex
    assert r"$\pm$" in latex


def test_the_terminal_shows_what_is_for_it(table):
    lines = table.terminal().splitlines()
    assert lines[0].split() == ["name", "sd"]
    assert len(lines) == 2 + len(ROWS)


def test_a_table_without_rows_is_nothing(table):
    empty = Table(name="t", columns=table.columns)
    assert not empty
    assert empty.terminal() == ""
