"""The house: which part may import which, one home for each vendor, one name for each thing, short files."""

import ast
import graphlib
import subprocess
import sys
from collections import defaultdict

import pytest
from conftest import ROOT
from import_graph import MODULES, PACKAGES, arrows, room, tree, vendors

FORBIDDEN = {
    "grit": {"ray", "mlflow", "optuna", "ray_jobs", "sweeps", "analysis"},
    "ray_jobs": {"sweeps", "analysis", "peft"},
    "analysis": {"ray", "torch", "mlflow", "optuna", "sweeps", "transformers", "peft"},
    "sweeps": {"ray", "mlflow", "optuna", "peft"},
}
#: One vendor behind one file (or, for Ray, behind the files that run on it).
OWNERS = {
    "peft": {
        *(f"grit/adapters/{name}.py" for name in ("peft_adapters", "quick_import")),
        *(f"grit/methods/{name}.py" for name in ("adalora", "initialized_by_data", "lora")),
        *(f"grit/methods/{name}.py" for name in ("intruders", "optimizers", "peft_tuners")),
    },
    "lm_eval": {"grit/evaluation/probes.py"},
    "pytorch_optimizer": {"grit/methods/optimizers.py", "grit/training/memory_probe.py"},
    "pynvml": {"grit/runtime/nvml.py"},
    "evaluate": {"grit/evaluation/text_metrics.py"},
    "rouge_score": {"grit/tasks/scoring.py"},
    "sacrebleu": {"grit/tasks/metrics.py"},
    "sklearn": {"grit/tasks/metrics.py"},
    "mlflow": {
        *(f"ray_jobs/tracking/mlflow_{name}.py" for name in ("store", "runs", "system", "models")),
        "ray_jobs/tracking/adapter_model.py",
    },
    "optuna": {"ray_jobs/schedule/search.py"},
    "yaml": {"ray_jobs/design/study_spec.py"},
    "tabulate": {"analysis/page/table.py", "sweeps/common/terminal_tables.py", "grit/cli/show.py"},
    "ray": {
        f"ray_jobs/execution/{name}.py"
        for name in (
            *("cluster", "drain", "runner", "display", "quiet", "tune_bridge", "warm/slots", "warm/worker"),
            *("warm/lean_trainer", "warm/tune_trial", "warm/group_watch"),
            *(
                "per_trial/engine",
                "per_trial/trial",
                "per_trial/train_job",
                "per_trial/termination",
                "per_trial/gpu_hold",
            ),
            "nodes/calibration",
        )
    },
}
#: Modules that every study of `analysis` may have. (A study's script and its page share the study's name.)
ROLES = {"__init__", "__main__", "page", "tables", "figures", "published"}
MAX_FILES, MAX_LINES, MAX_FUNCTION = 14, 430, 60


@pytest.mark.parametrize("package", PACKAGES)
def test_layers_point_one_way(package):
    strangers = {}
    for name, path in MODULES.items():
        if name.split(".")[0] == package:
            found = vendors(path) & FORBIDDEN[package]
            if found:
                strangers[name] = found
    assert strangers == {}


@pytest.mark.parametrize("level", [room, lambda name: name], ids=["rooms", "modules"])
def test_arrows_between_rooms_point_one_way_and_no_module_is_in_a_cycle(level):
    cycle = []
    try:
        graphlib.TopologicalSorter(arrows(level)).prepare()
    except graphlib.CycleError as error:
        cycle = error.args[1]
    assert cycle == []


@pytest.mark.parametrize("vendor", OWNERS)
def test_a_vendor_has_one_home(vendor):
    users = {str(path.relative_to(ROOT)) for path in MODULES.values() if vendor in vendors(path)}
    assert users
    assert users <= OWNERS[vendor]


def test_rooms_are_small_and_say_what_they_are():
    folders = {path.parent for path in MODULES.values()}
    for folder in folders:
        text = ast.get_docstring(tree(folder / "__init__.py"))
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
        for node in tree(path).body:
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
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or 0) - node.lineno
                assert length < MAX_FUNCTION, f"{name}: {node.name}"


COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


def _puzzles(node, inside=False):
    """Conditional expressions and comprehensions within another."""
    for child in ast.iter_child_nodes(node):
        puzzling = isinstance(child, (ast.IfExp, *COMPREHENSIONS))
        if inside and puzzling:
            yield child.lineno
        yield from _puzzles(child, inside or puzzling)


def test_no_conditional_or_comprehension_is_nested():
    puzzles = {name: list(_puzzles(tree(path))) for name, path in MODULES.items()}
    assert {name: lines for name, lines in puzzles.items() if lines} == {}


#: Names that say how somebody came by a value, and not what it is.
EMPTY_NAMES = {"found", "known", "told", "said", "mine", "chosen"}


def test_names_say_what_they_hold():
    named = defaultdict(set)
    for name, path in MODULES.items():
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.arg):
                named[node.arg].add(name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                named[node.id].add(name)
    assert {name: named[name] for name in EMPTY_NAMES if named[name]} == {}


def test_packages_are_typed():
    for package in PACKAGES:
        assert (ROOT / package / "py.typed").exists()
