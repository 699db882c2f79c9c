"""The house: which part may import which, and what reading records must not drag in."""

import ast
import subprocess
import sys

import pytest
from conftest import ROOT

FORBIDDEN = {
    "grit": {"ray", "mlflow", "optuna", "ray_jobs", "sweeps", "analysis"},
    "ray_jobs": {"sweeps", "analysis", "peft"},
    "analysis": {"ray", "torch", "mlflow", "optuna", "sweeps", "transformers", "peft"},
    "sweeps": {"ray", "mlflow", "optuna", "peft"},
}
#: One vendor behind one file (or, for Ray, behind the files that run on it).
OWNERS = {
    "peft": {"grit/adapters/peft_adapters.py"},
    "lm_eval": {"grit/evaluation/probes.py"},
    "pytorch_optimizer": {"grit/adapters/optimizers.py", "grit/training/memory_probe.py"},
    "evaluate": {"grit/evaluation/metrics.py"},
    "rouge_score": {"grit/tasks/scoring.py"},
    "sacrebleu": {"grit/evaluation/metrics.py"},
    "sklearn": {"grit/evaluation/metrics.py"},
    "mlflow": {"ray_jobs/tracking/mlflow_tracker.py"},
    "optuna": {"ray_jobs/schedule/search.py"},
    "ray": {
        f"ray_jobs/execution/{name}.py"
        for name in ("cluster", "runner", "display", "warm/slots", "warm/worker", "warm/tune_bridge")
    },
}


def _imports(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.split(".")[0]


@pytest.mark.parametrize("package", FORBIDDEN)
def test_layers_point_one_way(package):
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    found = {
        (str(path.relative_to(ROOT)), name)
        for path in files
        for name in _imports(path)
        if name in FORBIDDEN[package]
    }
    assert found == set()


@pytest.mark.parametrize("vendor", OWNERS)
def test_a_vendor_has_one_home(vendor):
    users = {
        str(path.relative_to(ROOT))
        for package in FORBIDDEN
        for path in (ROOT / package).rglob("*.py")
        if vendor in _imports(path)
    }
    assert users <= OWNERS[vendor] and users


def test_reports_are_rebuilt_without_ray_torch_or_mlflow():
    heavy = ("ray", "torch", "mlflow", "transformers", "optuna")
    code = f"import sys, analysis.report; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_files_and_functions_stay_short():
    for package in FORBIDDEN:
        for path in (ROOT / package).rglob("*.py"):
            text = path.read_text(encoding="utf8")
            assert text.count("\n") <= 500, path
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    assert (node.end_lineno or 0) - node.lineno < 60, f"{path}: {node.name}"
