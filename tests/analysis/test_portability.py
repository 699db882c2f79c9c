"""Portability: what tuning gains is judged on examples that did not choose the setting."""

import numpy as np
import pytest
from builders import ended, planned, prediction, study, study_folder

from analysis.evidence.load import load_study
from analysis.report import rebuild
from analysis.studies.portability import build, judge
from grit.errors import ConfigError
from grit.training.score_rows import task_row
from ray_jobs.records.study_file import read_study
from ray_jobs.records.trial_tables import read_rows, write_rows
from ray_jobs.records.trials_file import write_trials

OPTIONS = {"seeds": (41, 42, 43), "regimes": ("step",)}


def _study(folder, name, scores):
    """A study whose per-example scores are `scores(record, generator)` (120 examples)."""
    records = [ended(record) for record in planned(study(**OPTIONS))]
    study_folder(folder, records, **OPTIONS)
    generator = np.random.default_rng(1)
    scored = []
    for record in records:
        rows = read_rows(folder, "predictions", record.trial_id)
        documents = [row for row in rows if row["kind"] == "retention"]
        examples = []
        values = [float(score) for score in scores(record, generator)]
        scored.append(ended(record, quality=float(np.mean(values))))
        for number, score in enumerate(values):
            untuned = prediction(number, score=0.0, loss=1.0)
            examples.append(task_row(prediction(number, score=score, loss=1.0), untuned))
        write_rows(folder, "predictions", record.trial_id, [*examples, *documents])
    write_trials(folder, scored)
    file = read_study(folder)
    values = file.model_dump(mode="json")
    values["config"]["task"]["name"] = name
    type(file).model_validate({**values, "name": "portability"}).write(folder)
    return load_study(folder)


def test_a_real_gain_is_found(tmp_path):
    def scores(record, generator):
        return generator.random(120) < (0.9 if record.tau == 0.9 else 0.4)

    found = judge(_study(tmp_path, "real", scores))
    assert found.best.tau == 0.9
    assert found.verdict == "tuning-sensitive"
    assert found.gain.mean == pytest.approx(0.5, abs=0.12)


def test_luck_is_no_gain(tmp_path):
    noise = judge(_study(tmp_path / "noise", "noise", lambda _, generator: generator.random(120) < 0.5))
    assert noise.verdict == "undecided"
    equal = judge(_study(tmp_path / "equal", "equal", lambda *_: np.full(120, 0.5)))
    assert equal.verdict == "portable"
    assert equal.gain.mean == 0


def test_choosing_and_judging_use_different_examples(tmp_path):
    """A setting that is perfect on the choosing half alone gains nothing on the other."""

    def scores(record, _):
        return np.where(np.arange(120) % 2 == 0, 1.0 if record.tau == 0.9 else 0.5, 0.5)

    found = judge(_study(tmp_path, "half", scores))
    assert found.best.tau == 0.9
    assert found.gain.mean == 0
    assert found.verdict == "portable"


def test_one_page_for_all_tasks(tmp_path):
    for name in ("a", "b"):
        _study(tmp_path / name, f"<{name}>", lambda *_: np.full(120, 0.5))
    written = rebuild(tmp_path)
    assert [task.task for task in written.tasks] == ["<a>", "<b>"]
    page = (tmp_path / "portability.html").read_text()
    assert "2 portable" in page
    assert "&lt;a&gt;" in page
    assert (tmp_path / "tables" / "portability.tex").exists()
    assert written.terminal().count("portable") == 2


def test_a_folder_without_studies_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="holds no study"):
        build(tmp_path)


def test_a_setting_that_lost_a_seed_is_no_candidate(tmp_path):
    data = _study(tmp_path, "lost", lambda record, _: np.full(120, 1.0 if record.tau == 0.9 else 0.5))
    lost = [record for record in data.records if record.tau == 0.9 and record.plan.seed == 41]
    changed = [record.changed(status="diverged") if record in lost else record for record in data.records]
    write_trials(tmp_path, changed)
    assert judge(load_study(tmp_path)).best.tau != 0.9
