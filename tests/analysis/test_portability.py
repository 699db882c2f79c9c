"""Portability: what tuning gains is judged on examples that did not choose the setting."""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builders import ended, study, study_folder

from analysis.data.load import load_study
from analysis.studies.portability import build, judge
from grit.errors import ConfigError
from ray_jobs.design.plan import plan

SEEDS = (41, 42, 43)


def _study(folder, name, scores):
    """A study whose per-example scores are `scores(record, generator)` (120 examples)."""
    records = [ended(t.record) for t in plan(study(seeds=SEEDS, regimes=("step",)))]
    study_folder(folder, records, seeds=SEEDS, regimes=("step",))
    generator = np.random.default_rng(1)
    for record in records:
        path = folder / "predictions" / f"{record.trial_id}.parquet"
        rows = [row for row in pq.read_table(path).to_pylist() if row["kind"] == "retention"]
        task = [
            {**rows[0], "kind": "task", "example_id": f"e{i}", "score": float(s), "base_score": 0.0}
            for i, s in enumerate(scores(record, generator))
        ]
        pq.write_table(pa.Table.from_pylist([*task, *rows]), path)
    file = folder / "study.json"
    known = json.loads(file.read_text())
    known["config"]["task"]["name"] = name
    file.write_text(json.dumps(known))
    return load_study(folder)


def test_a_real_gain_is_found_and_luck_is_not(tmp_path):
    real = judge(
        _study(
            tmp_path / "real",
            "real",
            lambda r, g: (g.random(120) < (0.9 if r.tau == 0.9 else 0.4)).astype(float),
        )
    )
    assert (
        real.chosen.tau == 0.9
        and real.verdict == "tuning-sensitive"
        and real.gain.mean == pytest.approx(0.5, abs=0.12)
    )
    equal = judge(_study(tmp_path / "equal", "equal", lambda r, _: np.full(120, 0.5)))
    assert equal.verdict == "portable" and equal.gain.mean == 0
    noise = judge(_study(tmp_path / "noise", "noise", lambda r, g: (g.random(120) < 0.5).astype(float)))
    assert noise.verdict == "undecided"


def test_choosing_and_judging_use_different_examples(tmp_path):
    """A setting that is perfect on the choosing half alone gains nothing on the other."""

    def scores(record, _):
        return np.where(np.arange(120) % 2 == 0, 1.0 if record.tau == 0.9 else 0.5, 0.5)

    found = judge(_study(tmp_path, "half", scores))
    assert found.chosen.tau == 0.9 and found.gain.mean == 0 and found.verdict == "portable"


def test_one_page_for_all_tasks(tmp_path):
    for name in ("a", "b"):
        _study(tmp_path / name, f"<{name}>", lambda r, _: np.full(120, 0.5))
    found = build(tmp_path)
    page = (tmp_path / "portability.html").read_text()
    assert (
        len(found) == 2
        and "2 portable" in page
        and "&lt;a&gt;" in page
        and (tmp_path / "tables" / "portability.tex").exists()
    )
    with pytest.raises(ConfigError, match="holds no study"):
        build(tmp_path / "a")


def test_a_setting_that_lost_a_seed_is_no_candidate(tmp_path):
    data = _study(tmp_path, "lost", lambda r, _: np.full(120, 1.0 if r.tau == 0.9 else 0.5))
    data.records[:] = [
        replace(r, status="diverged") if r.tau == 0.9 and r.seed == 41 else r for r in data.records
    ]
    assert judge(data).chosen.tau != 0.9
