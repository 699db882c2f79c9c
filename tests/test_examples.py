"""Every script in `examples/` runs as its own docstring says."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from peft import PeftConfig

ROOT = Path(__file__).resolve().parents[1]
#: Where each leaves its adapter; those of TRL take half a minute each.
ADAPTERS = {
    "plain_loop": ".",
    "accelerate_loop": ".",
    "huggingface_trainer": "adapter",
    "trl_sft": "adapter",
    "trl_dpo": "adapter",
}
#: What the others import.
SHARED = ("embedded_data",)
#: Those that add something of the reader's own, and what they say at their end.
OWN = {"custom_method": "completed after 20 steps", "custom_metric": "last_digit"}
#: Those that need more than a process: tests/sweeps/test_clusters.py.
ELSEWHERE = ("ray_job",)


def test_every_example_is_here():
    assert {path.stem for path in (ROOT / "examples").glob("*.py")} == {*ADAPTERS, *SHARED, *OWN, *ELSEWHERE}


def _run(name, folder):
    """What an example prints."""
    return _python(str(ROOT / "examples" / f"{name}.py"), str(folder), folder=folder)


def _python(*arguments, folder, timeout=300):
    own = {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore", "HF_HUB_OFFLINE": "1", "MPLBACKEND": "agg"}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, **own},
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_from_top_to_bottom(notebook, tmp_path):
    cells = json.loads(notebook.read_text(encoding="utf8"))["cells"]
    assert all(not cell["outputs"] for cell in cells if cell["cell_type"] == "code")  # kept without results
    script = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    assert "footprint" in _python("-c", script, folder=tmp_path, timeout=400)


@pytest.mark.slow
@pytest.mark.parametrize("name", OWN)
def test_a_method_and_a_metric_of_ones_own(name, tmp_path):
    assert OWN[name] in _run(name, tmp_path)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n.startswith("trl") else n for n in ADAPTERS]
)
def test_an_example_trains_and_leaves_an_adapter(name, tmp_path):
    assert "preconditions  yes" in _run(name, tmp_path)
    ranks = PeftConfig.from_pretrained(str(tmp_path / ADAPTERS[name])).rank_pattern
    assert len(ranks) == 28 and min(ranks.values()) < 16
