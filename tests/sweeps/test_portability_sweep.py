"""The sweep over all tasks.

Planned task by task, refused in one line, and never run where only the plan was asked for.
"""

import pytest

from sweeps import portability


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """The script's own main in this process, in a folder of its own: its exit code and what it said."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return lambda *arguments: (portability.main([*arguments, "--output", "out"]), capsys.readouterr())


def test_every_task_is_planned(run, tmp_path):
    code, said = run("--tasks", "reading", "arithmetic", "--dry-run", "--no-measure", "--seeds", "41")
    assert code == 0, said.err
    assert said.out.count("8 trials; about") == 2
    assert "all 2 studies: 16 trials; about" in said.out
    assert "task 2 of 2: arithmetic" in said.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "arguments, words",
    [
        (("--task", "reading"), "say --tasks"),
        (("--tasks", "poetry"), "task = 'poetry'"),
        (("--seeds", "-1"), "seeds = -1"),
    ],
)
def test_bad_input_is_one_line(run, tmp_path, arguments, words):
    code, said = run(*arguments)
    assert code == 2
    assert words in said.err.splitlines()[-1]
    assert not list(tmp_path.iterdir())
