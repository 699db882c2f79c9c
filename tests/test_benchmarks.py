"""Every benchmark runs, as small as it can be, and ends in one line of JSON."""

import importlib
import json
import runpy
import sys

import numpy as np
import pytest
from builders import ended, planned, study, study_folder
from conftest import ROOT

from analysis.evidence.load import load_study
from analysis.evidence.point_summary import quality_matrix, summarize_points

SMALL = {
    "analysis_scale": ("--records", "20", "--resumed", "20"),
    "evaluation": ("--model", "embedded", "--steps", "2", "--examples", "4"),
    "embedded_tasks": ("41", "--steps", "2", "--examples", "4"),
    "grit_overhead": ("--model", "embedded", "--steps", "3", "--cadence", "3"),
    "forecast": ("--preset", "smoke", "--steps", "4"),
    "packed_seeds": ("--steps", "2", "--seeds", "2", "--micro-batch", "2"),
    "rank_space_linalg": ("--ranks", "4"),
    "schedule": ("--trials", "40", "--gpus", "2", "8"),
    "search": ("--seeds", "2", "--trainings", "3"),
    "training_speed": ("--model", "embedded", "--steps", "2"),
    "verdicts": ("--studies", "1"),
    "attach_verification": ("--model", "embedded", "--repeats", "1"),
    "trunks": ("--steps", "16", "--values", "1"),
}
#: Those with a test of their own.
ON_THEIR_OWN = ("mlflow_overhead", "record_curves", "study_worlds", "track")


@pytest.fixture
def last_line(monkeypatch, capsys):
    """Runs a benchmark as its command does, in this process; its last line, read."""

    def run(name, *arguments):
        script = str(ROOT / "benchmarks" / f"{name}.py")
        monkeypatch.setattr(sys, "argv", [script, *arguments])
        monkeypatch.syspath_prepend(ROOT / "benchmarks")  # as Python does for a script
        runpy.run_path(script, run_name="__main__")
        return json.loads(capsys.readouterr().out.splitlines()[-1])

    return run


def test_every_benchmark_is_here():
    names = {path.stem for path in (ROOT / "benchmarks").glob("*.py")}
    assert names == {*SMALL, *ON_THEIR_OWN}


#: Those that take half a minute even so.
LONG = ("grit_overhead", "trunks")


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in LONG else n for n in SMALL])
def test_a_benchmark_runs(last_line, name):
    assert last_line(name, *SMALL[name])["benchmark"] == name


def test_the_cost_of_mlflow(last_line, tmp_path):
    study_folder(tmp_path / "s")
    (tmp_path / "s" / "report.html").write_text("page")
    assert last_line("mlflow_overhead", str(tmp_path / "s"))["trials"] == 20


def test_a_real_study_is_kept_and_replayed(last_line, tmp_path, monkeypatch):
    options = {"seeds": range(8), "quality": "answer_logprob", "regimes": ("step",)}
    usual = {"quality_metric": "answer_logprob", "quality": -0.2, "footprint": 0.7}
    records = [ended(record, **usual) for record in planned(study(**options))]
    study_folder(tmp_path / "s", records, **options)
    kept = tmp_path / "kept.npz"
    said = last_line("study_worlds", str(tmp_path / "s"), str(kept))
    assert said == {"benchmark": "study_worlds", "settings": 5, "seeds": 8}
    study_worlds = importlib.import_module("study_worlds")
    world = study_worlds.recorded(kept)
    data = load_study(tmp_path / "s")
    for point in summarize_points(records):
        kept_as = next(p for p in world.points if p.knob_texts() == point.knob_texts())
        values = world.noise.quality.scores[kept_as.point_id].values
        np.testing.assert_allclose(values, quality_matrix(data, point), rtol=1e-6)
        assert kept_as.mean("footprint") == pytest.approx(point.mean("footprint"))
    again = world.shuffled(np.random.default_rng(0)).noise.quality
    for name, of_setting in world.noise.quality.scores.items():
        own, other = (np.sort(each, axis=0) for each in (of_setting.values, again.scores[name].values))
        np.testing.assert_allclose(own, other)
    row = last_line("verdicts", "--studies", "1", "--replay", str(kept))["recorded"]
    assert row["studies"] == 1
    assert row["trials"] >= 10


def test_a_study_that_cannot_be_replayed_is_not_kept(last_line, tmp_path):
    study_folder(tmp_path / "few", seeds=range(3), quality="answer_logprob", regimes=("step",))
    with pytest.raises(ValueError, match="the same seeds, at least 8"):
        last_line("study_worlds", str(tmp_path / "few"), str(tmp_path / "kept.npz"))


def test_curves_are_recorded(last_line, tmp_path):
    file = tmp_path / "curves.json"
    said = last_line(
        "record_curves", "--points", "2", "--processes", "0", "--steps", "4", "--output", str(file)
    )
    assert said["settings"] == 2
    rows = json.loads(file.read_text())
    assert [len(row["rungs"]) for row in rows] == [4, 4]
    assert rows[0]["knobs"] != rows[1]["knobs"]
    assert rows[0]["rungs"][-1]["quality"] > rows[0]["base_quality"]


def test_what_became_slower_is_named(monkeypatch, tmp_path, capsys):
    """One that runs for real, against a record that says it was ten times as good."""
    script = runpy.run_path(str(ROOT / "benchmarks" / "track.py"))
    recorded = tmp_path / "recorded.json"
    monkeypatch.setitem(script["main"].__globals__, "RECORDED", recorded)
    output = tmp_path / "track.json"
    arguments = ["--only", "rank_space_linalg", "--output", str(output)]
    assert script["main"](arguments) == 0  # there is nothing to compare with
    now = json.loads(output.read_text())["figures"]["batched inversion"]
    recorded.write_text(json.dumps({"batched inversion": 10 * now, "report of 300": 1.0}))
    assert script["main"](arguments) == 1
    assert list(json.loads(output.read_text())["slower"]) == ["batched inversion"]
    assert "times as fast" in capsys.readouterr().out


def test_seconds_and_ratios_say_which_way_is_faster():
    changes = runpy.run_path(str(ROOT / "benchmarks" / "track.py"))["changes"]
    now = {"lean step, LoRA": 1.5, "report of 300": 2.0, "new": 1.0}
    assert changes(now, {"lean step, LoRA": 1.0, "report of 300": 1.0}) == {
        "lean step, LoRA": 1.5,
        "report of 300": 0.5,
    }
