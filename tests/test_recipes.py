"""CONTRIBUTING.md's recipes, carried out in a copy of the project: a small study shows every toy."""

import json
import re
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT
from mlflow.tracking import MlflowClient

RECIPE = re.compile(
    r'<!-- recipe: (?P<file>\S+) (?P<how>above "(?P<line>[^\n]*)"|into (?P<name>\w+)) -->\n'
    r"```python\n(?P<code>.*?)```",
    re.DOTALL,
)


def _recipes():
    return list(RECIPE.finditer((ROOT / "CONTRIBUTING.md").read_text(encoding="utf8")))


def _added(text, recipe):
    """A file's text with a recipe's block where it says."""
    if recipe["name"]:
        opened = re.search(rf"^{recipe['name']}\b.*\{{\n", text, re.MULTILINE)
        if opened is None:  # a function that returns a list
            start = text.index(f"def {recipe['name']}(")
            opened = re.compile(r"return \[\n").search(text, start)
        place = opened.end()
    else:
        assert text.count(recipe["line"]) == 1, recipe["line"]
        place = text.index(recipe["line"])
    code = recipe["code"] + "\n\n" * recipe["code"].startswith("def ")
    return text[:place] + code + text[place:]


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    """A study of a project that has every toy: its folder, and what its driver says."""
    folder = tmp_path_factory.mktemp("recipes")
    copy = folder / "project"
    for part in ("grit", "ray_jobs", "sweeps", "analysis", "tests"):
        shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__", "folder_of*"))
    shutil.copy(ROOT / "pyproject.toml", copy)
    for recipe in _recipes():
        path = copy / recipe["file"]
        path.write_text(_added(path.read_text(encoding="utf8"), recipe), encoding="utf8")
    command = [sys.executable, str(copy / "tests" / "recipes_driver.py"), str(folder / "made")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=copy)
    assert done.returncode == 0, done.stderr
    return folder / "made", json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def mirrored(toys):
    """MLflow's runs of that study, by trial."""
    folder, _ = toys
    client = MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("tau_T_lambda")
    runs = client.search_runs([experiment.experiment_id], "tags.kind = 'trial'")
    return {run.data.tags["trial_id"]: run for run in runs}


def _report(toys):
    return (toys[0] / "study" / "report.html").read_text(encoding="utf8")


def test_there_is_a_recipe_for_each_kind():
    files = {recipe["file"].rpartition("/")[2] for recipe in _recipes()}
    kinds = {"metrics.py", "measurements.py", "method.py", "registry.py", "search.py", "trial_status.py"}
    assert files >= kinds | {"sections.py", "all_figures.py"}


def test_a_metric_is_in_predictions_report_and_mlflow(toys, mirrored):
    _, said = toys
    scored = [row for row in said["tables"]["predictions"] if row["kind"] == "task"]
    assert scored
    assert all(0 <= row["brevity"] <= 1 for row in scored)
    assert "brevity" in _report(toys)
    assert all("metric/brevity" in run.data.metrics for run in mirrored.values())


def test_an_objective_is_in_fronts_report_and_mlflow(toys, mirrored):
    assert "mean step (s)" in _report(toys)
    assert "step_seconds" in (toys[0] / "study" / "pareto.csv").read_text().splitlines()[0]
    assert all(run.data.metrics["step_seconds"] > 0 for run in mirrored.values())


def test_a_switch_makes_a_trial_of_its_own_and_acts(toys):
    folder, said = toys
    trials = [json.loads(line) for line in (folder / "study" / "trials.jsonl").read_text().splitlines()]
    by_gain = {
        trial["config"]["grit"]["gradient_gain"]: trial
        for trial in trials
        if trial["config"]["method"] == "grit"
    }
    assert set(by_gain) == {1.0, 2.0}
    losses = {gain: trial["measured"]["answer_loss"] for gain, trial in by_gain.items()}
    assert losses[1.0] != losses[2.0]
    assert "gradient_gain" in _report(toys)


def test_a_knob_is_an_option_and_is_in_report_and_mlflow(toys, mirrored):
    assert toys[1]["asked"]["rho"] == ["0.5", "0.9"]
    report = _report(toys)
    assert "The decay rho alone, all else at the default." in report
    assert "rho,tau,T,lambda" in (toys[0] / "study" / "pareto.csv").read_text().splitlines()[0]
    by_rho = {run.data.params["rho"] for run in mirrored.values() if "rho" in run.data.params}
    assert by_rho == {"none", "0.5"}  # by default it is the statistics' own: a running mean


def test_a_method_is_in_report_and_mlflow(toys, mirrored):
    assert "LoRA, Gaussian" in _report(toys)
    assert "gaussian" in {run.data.tags["method"] for run in mirrored.values()}


def test_a_sampler_proposes(toys):
    assert 1e-4 <= toys[1]["proposed"]["lambda"] <= 1e-1


def test_a_status_is_in_report_and_mlflow(toys, mirrored):
    _, said = toys
    run = mirrored[said["ids"][0]]
    assert run.info.status == "KILLED"
    assert run.data.tags["status"] == "preempted"
    assert "preempted" in _report(toys)


def test_an_audit_leaves_its_table(toys):
    rows = toys[1]["tables"]["norms"]
    assert rows
    assert all(row["norm"] >= 0 and "lora" in row["tensor"] for row in rows)


def test_a_figure_is_in_the_report(toys):
    assert "Training seconds of every setting." in _report(toys)
    assert (toys[0] / "study" / "figures" / "seconds.svg").exists()
