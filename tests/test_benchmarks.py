"""Every benchmark runs, as small as it can be, and ends in one line of JSON."""

import json
import subprocess
import sys

import pytest
from builders import study_folder
from conftest import ROOT

SMALL = {
    "analysis_scale": ("--records", "60", "--resumed", "60"),
    "embedded_tasks": ("41", "--steps", "2", "--examples", "4"),
    "grit_overhead": ("--model", "embedded", "--steps", "3", "--cadence", "3"),
    "rank_space_linalg": ("--ranks", "4"),
    "trunks": ("--steps", "16", "--values", "1"),
}


def _last_line(name, *arguments):
    command = [sys.executable, str(ROOT / "benchmarks" / f"{name}.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_every_benchmark_is_here():
    assert {path.stem for path in (ROOT / "benchmarks").glob("*.py")} == {*SMALL, "mlflow_overhead"}


@pytest.mark.parametrize("name", SMALL)
def test_a_benchmark_runs(name):
    assert _last_line(name, *SMALL[name])["benchmark"] == name


def test_the_cost_of_mlflow(tmp_path):
    study_folder(tmp_path / "s")
    (tmp_path / "s" / "report.html").write_text("page")
    assert _last_line("mlflow_overhead", str(tmp_path / "s"))["trials"] == 20
