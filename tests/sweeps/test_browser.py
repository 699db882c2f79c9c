"""What people see in a browser: the runs table, the compare page with parallel coordinates, the report.

Screenshots go to $GRIT_SCREENSHOTS.
"""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from urllib.parse import quote

import matplotlib.image
import numpy as np
import pytest
from launching import FIVE, runs, start
from mlflow_server import MlflowServer

pytestmark = [pytest.mark.browser, pytest.mark.slow]
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser")
    process = start(folder, *FIVE)
    said, errors = process.communicate(timeout=400)
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
    """Opens a page: returns its document, and leaves a screenshot."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no chromium on this machine")
    screenshots = Path(os.environ.get("GRIT_SCREENSHOTS", tmp_path))
    screenshots.mkdir(exist_ok=True)

    def go(name, url, *flags):
        command = [
            chromium,
            *FLAGS,
            *flags,
            f"--user-data-dir={tmp_path / name}",
            "--window-size=1500,1100",
            "--virtual-time-budget=25000",
        ]
        picture = screenshots / f"{name}.png"
        subprocess.run(
            [*command, f"--screenshot={picture}", url], capture_output=True, timeout=180, check=True
        )
        document = subprocess.run(
            [*command, "--dump-dom", url], capture_output=True, timeout=180, check=True, text=True
        ).stdout
        colours = np.unique(matplotlib.image.imread(picture).reshape(-1, 4), axis=0)
        assert len(colours) > 16, "the page is blank"
        return document

    return go


def test_the_runs_table_shows_knobs_and_objectives(study, ui, look):
    uri = f"sqlite:///{study / 'mlflow.db'}"
    experiment = runs(uri)[0].info.experiment_id
    document = look("runs", f"{ui}/#/experiments/{experiment}/runs")
    assert "tau_T_lambda" in document
    assert "study" in document


def test_the_compare_page_draws_parallel_coordinates(study, ui, look):
    chosen = [run for run in runs(f"sqlite:///{study / 'mlflow.db'}") if run.data.tags.get("kind") == "trial"]
    ids = quote("[" + ",".join(f'"{run.info.run_id}"' for run in chosen) + "]")
    experiments = quote(f"[%22{chosen[0].info.experiment_id}%22]", safe="%")
    document = look("compare", f"{ui}/#/compare-runs?runs={ids}&experiments={experiments}")
    assert "Parallel Coordinates" in document
    assert "retention" in document
    assert "footprint" in document


def test_the_report_stands_alone(study, look):
    document = look("report", (study / "study" / "report.html").as_uri())
    assert "What this does not show" in document
    assert "<svg" in document
    assert not re.search(r"ERR_|not found", document)


#: Shows a page as wide as a phone, and says how wide it becomes and how many headings explain themselves.
PHONE = """<iframe id="phone" src="{page}" style="width:390px;height:1200px"></iframe><script>
phone.onload = () => {{
    const seen = phone.contentDocument;
    const headings = [...seen.querySelectorAll("th")];
    document.body.append(JSON.stringify({{
        width: seen.documentElement.scrollWidth,
        headings: headings.length,
        explained: headings.filter(each => each.title).length,
    }}));
}};
</script>"""


def test_the_report_fits_a_phone_and_its_headings_explain_themselves(study, look, tmp_path):
    page = tmp_path / "phone.html"
    page.write_text(PHONE.format(page=(study / "study" / "report.html").as_uri()))
    document = look("phone", page.as_uri(), "--allow-file-access-from-files", "--disable-web-security")
    seen = json.loads(re.search(r'\{"width".*?\}', document).group())
    assert seen["width"] <= 390
    assert seen["headings"] == seen["explained"] > 20
