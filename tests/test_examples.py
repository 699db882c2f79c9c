"""Every script in `examples/` runs as its own docstring says."""

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


def test_every_example_is_here():
    assert {path.stem for path in (ROOT / "examples").glob("*.py")} == {*ADAPTERS, *SHARED}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n.startswith("trl") else n for n in ADAPTERS]
)
def test_an_example_trains_and_leaves_an_adapter(name, tmp_path):
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / f"{name}.py"), str(tmp_path)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "preconditions  yes" in done.stdout
    ranks = PeftConfig.from_pretrained(str(tmp_path / ADAPTERS[name])).rank_pattern
    assert len(ranks) == 28 and min(ranks.values()) < 16
