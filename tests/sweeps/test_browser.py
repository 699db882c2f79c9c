"""What people see in a browser: MLflow's runs table, its compare page with parallel coordinates, the report.

The browser is Qt's Chromium, a wheel (`make test-browser` installs it). Pictures go to $GRIT_SCREENSHOTS.
"""

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from launching import FIVE, runs, start
from mlflow_server import MlflowServer

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(
        find_spec("PySide6") is None, reason="no browser here: `make test-browser` installs one"
    ),
]
LOADED = "document.readyState == 'complete'"
TEXT = "document.body.innerText"


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser")
    process = start(folder, *FIVE)
    _, errors = process.communicate(timeout=400)
    assert process.returncode == 0, errors
    return folder


@pytest.fixture(scope="module")
def ui(study):
    """A real `mlflow server` on the study's database."""
    server = MlflowServer(study, store="mlflow.db")
    yield server.start().uri
    server.kill()


@pytest.fixture
def look(tmp_path):
    """Opens a page, waits until JavaScript finds it `ready`, leaves a picture; what it saw."""
    screenshots = Path(os.environ.get("GRIT_SCREENSHOTS", tmp_path))
    screenshots.mkdir(exist_ok=True)

    def go(name, url, ready=LOADED, ask=None, width=1500, printed=False):
        picture = screenshots / f"{name}.png"
        order = {
            "url": url,
            "picture": str(picture),
            "width": width,
            "height": 1100,
            "ready": ready,
            "ask": ask,
            "pdf": str(screenshots / f"{name}.pdf") if printed else None,
        }
        script = Path(__file__).with_name("page_in_browser.py")
        visit = subprocess.run(
            [sys.executable, str(script), json.dumps(order)], capture_output=True, text=True, timeout=180
        )
        assert visit.returncode == 0, f"{name} was never ready: {visit.stdout[-1500:]}{visit.stderr[-1500:]}"
        colours = np.unique(matplotlib.image.imread(picture).reshape(-1, 4), axis=0)
        assert len(colours) > 16, "the page is blank"
        return json.loads(visit.stdout)

    return go


def shows(text):
    """JavaScript that holds once the page shows `text`."""
    return f"{TEXT}.includes({json.dumps(text)})"


@pytest.fixture(scope="module")
def report(study):
    return (study / "study" / "report.html").as_uri()


@pytest.fixture(scope="module")
def recorded(study):
    """All runs, and the study's own."""
    everything = runs(f"sqlite:///{study / 'mlflow.db'}")
    (own,) = [run for run in everything if run.data.tags.get("kind") == "study"]
    return everything, own


def test_the_runs_table_has_the_study_and_its_runs_below_it(recorded, ui, look):
    everything, own = recorded
    page = f"{ui}/#/experiments/{own.info.experiment_id}/runs"
    seen = look("runs", page, ready=shows(own.info.run_name) + " && " + shows("matching runs"), ask=TEXT)
    assert f"{len(everything)} matching runs" in seen["answer"]


def test_the_studys_link_compares_settings_by_knobs_and_quality(recorded, ui, look):
    link = re.search(r"\((#/compare-runs[^)]*)\)", recorded[1].data.tags["mlflow.note.content"]).group(1)
    drawn = "document.querySelectorAll('.parcoords .axis-title').length > 1"
    axes = "[...document.querySelectorAll('.parcoords .axis-title')].map(each => each.textContent)"
    seen = look("compare", f"{ui}/{link}", ready=drawn, ask=axes)
    assert seen["answer"] == ["T", "lambda", "tau", "quality"]


def test_the_report_stands_alone(report, look):
    loaded = "performance.getEntriesByType('resource').map(each => each.name)"
    seen = look("report", report, ask=loaded)
    assert "What this does not show" in seen["document"]
    assert "<svg" in seen["document"]
    assert seen["answer"] == [], "the report loads something from elsewhere"


#: How wide the page has become, and the headings that do not explain themselves.
WIDTH_AND_HEADINGS = """({
    width: document.documentElement.scrollWidth,
    headings: document.querySelectorAll("th").length,
    unexplained: [...document.querySelectorAll("th:not([title])")].map(each => each.textContent),
})"""


def test_the_report_fits_a_phone_and_its_headings_explain_themselves(report, look):
    seen = look("phone", report, ask=WIDTH_AND_HEADINGS, width=390)["answer"]
    assert seen["width"] <= 390
    assert seen["headings"] > 20
    assert seen["unexplained"] == []


#: The text of each heading of a table, and of each heading of a section with the first words below it.
HEADINGS = """({
    columns: [...document.querySelectorAll("th")].map(each => each.textContent),
    sections: [...document.querySelectorAll("h2, h3")].map(each => each.textContent),
})"""


def words(text):
    """Without any whitespace: where a sheet breaks its lines is its own affair."""
    return "".join(text.split())


def test_on_paper_no_column_is_cut_and_no_heading_ends_a_sheet(report, look):
    seen = look("paper", report, ask=HEADINGS, printed=True)
    sheets = [words(sheet) for sheet in seen["sheets"]]
    missing = {
        column for column in seen["answer"]["columns"] if not any(words(column) in one for one in sheets)
    }
    assert not missing, "columns that no sheet shows"
    orphans = [
        section
        for section in seen["answer"]["sections"]
        if any(one.endswith(words(section)) for one in sheets)
    ]
    assert not orphans, "headings at the end of a sheet"
