"""fANOVA on planted functions: the knob that moves an objective has the share."""

import pytest
from builders import ended, planned, study, study_folder

from analysis.evidence.load import load_study
from analysis.evidence.point_summary import summarize_points
from analysis.studies.knob_axes.importance import importance_table, importances_of
from ray_jobs.design.points import grid

GRID = {"tau": (0.9, 0.95, 0.99), "T": (2, 5, 10), "lambda": (1e-3, 1e-2, 1e-1)}


def _points(folder, outcome, grids=GRID):
    design = {"seeds": (41,), "regimes": ("step",), "oat": grid(grids)}
    records = [ended(record, **outcome(record)) for record in planned(study(**design))]
    study_folder(folder, records, **design)
    return summarize_points(load_study(folder).records)


def _outcome(record):
    """Quality follows lambda alone, footprint tau alone; overhead and retention are the same everywhere."""
    if record.tau is None:
        return {}
    return {"quality": 0.5 + (0.2 if record.lambda_ > 5e-3 else 0.0), "footprint": 8 * record.tau - 7}


def test_what_moves_an_objective_has_its_share(tmp_path):
    rows = {row.objective: row for row in importances_of(_points(tmp_path, _outcome), "step")}
    assert rows["quality"].shares["lambda"] > 0.9
    assert rows["footprint"].shares["tau"] > 0.9
    assert set(rows) == {"quality", "footprint"}
    for row in rows.values():
        assert sum(row.shares.values()) == pytest.approx(1)
        assert row.settings == 27


def test_few_settings_and_a_single_knob_say_nothing(tmp_path):
    few = {name: values[:1] for name, values in GRID.items()} | {"tau": GRID["tau"], "T": GRID["T"][:2]}
    assert importances_of(_points(tmp_path / "few", _outcome, few), "step") == []
    taus = tuple(0.9 + 0.01 * number for number in range(9))
    single = {"tau": taus, "T": (5,), "lambda": (1e-3,)}
    assert importances_of(_points(tmp_path / "single", _outcome, single), "step") == []


def test_the_table_has_a_column_for_each_knob(tmp_path):
    table = importance_table(importances_of(_points(tmp_path, _outcome), "step"))
    headers = [column.header for column in table.columns]
    assert headers == ["regime", "objective", "settings", *GRID]
    assert len(table.rows) == 2
