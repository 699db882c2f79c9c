"""The scripts of baselines, compression and audits.

What they plan, what they refuse before anything starts, and (slow) all of it for real.
"""

import json
import re
import subprocess
import sys

import pytest
from launching import ROOT, environment

from grit.config.registry import METHODS
from ray_jobs.records.trials_file import read_trials
from sweeps import audit, baselines, compression, forgetting_law, overhead, small_batch
from sweeps.overhead import adapted_layer_counts

SCRIPTS = {
    "baselines": baselines.SCRIPT.main,
    "compression": compression.SCRIPT.main,
    "overhead": overhead.SCRIPT.main,
    "small_batch": small_batch.SCRIPT.main,
    "forgetting_law": forgetting_law.main,
}


@pytest.mark.parametrize(
    "name, trials",
    [("baselines", 200), ("compression", 138), ("overhead", 36), ("small_batch", 88), ("forgetting_law", 58)],
)
def test_the_embedded_plan_launches_nothing(capsys, name, trials):
    assert SCRIPTS[name](["--dry-run", "--no-measure"]) == 0
    planned = int(re.search(r"(\d+) trials; about", capsys.readouterr().out)[1])
    assert planned == trials


@pytest.mark.parametrize("name", SCRIPTS)
@pytest.mark.parametrize("preset", ["smoke", "llama-3.1-8b"])
def test_every_preset_has_a_plan(capsys, tmp_path, name, preset):
    (tmp_path / "rows.jsonl").write_text(
        "".join(json.dumps({"question": f"q{i}", "answer": f"so #### {i}"}) + "\n" for i in range(20))
    )
    (tmp_path / "text.txt").write_text("\n\n".join(f"text {n}" for n in range(520)))
    files = [f"--{kind}-file={tmp_path / 'rows.jsonl'}" for kind in ("train", "eval")] + [
        f"--retention-file={tmp_path / 'text.txt'}"
    ]
    assert (
        SCRIPTS[name](
            ["--preset", preset, "--dry-run", "--no-measure", *(files if preset != "smoke" else [])]
        )
        == 0
    )
    assert "trials; about" in capsys.readouterr().out


@pytest.mark.parametrize(
    "name, arguments, said",
    [
        (
            "baselines",
            ["--learning-rates", "0"],
            "error: learning-rates = 0.0: must be a finite number above 0",
        ),
        ("compression", ["--ranks", "16"], "error: ranks = 16: must be at least 1 and below the rank, 16"),
        ("compression", ["--set", "reprojection_freq=none"], "error: T (reprojection_freq) = None"),
        ("small_batch", ["--sizes", "0"], "error: sizes = 0: must be a whole number of at least 1"),
        ("overhead", ["--set", 'beside=["x"]'], "error: beside = ('x',): must be"),
        ("baselines", ["--tau", "0.9"], "error: tau = [0.9]: has no meaning here"),
        ("small_batch", ["--search-points", "4"], "error: search-points = 4: has no meaning here"),
        ("forgetting_law", ["--seeds", "-1"], "error: seeds = -1"),
    ],
)
def test_bad_input_is_one_line(capsys, name, arguments, said):
    assert SCRIPTS[name]([*arguments, "--dry-run", "--no-measure"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(said)
    assert error.count("\n") == 1


def test_a_method_nobody_knows_is_refused(capsys):
    with pytest.raises(SystemExit) as left:
        baselines.SCRIPT.main(["--methods", "lora", "magic"])
    assert left.value.code == 2
    assert capsys.readouterr().err.startswith(
        "error: argument --methods: 'magic': did you mean 'mica'? must be one of lora, "
    )


def test_layers_of_deep_and_shallow_models():
    assert adapted_layer_counts(28) == [4, 8, 16]
    assert adapted_layer_counts(16) == [4, 8]
    assert adapted_layer_counts(4) == [1, 2, 3]
    assert adapted_layer_counts(1) == []


def test_audits_are_planned_together(capsys):
    assert audit.main(["--dry-run", "--no-measure"]) == 0
    shown = capsys.readouterr().out
    each = [int(count) for count in re.findall(r"^(\d+) trials; about", shown, re.MULTILINE)]
    assert len(each) == 3
    assert f"all 3 studies: {sum(each)} trials; about" in shown.splitlines()[-1]


@pytest.mark.slow
def test_all_audits_end_in_one_page(tmp_path):
    """Real Ray, one after the other; interrupted by nobody, and again with --resume: nothing runs twice."""
    command = [
        sys.executable,
        str(ROOT / "sweeps" / "audit.py"),
        "--budget-steps",
        "12",
        "--output",
        str(tmp_path / "audit"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    page = (tmp_path / "audit" / "audit.html").read_text()
    assert page.count("<h1 id=") == 3
    assert "was not run" not in page
    assert "failed" not in done.stdout
    again = subprocess.run(
        [*command, "--resume"], capture_output=True, text=True, env=environment(), cwd=tmp_path
    )
    assert again.returncode == 0
    assert "starting workers" not in again.stderr


@pytest.mark.slow
def test_every_method_runs_as_a_study(tmp_path):
    command = [
        sys.executable,
        str(ROOT / "sweeps" / "baselines.py"),
        "--all",
        "--preset",
        "smoke",
        "--budget-steps",
        "6",
        "--learning-rates",
        "2e-3",
        "--output",
        str(tmp_path / "b"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    records = read_trials(tmp_path / "b")
    assert {record.method for record in records} == set(METHODS)
    assert {record.status for record in records} == {"completed"}
    probed = {method for record in records for method in record.measured.memory_bytes or {}}
    assert probed == set(METHODS)
    assert "LoRA&#39;s frontier" in (tmp_path / "b" / "report.html").read_text()
