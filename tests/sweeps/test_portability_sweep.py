"""The sweep over all tasks.

Planned task by task, refused in one line, and never run where only the plan was asked for.
"""

import subprocess
import sys

import pytest
from launching import ROOT, environment


def _run(*arguments, folder):
    return subprocess.run(
        [sys.executable, str(ROOT / "sweeps" / "portability.py"), *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        env=environment(),
    )


def test_every_task_is_planned(tmp_path):
    done = _run(
        "--tasks",
        "reading",
        "arithmetic",
        "--dry-run",
        "--no-measure",
        "--seeds",
        "41",
        "--output",
        str(tmp_path / "out"),
        folder=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("8 trials; about") == 2
    assert "task 2 of 2: arithmetic" in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "arguments, said",
    [
        (("--task", "reading"), "say --tasks"),
        (("--tasks", "poetry"), "task = 'poetry'"),
        (("--seeds", "-1"), "seeds = -1"),
    ],
)
def test_bad_input_is_one_line(tmp_path, arguments, said):
    done = _run(*arguments, "--output", str(tmp_path / "out"), folder=tmp_path)
    assert done.returncode == 2
    assert said in done.stderr.splitlines()[-1]
    assert not list(tmp_path.iterdir())
