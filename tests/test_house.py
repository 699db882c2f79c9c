"""The house: which part may import which, one home for each vendor, one name for each thing, short files."""

import ast
import graphlib
import subprocess
import sys
from collections import defaultdict

import pytest
from conftest import ROOT

PACKAGES = ("grit", "ray_jobs", "sweeps", "analysis")
FORBIDDEN = {
    "grit": {"ray", "mlflow", "optuna", "ray_jobs", "sweeps", "analysis"},
    "ray_jobs": {"sweeps", "analysis", "peft"},
    "analysis": {"ray", "torch", "mlflow", "optuna", "sweeps", "transformers", "peft"},
    "sweeps": {"ray", "mlflow", "optuna", "peft"},
}
#: One vendor behind one file (or, for Ray, behind the files that run on it).
OWNERS = {
    "peft": {"grit/adapters/peft_adapters.py", "grit/adapters/peft_methods.py"},
    "lm_eval": {"grit/evaluation/probes.py"},
    "pytorch_optimizer": {"grit/adapters/optimizers.py", "grit/training/memory_probe.py"},
    "evaluate": {"grit/evaluation/text_metrics.py"},
    "rouge_score": {"grit/tasks/scoring.py"},
    "sacrebleu": {"grit/tasks/metrics.py"},
    "sklearn": {"grit/tasks/metrics.py"},
    "mlflow": {"ray_jobs/tracking/mlflow_tracker.py"},
    "optuna": {"ray_jobs/schedule/search.py"},
    "yaml": {"ray_jobs/design/study_spec.py"},
    "tabulate": {"analysis/page/table.py", "sweeps/common/terminal_tables.py", "grit/cli/main.py"},
    "ray": {
        f"ray_jobs/execution/{name}.py"
        for name in ("cluster", "runner", "display", "quiet", "warm/slots", "warm/worker", "warm/tune_bridge")
    },
}
#: Modules that every study of `analysis` may have. (A study's script and its page share the study's name.)
ROLES = {"__init__", "__main__", "page", "tables", "figures", "published"}
MAX_FILES, MAX_LINES, MAX_FUNCTION = 14, 430, 60


def _modules():
    """Every module of the packages by its dotted name."""
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = path
    return found


MODULES = _modules()


def _tree(path):
    return ast.parse(path.read_text(encoding="utf8"))


def _imported(path):
    """Every module that a file imports, by dotted name."""
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in MODULES else node.module for name in inner)


def _vendors(path):
    return {name.split(".")[0] for name in _imported(path)}


def _room(name):
    """The sub-package a module lies in; a module that lies in none is a room of its own."""
    parts = name.split(".")
    return ".".join(parts[:2]) if len(parts) > 1 else name


def _arrows(key):
    """Which rooms (or modules) import which, without arrows to themselves."""
    arrows = defaultdict(set)
    for name, path in MODULES.items():
        arrows[key(name)].update(key(other) for other in _imported(path) if other in MODULES)
    return {name: others - {name} for name, others in arrows.items()}


@pytest.mark.parametrize("package", PACKAGES)
def test_layers_point_one_way(package):
    strangers = {}
    for name, path in MODULES.items():
        if name.split(".")[0] == package:
            found = _vendors(path) & FORBIDDEN[package]
            if found:
                strangers[name] = found
    assert strangers == {}


@pytest.mark.parametrize("level", [_room, lambda name: name], ids=["rooms", "modules"])
def test_arrows_between_rooms_point_one_way_and_no_module_is_in_a_cycle(level):
    list(graphlib.TopologicalSorter(_arrows(level)).static_order())


@pytest.mark.parametrize("vendor", OWNERS)
def test_a_vendor_has_one_home(vendor):
    users = {str(path.relative_to(ROOT)) for path in MODULES.values() if vendor in _vendors(path)}
    assert users
    assert users <= OWNERS[vendor]


def test_rooms_are_small_and_say_what_they_are():
    folders = {path.parent for path in MODULES.values()}
    for folder in folders:
        text = ast.get_docstring(_tree(folder / "__init__.py"))
        assert text, f"{folder} does not say what it is"
        count = len(list(folder.glob("*.py")))
        assert count <= MAX_FILES + 1, f"{folder} has {count} files"


def test_no_two_modules_share_a_name():
    homes = defaultdict(list)
    for name in MODULES:
        homes[name.rpartition(".")[2]].append(name)
    shared = {stem: names for stem, names in homes.items() if len(names) > 1 and stem not in ROLES}
    for stem, names in list(shared.items()):
        if {name.split(".")[0] for name in names} == {"sweeps", "analysis"}:
            del shared[stem]
    assert shared == {}


def test_no_two_types_share_a_name():
    homes = defaultdict(list)
    for name, path in MODULES.items():
        for node in _tree(path).body:
            if isinstance(node, ast.ClassDef):
                homes[node.name].append(name)
    assert {kind: names for kind, names in homes.items() if len(names) > 1} == {}


def test_reports_are_rebuilt_without_ray_torch_or_mlflow():
    heavy = ("ray", "torch", "mlflow", "transformers", "optuna")
    code = f"import sys, analysis.report; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_files_and_functions_stay_short():
    for name, path in MODULES.items():
        lines = path.read_text(encoding="utf8").count("\n")
        assert lines <= MAX_LINES, f"{name} has {lines} lines"
        for node in ast.walk(_tree(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or 0) - node.lineno
                assert length < MAX_FUNCTION, f"{name}: {node.name}"


def test_packages_are_typed():
    for package in PACKAGES:
        assert (ROOT / package / "py.typed").exists()
