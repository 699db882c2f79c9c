"""The first hour as it is lived: a narrow terminal, a pipe, Ctrl-C, folders with blanks."""

import json
import re
import shlex
import subprocess
import sys

import pytest
from launching import COMMAND, ROOT, THREE, environment
from terminal import Terminal

from ray_jobs.records.trials_file import read_trials
from sweeps.common.study_status import study_status

pytestmark = pytest.mark.ray
#: The widths a person may have.
NARROW, USUAL = 60, 100


@pytest.fixture
def open_terminal():
    """Opens terminals, and closes them."""
    opened = []

    def go(command, *, columns, cwd):
        opened.append(Terminal(command, columns=columns, cwd=cwd, env=environment()))
        return opened[-1]

    yield go
    for terminal in opened:
        terminal.close()


def status(folder, *more):
    """What another shell is told meanwhile."""
    command = [sys.executable, "-m", "sweeps.status", str(folder), *more]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    return done.returncode, done.stdout, done.stderr


def in_order(text, *words):
    """Whether these come one after the other."""
    place = 0
    for each in words:
        place = text.find(each, place)
        assert place >= 0, f"{each!r} does not come in its place:\n{text[-3000:]}"
        place += len(each)
    return True


@pytest.mark.slow
def test_a_first_study_in_a_narrow_terminal(open_terminal, tmp_path):
    """Each phase is named when it begins; meanwhile another shell sees the trials; the end can be pasted."""
    place = tmp_path / "my first study"
    shell = open_terminal(
        [*COMMAND, "--preset", "smoke", *THREE, "--output", str(place)], columns=NARROW, cwd=tmp_path
    )
    shell.until("starting Ray")
    code, said, _ = status(place, "--json")
    seen = json.loads(said)
    assert code == 0 and seen["state"] == "running" and seen["expected"] == 3
    assert shell.to_the_end() == 0, shell.text[-3000:]
    assert in_order(
        shell.text,
        "checking the task",
        "watch:",
        "starting Ray",
        "3 trials, 3 to run",
        "workers are ready",
        "[1/3]",
        "[3/3]",
        "writing the report",
        "3 completed",
        "report:",
    )
    assert "Traceback" not in shell.text
    bars = [line for line in shell.lines() if "trial/s" in line or "s/trial" in line]
    assert bars and max(len(line) for line in bars) <= NARROW
    table = [line for line in shell.text.replace("\r", "").split("\n") if re.match("knob |---|tau  ", line)]
    assert len(table) > 4 and all(len(line) <= NARROW for line in table)
    (opened,) = [line for line in shell.lines() if line.startswith("report:")]
    assert shlex.split(opened.split("report:")[1])[1] == str(place / "report.html")
    code, said, _ = status(place)
    assert code == 0 and "finished after" in said and "3 of 3 have ended: 3 completed" in said
    # one seed decides little: what is printed for it is a growing study, which begins with these trials
    (deciding,) = [line for line in shell.lines() if line.startswith("decide:")]
    command = [*shlex.split(deciding.split("decide:")[1]), "--dry-run", "--no-measure"]
    planned = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment())
    assert planned.returncode == 0, planned.stderr
    reused = [row.split()[0] for row in planned.stdout.splitlines() if row.endswith(" reused")]
    assert set(reused) == {record.trial_id for record in read_trials(place)}


def test_ctrl_c_is_acknowledged_and_says_where_things_stand(open_terminal, tmp_path):
    place = tmp_path / "study"
    command = [*COMMAND, "--preset", "smoke", *THREE, "--output", str(place), "--max-concurrent", "1"]
    shell = open_terminal(command, columns=USUAL, cwd=tmp_path)
    shell.until("[1/3]")
    shell.press(b"\x03")
    shell.until("interrupted: no further trial is started; 1 of 3 have ended")
    assert shell.to_the_end() == 130
    assert re.search(r"1 completed, 2 not run yet; 1 run by this call in \d+ s", shell.text)
    text = shell.text.replace("\r\n", "\n")
    assert f"the same command with --output {place} goes on" in text
    assert text.rstrip().endswith(f"--max-concurrent 1 --output {place}"), "no command to paste"
    assert "Traceback" not in shell.text
    stands = study_status(place)
    assert (stands.state, stands.trials) == ("interrupted", {"completed": 1, "planned": 2})
    assert status(tmp_path / "nothing")[0] == 2


def test_one_run_through_a_pipe_says_what_it_does_and_can_be_looked_at(tmp_path):
    """No terminal: phases with their time, a line for each tenth; then what it answers, before and after."""
    place = tmp_path / "my run"
    command = [sys.executable, "-m", "grit", "train", "--preset", "smoke", "--output", str(place)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment())
    assert done.returncode == 0, done.stderr
    assert in_order(done.stderr, "scoring the untuned", "training", "evaluation")
    assert len(re.findall(r"s +\d+%  step \d+, loss \d", done.stderr)) == 11
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("look at it:")]
    shown = subprocess.run(
        line.removeprefix("look at it:"), shell=True, capture_output=True, text=True, cwd=ROOT
    )
    assert shown.returncode == 0, shown.stderr
    assert in_order(
        shown.stdout, "GRIT on arithmetic", "trained", "reprojections", "most exposed", "expected"
    )
    assert shown.stdout.count("untuned  ") == 3 + 1
