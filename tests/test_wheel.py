"""The wheel, installed in a fresh environment and used outside the checkout."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.slow


def _run(*command, cwd):
    environment = dict(os.environ)
    for variable in ("PYTHONPATH", "VIRTUAL_ENV"):
        environment.pop(variable, None)
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stdout[-1500:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder of commands of an environment that has the wheel, and borrows its dependencies from here."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    ignored = shutil.ignore_patterns(".*", "results", "site", "build", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, source, ignore=ignored)
    wheel = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    _run(*wheel, "--wheel-dir", folder, source, cwd=folder)
    _run(sys.executable, "-m", "venv", folder / "environment", cwd=folder)
    shutil.rmtree(source)
    python = folder / "environment/bin/python"
    (own,) = (folder / "environment/lib").glob("python*/site-packages")
    # What the wheel needs is installed beside the editable checkout, whose own hook is not read from there.
    (own / "borrowed.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    (built,) = folder.glob("grit_sweeps-*.whl")
    _run(python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", built, cwd=folder)
    return python.parent


def test_the_package_is_the_wheels(installed, tmp_path):
    packages = "grit, sweeps, analysis, ray_jobs"
    code = f"import {packages}; print(*(package.__file__ for package in ({packages})))"
    homes = _run(installed / "python", "-c", code, cwd=tmp_path).split()
    assert len(homes) == 4 and all(str(installed.parent) in home for home in homes)


def test_one_run_is_trained_scored_and_exported(installed, tmp_path):
    options = ["--method", "grit", "--budget-steps", "4", "--set", "eval_examples=8", "--output", "one"]
    _run(installed / "grit", "train", "--task", "arithmetic", *options, cwd=tmp_path)
    _run(installed / "grit", "export", "one", cwd=tmp_path)
    assert (tmp_path / "one").is_dir() and list(tmp_path.glob("one/**/adapter_config.json"))


def test_a_study_runs_and_its_report_is_made_again(installed, tmp_path):
    """Ray's workers import the wheel as well."""
    said = _run(installed / "grit-sweep", "--preset", "smoke", "--output", "study", cwd=tmp_path)
    assert "report:" in said
    (tmp_path / "study/report.html").unlink()
    _run(installed / "grit-report", "study", cwd=tmp_path)
    assert (tmp_path / "study/report.html").is_file()
